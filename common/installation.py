"""Find the version of this installation, and the command that adds packages to it.

If uv made the installation or pip is missing, the command is uv. Otherwise, and if uv is not
installed, the command is pip, which Python can add to an environment without pip.
"""

import json
import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "open-diht"


def program_version() -> str:
    """Return the installed version of this program, or "0" in a checkout that is not installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "0"


def remedy(*extras: str) -> str:
    """Return the command that installs these extras, or the base package without any."""
    return install_command(*_requirement(f"[{','.join(extras)}]" if extras else ""))


def install_command(*requirements: str) -> str:
    command = shlex.join([*_installer(), *requirements])
    if find_spec("pip") or uv_command():
        return command
    if find_spec("ensurepip"):
        return f"{shlex.join([_python(), '-m', 'ensurepip'])} && {command}"
    return f"install uv (https://docs.astral.sh/uv/), then: {command}"


def uv_command() -> list[str] | None:
    """Return the command that starts uv: the program on PATH, or the module. Return None if neither
    is installed."""
    if found := shutil.which("uv"):
        return [found]
    return [sys.executable, "-m", "uv"] if find_spec("uv") else None


def _requirement(extras: str) -> list[str]:
    """Return the installer arguments that name this distribution with extras."""
    record = _direct_url()
    if record is None:
        return [f"{NAME}{extras}"]
    url = str(record["url"])
    if "dir_info" in record:
        editable = ["-e"] if record["dir_info"].get("editable") else []
        return [*editable, f"{url2pathname(urlsplit(url).path)}{extras}"]
    if vcs := record.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs.get('requested_revision') or vcs['commit_id']}"
    if folder := record.get("subdirectory"):
        url = f"{url}#subdirectory={folder}"
    return [f"{NAME}{extras} @ {url}"]


def _direct_url() -> dict[str, Any] | None:
    """Return the origin of the installation, in the form of direct_url.json. Return None if it came
    from an index."""
    for found in distributions(name=NAME):  # a checkout's egg-info may come before pip's metadata
        if text := found.read_text("direct_url.json"):
            return dict(json.loads(text))
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "setup.py").is_file():  # the code runs from a checkout on PYTHONPATH
        return {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    return None


def _installer() -> list[str]:
    """Return `pip install` or `uv pip install` for this environment, as a user would type it."""
    by_uv = any(
        (found.read_text("INSTALLER") or "").strip() == "uv" for found in distributions(name=NAME)
    )
    uv = uv_command() or ([] if find_spec("pip") or find_spec("ensurepip") else ["uv"])
    if uv and (by_uv or not find_spec("pip")):
        shown = ["uv"] if len(uv) == 1 else [_python(), *uv[1:]]
        active = os.environ.get("VIRTUAL_ENV") == sys.prefix
        return [*shown, "pip", "install", *(() if active else ("--python", sys.executable))]
    return [_python(), "-m", "pip", "install"]


def _python() -> str:
    return "python" if shutil.which("python") == sys.executable else sys.executable
