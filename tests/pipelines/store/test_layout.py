"""Where things lie: the folder of this machine beside an output folder in a store."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from open_diht.pipelines.store.layout import Layout


def test_a_user_without_a_name_has_a_scratch_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that is told to run as some number."""

    def nobody(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    one, other = (Layout(UPath(f"memory://{name}")).scratch for name in ("one", "other"))
    assert isinstance(one, Path) and one.is_absolute() and one != other


def test_an_output_folder_on_a_disk_is_its_own_scratch_folder(tmp_path: Path) -> None:
    assert Layout(tmp_path).scratch == tmp_path / "work"
