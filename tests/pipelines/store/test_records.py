"""What is done stays done only while its files are there: what is deleted, cut short or garbled is
made again."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.manifests.plan import PlanMismatch
from open_diht.pipelines.store.commit import RunFailed, publish_bytes, publish_json, read_json
from open_diht.pipelines.store.layout import KINDS, Layout
from open_diht.pipelines.store.records import (
    CaptionRecord,
    CommitRecord,
    DecideRecord,
    ExportRecord,
    PlanRecord,
    Vouched,
    WholeRunRecord,
    caption_record,
    publish_record,
)
from open_diht.pipelines.store.shapes import conforms

STAGES = ("captions", "dedup", "export")
RESULTS = ("kept", "rejected", "shards", "subset.npy")
UNIT = "00000-00001"


@pytest.fixture(scope="module")
def done(pairs, tmp_path_factory, filtering) -> Any:
    """`pairs` without Text-spotting, in several units; do not change its output."""
    return filtering(pairs, tmp_path_factory.mktemp("done") / "out", unit_rows=15, stages=STAGES)


@pytest.fixture
def copy(done: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(done.output, tmp_path / "out"))


def results(output: Path) -> dict[str, bytes]:
    """What must be equal to the byte."""
    places = [path for name in RESULTS for path in (output / name, *(output / name).glob("*"))]
    return {str(path.relative_to(output)): path.read_bytes() for path in places if path.is_file()}


WHOLE = {
    "kept": "decide:", "rejected": "decide:", "work/decide/data": "decide:",
    f"shards/{UNIT}-000.tar": "export: the files of 1 unit ",
    f"kept/part-{UNIT}.parquet": "decide: the files of 1 unit are missing or damaged",
    "work/captions/data": "captions: the files of 4 units are missing or damaged",
    "work/pair_keys/data": "pair_keys:", "work/pair_duplicates/data": "pair_duplicates:",
    "work/image_duplicates/data": "image_duplicates:", "shards": "export: the files of 4 units",
    **dict.fromkeys(("shards/manifest.json", "shards/sizes.json", "run.json",
                     "work/decide/commits"), ""),
}  # fmt: skip
"""What is taken away, and how a line begins that tells of it."""
DAMAGED = {
    f"kept/part-{UNIT}.parquet": lambda content: content[:-100],
    f"work/captions/data/{UNIT}.parquet": lambda content: content[:200],
    f"work/pair_keys/data/{UNIT}.slices": lambda content: content[:40],
    f"shards/{UNIT}-000.tar": lambda content: content[:5_000],
    f"work/captions/commits/{UNIT}.json": lambda content: b"",
    f"work/decide/commits/{UNIT}.json": lambda content: content[:60],
    f"work/export/commits/{UNIT}.json": lambda content: b"[]",
    "work/exported.json": lambda content: b"",
    "funnel.json": lambda content: content[: len(content) // 2],
    "subset.npy": lambda content: b"",
    "report.html": lambda content: content[:100],
}


@pytest.mark.parametrize(("name", "damage"), [*((name, None) for name in WHOLE), *DAMAGED.items()])
def test_what_is_taken_away_cut_short_or_garbled_is_made_again(
    name, damage, copy, done, pairs, filtering
):
    if damage:
        (copy / name).write_bytes(damage((copy / name).read_bytes()))
    else:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    again = filtering(pairs, copy, unit_rows=15, stages=STAGES)
    assert again.status == 0 and (copy / name).exists() and results(copy) == results(done.output)
    assert (copy / "report.html").exists() and (copy / "run.json").exists()
    assert json.loads((copy / "funnel.json").read_text())["kept"] == done.funnel["kept"]
    assert not any("nothing to do: " in line for line in again.said)
    assert damage or any(line.startswith(WHOLE[name]) for line in again.said), again.said
    assert "nothing to do: " in filtering(pairs, copy, unit_rows=15, stages=STAGES).said[0]


def test_damaged_parts_of_the_same_size_have_a_remedy(
    copy: Path, pairs: Path, done: Any, command: Any
) -> None:
    """As many may be after a power failure. All are found at once."""
    parts = sorted((copy / "kept").glob("part-*.parquet"))[:2]
    for part in parts:
        part.write_bytes(bytes(part.stat().st_size))
    arguments = [
        "--dataset",
        "custom",
        "--input",
        pairs,
        "--output",
        copy,
        "--unit-rows",
        "15",
        "--workers",
        "1",
    ]
    arguments += ["--stages", ",".join(STAGES)]
    ended = command(*arguments)
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 1 and all(f"{part} is damaged" in last for part in parts), (
        ended.stderr
    )
    assert "Traceback" not in ended.stderr and last.endswith(
        "Run the same command to write them again"
    )
    assert command(*arguments).returncode == 0 and results(copy) == results(done.output)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}"])
def test_a_garbled_plan_is_an_error_with_a_remedy(content, copy, pairs, filtering):
    (copy / "work" / "plan.json").write_bytes(content)
    with pytest.raises(
        PlanMismatch, match=r"plan\.json is not a valid plan.*choose another OUTPUT"
    ):
        filtering(pairs, copy, unit_rows=15, stages=STAGES)


def test_a_plan_that_is_gone_is_not_replaced(copy, pairs, filtering):
    """Another one may cut the input otherwise, and units of the same names be of other rows."""
    (copy / "work" / "plan.json").unlink()
    with pytest.raises(WrongUse, match=r"plan\.json is missing.*choose another OUTPUT"):
        filtering(pairs, copy, unit_rows=30, stages=STAGES)
    assert not (copy / "work" / "plan.json").exists()


@pytest.mark.parametrize(
    "stages", [("captions", "spotting", "dedup", "export"), ("captions", "dedup", "export")]
)
def test_readings_of_images_that_are_gone(stages, pairs, paper, tmp_path, filtering):
    """Where spotting is asked for they are made again; where it is not, nobody looks for them."""
    output = Path(shutil.copytree(paper.output, tmp_path / "out"))
    shutil.rmtree(output / "work" / "spotting" / "data")
    again = filtering(pairs, output, unit_rows=15, stages=stages)
    assert again.status == 0 and any(
        line.startswith("spotting: the files of") for line in again.said
    )
    if "spotting" in stages:
        assert again.tables() == paper.tables()


def test_a_run_writes_what_the_types_of_its_records_say(paper: Any) -> None:
    layout = Layout(paper.output)
    assert conforms(read_json(layout.plan), PlanRecord)
    assert conforms(read_json(layout.root / "run.json"), WholeRunRecord)
    kinds = {"captions": CaptionRecord, "decide": DecideRecord, "export": ExportRecord}
    records = [*layout.work.glob("*/commits/*.json"), layout.exported]
    assert {path.parent.parent.name for path in records} > {*kinds, "spotting"}
    for path in records:
        assert conforms(read_json(path), CommitRecord), path
        assert conforms(read_json(path), kinds.get(path.parent.parent.name, CommitRecord)), path


def test_a_record_of_captions_that_is_gone_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"unit u of stage captions .* run the same command"):
        caption_record(Layout(tmp_path), "u")


def test_a_record_vouches_for_the_files_that_are_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    publish_json(layout.plan, {})
    (tmp_path / "kept").mkdir()
    layout.part("kept", "u").write_bytes(b"1234")
    path = layout.commit("decide", "u")
    publish_record(layout, path, {"unit": "u"}, [layout.part(kind, "u") for kind in KINDS])
    record = Vouched(layout).current(path)
    assert record == {"unit": "u", "files": {"kept/part-u.parquet": 4}}
    publish_bytes(layout.part("rejected", "u"), b"56789")
    publish_record(layout, path, record, [layout.part("rejected", "u")])
    hashes = Vouched(layout).current(path)["hashes"]
    assert hashes == {"rejected/part-u.parquet": hashlib.sha256(b"56789").hexdigest()}
    publish_record(layout, path, record, [layout.plan])
    assert set(Vouched(layout).current(path)["files"]) == {"kept/part-u.parquet", "work/plan.json"}
    layout.part("kept", "u").write_bytes(b"123")
    assert not Vouched(layout).current(path) and Vouched(layout).read(path)
    layout.plan.unlink()
    with pytest.raises(RunFailed, match=f"OUTPUT {tmp_path} was removed"):
        publish_record(layout, path, record, [])


def test_only_the_record_that_was_judged_is_retracted(tmp_path: Path) -> None:
    """Another shard may have replaced it since it was read, and its files with it."""
    path = Layout(tmp_path).commit("decide", "u")
    vouched = Vouched(Layout(tmp_path))
    stale: Any = {"unit": "u", "token": "a"}
    fresh: Any = {"unit": "u", "token": "b"}
    publish_json(path, fresh)
    assert not vouched.retract(path, stale) and vouched.read(path) == fresh
    assert vouched.retract(path, fresh) and not path.exists()
    assert not vouched.retract(path, fresh), "another shard has deleted it"
