"""Data flows one way: the evaluation knows the trainer only where it loads a model, and nothing further upstream."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "eval"
UPSTREAM = {"pipelines", "filters", "apache_beam", "spacy", "paddleocr"}


def imported(path: Path) -> set[str]:
    """First names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_nothing_upstream_is_imported_and_the_trainer_only_to_load_a_model() -> None:
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 30
    assert {path.name: imported(path) & UPSTREAM for path in files if imported(path) & UPSTREAM} == {}
    assert [str(path.relative_to(ROOT)) for path in files if "trainer" in imported(path)] == ["models/__init__.py"]


def test_the_network_is_touched_by_the_fetching_part_alone() -> None:
    clients = {"requests", "urllib", "http", "socket", "huggingface_hub", "fsspec"}
    users = {str(path.relative_to(ROOT).parts[0]) for path in ROOT.rglob("*.py") if imported(path) & clients}
    assert users == {"fetch"}
