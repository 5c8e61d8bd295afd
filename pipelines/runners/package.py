"""Package the code that workers run as a wheel for staging, and compute a digest of it to compare versions."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from open_diht.common.installation import program_version

_RUN_BY_WORKERS = ("common", "filters", "pipelines")
_KINDS = (".css", ".j2", ".js", ".json", ".npz", ".onnx", ".py", ".tsv", ".txt", ".yaml")


def code_files() -> dict[str, Path]:
    """Return the code and data files of the folders that workers use, sorted, by names relative to `open_diht`."""
    tops = Path(__file__).resolve().parents[2]
    paths = (path for top in _RUN_BY_WORKERS for path in (tops / top).rglob("*") if path.suffix in _KINDS)
    package = Path(find_spec("open_diht").origin)  # type: ignore[union-attr, arg-type]
    return {package.name: package, **{path.relative_to(tops).as_posix(): path for path in sorted(paths)}}


@cache
def build_wheel() -> Path:
    """Return a wheel of that code, built once per process, for workers that have its dependencies but not this
    project."""
    folder = Path(tempfile.mkdtemp(prefix="diht-wheel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    version = program_version()
    path, about = folder / f"open_diht-{version}-py3-none-any.whl", f"open_diht-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, file in code_files().items():
            wheel.write(file, f"open_diht/{name}")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: open-diht\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


@cache
def code_digest() -> str:
    """Return a hash of that code, 12 hex digits, computed on the first call: later changes on disk do not affect what
    this process has imported."""
    digest = hashlib.sha256()
    for name, path in code_files().items():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
