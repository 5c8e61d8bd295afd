"""What features are keyed to, and what is done where a library computes another teacher of the same
weights."""

import json

import numpy as np
import pytest

from open_diht.common import devices
from open_diht.common.command_line import WrongUse
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.teachers import identity
from open_diht.pipelines.teachers.identity import precision_of, record_path, seen, settle
from open_diht.pipelines.teachers.teacher import Teacher, find_teacher


@pytest.fixture
def teacher(tiny: tuple[str, str]) -> Teacher:
    return find_teacher(*tiny)


def test_another_version_of_torch_makes_nothing_anew(filtered, make, monkeypatch):
    data = filtered.write([4])
    make(data)
    commit = data / "concepts/work/features/commits/00000-00000-000.json"
    stamp = commit.stat().st_mtime_ns
    monkeypatch.setattr(Teacher, "versions", lambda self: {"torch": "9.9"})
    assert make(data)[0] == 0 and commit.stat().st_mtime_ns == stamp
    about = json.loads((data / "concepts" / "concepts.json").read_text())
    assert about["versions"] == {"torch": "9.9"} and about["teacher"]["precision"] in (
        "bf16",
        "fp32",
    )
    assert not any("version" in key for key in about["teacher"])


def test_the_fixed_image_tells_another_preprocessing(tmp_path, teacher):
    layout = Layout(tmp_path)
    sees = seen(teacher)
    settle(layout, teacher, "auto", "cpu", sees)
    settle(layout, teacher, "auto", "cpu", sees * (1 + 1e-4))  # another processor
    loaded = teacher.load()
    half = identity._fixed().resize((200, 150))
    # As another interpolation would.
    other = loaded.features([loaded.transform(half.resize((400, 300)))])[0]
    with pytest.raises(
        WrongUse, match=r"with timm .* and torch .* computes other features than those in .*, wh"
    ):
        settle(layout, teacher, "auto", "cpu", other)
    with pytest.raises(WrongUse, match="Install those versions, or choose another OUTPUT"):
        settle(layout, teacher, "auto", "cpu", sees[:-1])


def test_the_folder_says_the_precision_where_nobody_else_does(tmp_path, teacher, monkeypatch):
    layout = Layout(tmp_path)
    sees = np.ones(3, np.float32)
    monkeypatch.setattr("open_diht.common.devices.computes_bf16", lambda device: device == "cuda")
    assert (
        precision_of(layout, teacher, "auto", "cuda")
        == "bf16"
        != precision_of(layout, teacher, "auto", "cpu")
    )
    settle(layout, teacher, "auto", "cuda", sees)
    assert precision_of(layout, teacher, "auto", "cpu") == "bf16"
    settle(layout, teacher, "auto", "cpu", sees)  # another machine of the same run
    assert json.loads(record_path(layout).read_text())["precision"] == "bf16"
    settle(layout, teacher, "fp32", "cuda", sees)
    assert precision_of(layout, teacher, "auto", "cuda") == "fp32"


def test_another_precision_is_another_feature(filtered, make):
    data = filtered.write([4])
    make(data, precision="fp32")
    commit = data / "concepts/work/features/commits/00000-00000-000.json"
    before = json.loads(commit.read_text())["fingerprint"]
    if devices.computes_bf16("cpu"):
        rows = np.load(data / "concepts/work/features/data/00000-00000-000.npy").astype(np.float32)
        make(data, precision="bf16")
        assert json.loads(commit.read_text())["fingerprint"] != before
        halved = np.load(data / "concepts/work/features/data/00000-00000-000.npy").astype(
            np.float32
        )
        assert not np.array_equal(rows, halved)
        assert np.linalg.norm(rows - halved) < 0.05 * np.linalg.norm(rows)
