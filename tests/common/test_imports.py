"""The ground stands on nothing of ours, and on little of others."""

import sys
from pathlib import Path

from tests.imports import packages

ROOT = Path(__file__).resolve().parents[2] / "common"
LITTLE = {"common", "yaml", "jinja2", "markupsafe", "PIL", "numpy", "tqdm"}
MORE = {
    "devices.py": {"torch"},
    "encoders.py": {"huggingface_hub", "transformers", "open_clip", "safetensors"},
    "hub.py": {"huggingface_hub"},
    "ranks.py": {"torch"},
    "reference_encoder.py": {"torch", "timm", "transformers", "open_clip"},
    "stores.py": {"fsspec"},
}
"""Files that nobody imports who does without these."""


def test_it_needs_nothing_of_the_project_and_little_else() -> None:
    for path in ROOT.rglob("*.py"):
        allowed = LITTLE | MORE.get(path.name, set())
        assert packages(path) - sys.stdlib_module_names <= allowed, path
