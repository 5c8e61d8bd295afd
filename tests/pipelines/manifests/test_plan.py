"""What a plan takes as input, and what it refuses before anything is written."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import BadSchema, NoInput, info_of, read
from open_diht.pipelines.manifests.plan import (
    Plan,
    PlanMismatch,
    keep_plan,
    load_plan,
    make_plan,
    part_of,
    units_of,
)
from open_diht.pipelines.store.layout import Layout

CUSTOM = load_dataset("custom")


def test_results_are_no_input_through_a_link_either(tmp_path: Path) -> None:
    table = pa.table({"caption": ["a dog"], "url": ["http://1"]})
    for name in ("set/a.parquet", "set/out/old/part-0.parquet"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    (tmp_path / "out").symlink_to(tmp_path / "set" / "out")
    for output in ("set/out", "link/out", "out"):
        plan = make_plan(f"{tmp_path}/link/**/*.parquet", CUSTOM, 1, output=tmp_path / output)
        assert [Path(entry["path"]).name for entry in plan.files] == ["a.parquet"]


def test_a_format_that_no_file_has_is_wrong_use(tmp_path: Path) -> None:
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_bytes(b"caption\turl\na dog\thttp://1\n")
    parquet = CUSTOM.with_roles(format="parquet")
    with pytest.raises(
        BadSchema, match=r"none of 2 input files can be read as parquet, the format given.*a\.tsv"
    ):
        make_plan(f"{tmp_path}/*.tsv", parquet, 1)
    pq.write_table(pa.table({"caption": ["a dog"], "url": ["http://1"]}), tmp_path / "b.tsv")
    assert [entry["error"] for entry in make_plan(f"{tmp_path}/*.tsv", parquet, 1).unreadable] == [
        "NotParquet"
    ]


def test_a_folder_of_images_that_is_none_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"caption\timage_path\na dog\t1.png\n")
    for root in (tmp_path / "none", tmp_path / "a.tsv"):
        with pytest.raises(NoInput, match=rf"--images-root '{root}' is not a folder"):
            make_plan(f"{tmp_path}/a.tsv", CUSTOM.with_roles(images_root=str(root)), 1)
    make_plan(f"{tmp_path}/a.tsv", CUSTOM.with_roles(images_root=str(tmp_path)), 1)


def _kept(folder: Path, pattern: str = "*", rows: int = 3) -> Plan:
    output = folder / "out"
    return keep_plan(
        Layout(output).plan, make_plan(f"{folder}/in/{pattern}", CUSTOM, 1, rows, output)
    )


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, no manifest can be looked at."""

    def refuse(path: str, dataset: object) -> NoReturn:
        raise AssertionError(f"{path} is looked at")

    return lambda: monkeypatch.setattr("open_diht.pipelines.manifests.reader._look", refuse)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    rows = [{"caption": f"a dog runs {n}", "url": f"http://127.0.0.1/{n}"} for n in range(9)]
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    (folder / "c.csv").write_text(
        "caption,url\n" + "".join(f'"{row["caption"]}",{row["url"]}\n' for row in rows)
    )
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_second_look_is_none(inputs: Path, unseen: Callable[[], None]) -> None:
    plan = _kept(inputs)
    assert len(plan.units) == 3 + 3 + 1 + 3
    unseen()
    again = _kept(inputs)
    assert again == plan and again.infos == plan.infos
    loaded = load_plan(Layout(inputs / "out").plan)
    assert loaded == plan
    for unit in loaded.units:
        assert info_of(unit.span, CUSTOM) is unit.span.info, "workers do not look either"


THEIRS = ["README.md", "run.json", "kept/mine.parquet", "shards/00000.tar", "work/.tmp-notes.txt"]


@pytest.mark.parametrize(
    "name", [*THEIRS, "work/project/commits/mine.json", "work/shards/00000.tar"]
)
def test_a_folder_with_files_of_others_that_a_run_would_write_over_is_refused(
    inputs: Path, name: str
) -> None:
    theirs = inputs / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("{}")
    taken = "work/project" if "project" in name else name
    with pytest.raises(
        WrongUse, match=rf"out holds {re.escape(taken)}, .* another OUTPUT, or move it away"
    ):
        _kept(inputs)
    assert [path for path in (inputs / "out").rglob("*") if path.is_file()] == [theirs]
    theirs.rename(inputs / "out" / "notes.txt")
    shutil.rmtree(inputs / "out" / name.partition("/")[0], ignore_errors=True)
    _kept(inputs)
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("a result")
    _kept(inputs)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("report.html/x", "is a folder, and a run writes a file there"),
        ("work/lock/x", "is a folder, and a run writes a file there"),
        ("rejected", "is a file, and a run writes a folder there"),
        ("work", "is a file, and a run writes a folder there"),
    ],
)
def test_a_file_where_a_folder_is_written_is_refused(inputs: Path, name: str, says: str) -> None:
    theirs = inputs / "out" / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("mine")
    with pytest.raises(WrongUse, match=says):
        _kept(inputs)
    assert theirs.read_text() == "mine"


def test_a_folder_that_is_no_place_for_results_is_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    (tmp_path / "loop").symlink_to("loop")
    for output, says in {
        "/": "root of the file system",
        f"{tmp_path}/home/../home": "home folder",
        f"{tmp_path}/link": "home folder",
        f"{tmp_path}/loop": "Too many levels",
        f"{tmp_path}/{'x' * 256}": "File name too long",
        f"{tmp_path}/{'x/' * 2_000}": "File name too long",
        f"{tmp_path}/caf\udce9": "not UTF-8",
    }.items():
        with pytest.raises(WrongUse, match=says):
            make_plan(f"{inputs}/in/*", CUSTOM, 1, 3, Path(output))
    assert not [*(tmp_path / "home").iterdir()]


def test_what_was_touched_is_looked_at_again(inputs: Path) -> None:
    plan = _kept(inputs)
    path = inputs / "in" / "a.parquet"
    os.utime(path, ns=(1, 1))
    assert [sum(batch.rows for batch in read(unit.span, CUSTOM)) for unit in plan.units[:3]] == [
        3,
        3,
        3,
    ]
    touched = _kept(inputs)
    assert touched.units == plan.units and touched.infos[0].stamp != plan.infos[0].stamp
    status = path.stat()
    path.write_bytes(b"\xff" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    broken = make_plan(f"{inputs}/in/*", CUSTOM, 1, 3, inputs / "out")
    assert [Path(entry["path"]).name for entry in broken.unreadable] == ["a.parquet"]


def test_what_was_touched_is_not_looked_at_a_third_time(
    inputs: Path, unseen: Callable[[], None]
) -> None:
    _kept(inputs)
    os.utime(inputs / "in" / "a.parquet", ns=(1, 1))
    touched = _kept(inputs)
    unseen()
    assert _kept(inputs).infos == touched.infos


def test_what_is_read_otherwise_is_looked_at_again(inputs: Path) -> None:
    _kept(inputs, "c.csv")
    with pytest.raises(BadSchema, match="no column for the caption"):
        make_plan(f"{inputs}/in/c.csv", CUSTOM.with_roles(delimiter=";"), 1, 3, inputs / "out")


@pytest.mark.parametrize(
    "other",
    [
        {"delimiter": ";"},
        {"caption_list": "refuse"},
        {"aliases": {"caption": ("alt",)}},
        {"swap_size": True, "images_root": "."},
    ],
)
def test_a_plan_whose_rows_are_read_otherwise_is_refused(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """Each row is valid with either delimiter and either caption. Where images lie changes no
    row."""
    (tmp_path / "a.csv").write_text("a dog runs,a cat;1.jpg,1;x\na cow eats,a hen;2.jpg,2;y\n")
    aliases = {"caption": ("caption",), "image_path": ("image_path",)}
    first = replace(
        CUSTOM, header=False, columns=("caption", "alt", "image_path"), needs=(), aliases=aliases
    )
    path = Layout(tmp_path / "out").plan
    plan = keep_plan(path, make_plan(f"{tmp_path}/a.csv", first, 1, 3, tmp_path / "out"))
    again = make_plan(f"{tmp_path}/a.csv", replace(first, **other), 1, 3, tmp_path / "out")
    if "images_root" in other:
        assert keep_plan(path, again).units == plan.units
        return
    with pytest.raises(
        PlanMismatch,
        match=r"differs: which files can be read, or how they are read.*another OUTPUT",
    ):
        keep_plan(path, again)
    assert load_plan(path) == plan


def test_a_plan_of_an_earlier_version_is_read(inputs: Path) -> None:
    plan = _kept(inputs)
    path = Layout(inputs / "out").plan
    content = json.loads(path.read_text())
    del content["inspected"]
    path.write_text(json.dumps(content))
    early = load_plan(path)
    assert early.units == plan.units and early.infos == () and early.units[0].span.info is None
    assert sum(batch.rows for unit in early.units for batch in read(unit.span, CUSTOM)) == 4 * 9
    assert _kept(inputs) == plan and json.loads(path.read_text())["inspected"]


def test_a_plan_holds_what_was_seen_once_a_file(inputs: Path) -> None:
    plan = _kept(inputs, "*.parquet", rows=1)
    content = json.loads(Layout(inputs / "out").plan.read_text())
    assert len(content["units"]) == 18 and len(content["inspected"]["files"]) == 2
    assert len(content["inspected"]["alike"]) == 1
    assert all("info" not in entry["span"] for entry in content["units"])
    assert part_of(plan, plan.units[:1]).infos == plan.infos


@pytest.mark.parametrize(
    ("rows", "cores", "unit_rows", "units"),
    [
        (None, 1, 1_000, 9 + 1),
        (None, 1, None, 4 + 1),  # at most 2,500 rows, by cores
        (None, 64, None, 5 + 1),  # no fewer than 2,000 rows
        (1_000_000, 1, None, 200),  # a hundred times two files, each smaller than a unit
        (1_000, 1, 100, 10),
        (1, 1, None, 1),
    ],
)
def test_units_of_more_rows_are_those_of_more_such_files(rows, cores, unit_rows, units, tmp_path):
    pq.write_table(pa.table({"caption": ["a"] * 9_000}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"caption": ["a"] * 1_000}), tmp_path / "b.parquet")
    plan = make_plan(str(tmp_path), CUSTOM, 2)
    assert units_of(plan, rows, cores, unit_rows) == units
    if rows is None:
        assert len(make_plan(str(tmp_path), CUSTOM, cores, unit_rows).units) == units
