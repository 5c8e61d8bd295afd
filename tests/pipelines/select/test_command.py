"""`make select`: rows and repeats that a training reads exactly, and one line for everything
else."""

import json
import re
import shlex
import shutil
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht import cli
from open_diht.common.shard_index import uid_of_key, unpacked_keys
from open_diht.common.spelling import spelled
from open_diht.pipelines.manifests.formats import lines
from open_diht.pipelines.manifests.formats.jsonl import EXTRA
from open_diht.pipelines.select import command as select
from open_diht.pipelines.select.command import main
from open_diht.pipelines.select.soft import expected, ranks, weight_of
from open_diht.pipelines.settings import INDEX
from open_diht.pipelines.store import storage
from open_diht.pipelines.teachers.cli import main as concepts
from open_diht.pipelines.teachers.cosines import COSINE
from tests.pipelines.conftest import tar_of
from tests.tiny_clip import write_tiny

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
from open_diht.trainer.data import DataSettings, ShardLoader, Source  # noqa: E402

STAGES = ("captions", "export")


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory, captions: list[str], draw: Any) -> Path:
    """Two tars of 40 and 20 samples; do not change them."""
    folder = tmp_path_factory.mktemp("tars")
    for name, numbers in (("00000", range(40)), ("00001", range(40, 60))):
        members: list[tuple[str, bytes]] = []
        for number in numbers:
            image = draw(
                folder / "image.png", size=(32 + number % 8, 32 + number // 8)
            ).read_bytes()
            meta = json.dumps(
                {"caption": captions[number], "uid": f"{number + 1:032x}", "one": 1}
            ).encode()
            members += [(f"{number:09d}.json", meta), (f"{number:09d}.png", image)]
            members += [(f"{number:09d}.txt", captions[number].encode())]
        tar_of(folder / f"{name}.tar", members)
    (folder / "image.png").unlink()
    return folder


@pytest.fixture(scope="module")
def indexed(filtering: Any, tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An output that leaves the tars where they are; only its selection/ may be changed."""
    return filtering(
        tars, tmp_path_factory.mktemp("indexed") / "out", stages=STAGES, unit_rows=15, export=INDEX
    )


@pytest.fixture(scope="module")
def exported(filtering: Any, tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return filtering(tars, tmp_path_factory.mktemp("exported") / "out", stages=STAGES, unit_rows=15)


def selected(output: Path, samples: int, *words: str) -> dict[str, int]:
    assert main(["--output", str(output), "--samples", str(samples), *words]) == 0
    table = pq.read_table(output / "selection" / "selection.parquet").to_pydict()
    listed = np.load(output / "selection" / "selection.npy")
    times = dict(zip(table["uid"], table["repeats"], strict=True))
    assert Counter(f"{high:016x}{low:016x}" for high, low in listed.tolist()) == times
    return times


def read(data: Path, selection: Path, cache: Path) -> Counter[str]:
    """How often an epoch of the trainer reads each uid."""
    where: dict[str, Any] = {"selection": str(selection), "index_folder": str(cache)}
    settings = DataSettings(sources=(Source(path=str(data)),), workers=0, **where)
    loader = ShardLoader(
        settings,
        batch_size=1,
        transform=lambda image: torch.zeros(3, 2, 2),
        tokenizer=lambda texts: torch.zeros(len(texts), 1, dtype=torch.int64),
    )
    with closing(loader):
        assert "0 are missing" in loader.remarks[0]
        return Counter(key for batch in loader.epoch(0) for key in batch.keys)


def test_a_training_reads_rejected_rows_too_as_often_as_selected(
    indexed: Any, tmp_path: Path, capsys: Any
) -> None:
    times = selected(indexed.output, 270)
    kept, rejected = ({row["uid"] for row in indexed.rows(kind)} for kind in ("kept", "rejected"))
    assert (
        sum(times.values()) == 270 and times.keys() == kept | rejected and max(times.values()) > 4
    )
    by_key = read(indexed.output / "selection", indexed.output / "selection", tmp_path)
    assert {f"{int(key) + 1:032x}": count for key, count in by_key.items()} == times
    mean = [np.mean([times[uid] for uid in uids]) for uids in (kept, rejected)]
    assert mean[0] - mean[1] == pytest.approx(2, abs=0.05)  # the delay of the law
    said = capsys.readouterr().out
    (command,) = re.findall("^train: (.*)$", said, re.MULTILINE)
    where = indexed.output / "selection"
    assert command == spelled(
        "train", f"data.selection={where}", "schedule.samples=270", data=where
    )
    assert "against all rows" in said and "docs/howto/select.md" in said


@pytest.mark.slow
def test_the_printed_command_trains_as_it_stands(indexed, tmp_path, monkeypatch, capsys):
    selected(indexed.output, 100)
    (command,) = re.findall("^train: (.*)$", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(command)[1:]) == 0
    assert (tmp_path / "out" / "train" / "export" / "open_clip_config.json").is_file()
    assert "2 steps, 100 samples" in capsys.readouterr().out


def test_units_that_kept_nothing_are_no_obstacle(
    tmp_path: Path, filtering: Any, captions: list[str]
) -> None:
    for name, some in (("0.tsv", captions[:8]), ("1.tsv", ["red car", "blue car"])):
        lines = (f"{text}\thttp://127.0.0.1/{name}/{number}\n" for number, text in enumerate(some))
        (tmp_path / name).write_text("caption\turl\n" + "".join(lines))
    run = filtering(f"{tmp_path}/*.tsv", tmp_path / "out", stages=("captions",))
    kept = {row["uid"] for row in run.rows("kept")}
    assert kept and selected(tmp_path / "out", len(kept)).keys() == kept


def test_nothing_is_selected_from_an_output_that_a_run_takes_meanwhile(
    tmp_path: Path,
    filtering: Any,
    captions: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """The folder may have been removed and made again since its rows were read, as during a
    pause."""
    (tmp_path / "a.tsv").write_text("caption\n" + "".join(f"{text}\n" for text in captions[:8]))
    output = filtering(tmp_path / "a.tsv", tmp_path / "out", stages=("captions",)).output
    decided = select._decided

    def taken(layout: Any) -> Any:
        found = decided(layout)
        (output / "work" / "lock").write_bytes(b"another")
        return found

    monkeypatch.setattr(select, "_decided", taken)
    assert main(["--output", str(output), "--samples", "1"]) == 1
    assert (
        f"another run has taken {output}" in capsys.readouterr().err
        and not (output / "selection").exists()
    )


def test_a_small_budget_reads_kept_rows_alone_the_best_first(indexed: Any, tmp_path: Path) -> None:
    complexity = {row["uid"]: row["complexity"] for row in indexed.rows("kept")}
    count = len(complexity) // 2
    times = selected(indexed.output, count)
    assert set(times.values()) == {1} and len(times) == count and times.keys() <= complexity.keys()
    others = [value for uid, value in complexity.items() if uid not in times]
    assert min(complexity[uid] for uid in times) >= max(others)
    assert (
        read(indexed.output / "selection", indexed.output / "selection", tmp_path).total() == count
    )


def test_shards_hold_kept_rows_alone_unless_others_are_wanted(
    exported: Any, tmp_path: Path, capsys: Any
) -> None:
    kept = {row["uid"] for row in exported.rows("kept")}
    times = selected(exported.output, 270)
    assert times.keys() == kept
    assert read(exported.output, exported.output / "selection", tmp_path).total() == 270
    assert "rejected rows have no image in shards/" in capsys.readouterr().out
    assert len(selected(exported.output, 270, "--rows", "all")) == 60


def test_columns_rank_in_place_of_the_decisions(indexed: Any, capsys: Any) -> None:
    rows = indexed.rows("kept") + indexed.rows("rejected")
    length = {row["uid"]: row["complexity"] or 0 for row in rows}
    best = len(indexed.rows("kept"))
    times = selected(indexed.output, best, "--by", "complexity=2,one=0.5")
    assert sorted(length[uid] for uid in times) == sorted(length.values())[-best:]
    gain = json.loads((indexed.output / "selection" / "selection.json").read_text())["gain"]
    assert gain.keys() == {"all rows", "the rows first by the columns"}
    assert "the kept rows" not in capsys.readouterr().out
    page = (indexed.output / "selection" / "selection.html").read_text()
    assert "the kept rows" not in page
    # A tick at the samples asked for, in samples.
    assert f">{best}</text>" in page and "thousand" not in page


def test_numbers_that_a_reader_moved_rank_too(tmp_path, filtering, captions, monkeypatch, capsys):
    monkeypatch.setattr(lines, "_HEAD_ROWS", 2)
    values: list[dict[str, Any]] = [{"votes": 1}, {"votes": 3}, {"votes": 2.5}]
    values += [{"votes": None, "late": 1}, {"votes": "9", "late": 0.5}]
    urls = (
        {"caption": captions[n], "url": f"http://127.0.0.1/{n}", **value}
        for n, value in enumerate(values)
    )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in urls))
    run = filtering(tmp_path / "rows.jsonl", tmp_path / "out", stages=("captions",))
    uids = {row["url"][-1]: row["uid"] for kind in ("kept", "rejected") for row in run.rows(kind)}
    best = len(run.rows("kept"))
    assert len(uids) == 5 and best > 1
    (tmp_path / "rows.jsonl").unlink()
    for column, order in (("votes", "12"), ("late", "34")):
        assert {uids[number] for number in order[:best]} <= selected(
            run.output, best, "--by", column
        ).keys()
    assert main(["--output", str(run.output), "--samples", "3", "--by", "lat"]) == 2
    assert "--by lat: no row that may be chosen has a number there" in capsys.readouterr().err


def test_fields_of_the_users_own_are_read_only_to_rank_by_them(
    tmp_path, filtering, captions, monkeypatch
):
    """They may be large, and have the names of the columns of decisions."""
    rows = [
        {"caption": captions[n], "url": f"http://127.0.0.1/{n}", "complexity": {"n": n}}
        for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = filtering(tmp_path / "rows.jsonl", tmp_path / "out", stages=("captions",))
    assert EXTRA in pq.read_schema(next((run.output / "kept").glob("*.parquet"))).names
    read: list[list[str]] = []

    def read_table(path: Any, columns: list[str]) -> Any:
        read.append(columns)
        return storage.read_table(path, columns)

    monkeypatch.setattr(select, "read_table", read_table)
    assert selected(run.output, len(run.rows("kept")))
    assert read and EXTRA not in {name for some in read for name in some}


def test_a_uid_of_a_row_that_may_not_be_chosen_is_left_out(tmp_path, filtering, captions, capsys):
    """Unless the training does not see that row, or it is the same pair."""
    rows = [(f"{n + 1:032x}", captions[n], f"http://127.0.0.1/{n}", 1) for n in range(20)]
    # Rejected by the column.
    rows += [(rows[0][0], "a red car drives", "http://127.0.0.1/other", 0)]
    rows += rows[1:20]  # duplicates of the kept ones
    lines = ("\t".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "rows.tsv").write_text("uid\tcaption\turl\tgood\n" + "".join(lines))
    (tmp_path / "mine.yaml").write_text("columns: {good: {min: 1}}\ndedup: {pairs: true}\n")
    preset = str(tmp_path / "mine.yaml")
    run = filtering(
        tmp_path / "rows.tsv", tmp_path / "out", preset=preset, stages=("captions", "dedup")
    )
    kept = {row["uid"] for row in run.rows("kept")}
    assert (
        rows[0][0] in kept
        and Counter(row["reason"] for row in run.rows("rejected"))["duplicate_pair"] > 2
    )
    assert selected(run.output, 30).keys() == kept - {rows[0][0]}
    assert re.search("uid of several rows .* left out", capsys.readouterr().out)


def test_rows_that_all_share_a_uid_are_one_line(tmp_path, filtering, captions, capsys):
    rows = (
        f"{7:032x}\t{text}\thttp://127.0.0.1/{number}\n" for number, text in enumerate(captions[:3])
    )
    (tmp_path / "rows.tsv").write_text("uid\tcaption\turl\n" + "".join(rows))
    output = filtering(tmp_path / "rows.tsv", tmp_path / "out", stages=("captions",)).output
    assert main(["--output", str(output), "--samples", "1"]) == 2
    assert re.search(
        "each of 3 rows has the uid of another one.*for each row", capsys.readouterr().err
    )


def test_only_reasons_are_offered_for_a_delay(
    indexed: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    candidates = select._candidates
    left_out = {select.NOT_INDEXED: 3, select.SEVERAL_ROWS: 2, "overlap": 1}
    monkeypatch.setattr(
        select, "_candidates", lambda *about: replace(candidates(*about), left_out=left_out)
    )
    assert main(["--output", str(indexed.output), "--samples", "90", "--delay", "luck=2"]) == 2
    assert re.search(r"\(OUTPUT has: action, (\w+, )*overlap(, \w+)*\)", capsys.readouterr().err)


def test_a_delay_can_be_given_and_leaves_a_reason_to_the_end(indexed: Any) -> None:
    actions = {row["uid"] for row in indexed.rows("rejected") if row["reason"] == "action"}
    assert actions and not actions & selected(indexed.output, 270, "--delay", "action=50").keys()


def test_weights_read_rejected_rows_too_and_a_training_reads_as_selected(
    indexed: Any, tmp_path: Path, capsys: Any
) -> None:
    times = selected(indexed.output, 270, "--soft", "complexity:6,kept:4.8", "--cap", "8")
    assert sum(times.values()) == 270 and max(times.values()) <= 8
    by_key = read(indexed.output / "selection", indexed.output / "selection", tmp_path)
    assert {f"{int(key) + 1:032x}": count for key, count in by_key.items()} == times
    rows = [(row, kind == "kept") for kind in ("kept", "rejected") for row in indexed.rows(kind)]
    assert len(rows) == 60
    columns = [np.array([row["complexity"] for row, _ in rows], float)]
    columns += [np.array([kept for _, kept in rows], float)]
    weights = weight_of(ranks(columns[0]), 6) * weight_of(ranks(columns[1]), 4.8)
    mean = expected(weights, 270, 8)
    assert (np.abs([times.get(row["uid"], 0) for row, _ in rows] - mean) < 1).all()
    said = capsys.readouterr().out
    assert "read " in said and "against all rows" not in said
    about = json.loads((indexed.output / "selection" / "selection.json").read_text())
    assert about["soft"] == {"complexity": 6, "kept": 4.8} and about["samples"] == 270
    assert sum(tenth["readings"] for tenth in about["tenths"]) == 270
    page = (indexed.output / "selection" / "selection.html").read_text()
    assert page.count('class="h-bar"') == 10


def test_the_order_of_rows_and_the_size_of_units_change_no_reading(
    tmp_path, filtering, captions, capsys
):
    lines = [
        f"{n + 1:032x}\t{captions[n]}\thttp://127.0.0.1/{n}\t{'' if n % 9 == 0 else n * 7 % 20}\n"
        for n in range(60)
    ]
    found = []
    for name, rows, unit in (("a", lines, 60), ("b", lines[::-1], 7), ("c", lines[::-1], 7)):
        (tmp_path / f"{name}.tsv").write_text("uid\tcaption\turl\tscore\n" + "".join(rows))
        run = filtering(
            tmp_path / f"{name}.tsv", tmp_path / name, stages=("captions",), unit_rows=unit
        )
        seed = "1" if name == "c" else "0"
        found.append(selected(run.output, 75, "--soft", "score", "--seed", seed))
    assert found[0] == found[1] != found[2]
    assert "7 rows have no score and rank in the middle" in capsys.readouterr().out
    # Fewer samples than rows leave some rows out.
    few = selected(run.output, 20, "--soft", "score")
    assert sum(few.values()) == 20 and set(few.values()) == {1}
    # The default strength is 6 for 8 samples of each row, and 9 for one more.
    for samples, strength in ((480, 6), (481, 9)):
        selected(run.output, samples, "--soft", "score")
        about = json.loads((run.output / "selection" / "selection.json").read_text())
        assert about["soft"] == {"score": strength}


def test_a_column_of_ones_own_with_the_name_of_the_decision_comes_first(
    tmp_path, filtering, captions
):
    rows = (f"{captions[n]}\thttp://127.0.0.1/{n}\t{n}\n" for n in range(40))
    (tmp_path / "rows.tsv").write_text("caption\turl\tkept\n" + "".join(rows))
    run = filtering(tmp_path / "rows.tsv", tmp_path / "out", stages=("captions",))
    times = selected(run.output, 40, "--soft", "kept:100")
    of_row = {
        row["uid"]: int(row["kept"]) for kind in ("kept", "rejected") for row in run.rows(kind)
    }
    assert {of_row[uid] for uid in times} >= {*range(21, 40)}


def test_a_stored_teacher_gives_a_column(exported, tmp_path, capsys):
    output = Path(shutil.copytree(exported.output, tmp_path / "copy"))
    teacher = f"local-dir:{write_tiny(tmp_path / 'tiny')}"
    words = ["--data", str(output), "--teacher", teacher, "--store", "embeddings"]
    words += ["--workers", "1", "--device", "cpu", "--precision", "fp32"]
    assert concepts(words) == 0
    # The store is there, and the cosines are added without asking the teacher.
    assert main(["--output", str(output), "--samples", "50", "--soft", COSINE]) == 2
    (command,) = re.findall("run `open-diht concepts (.*)`", capsys.readouterr().err)
    assert concepts([*shlex.split(command), "--teacher", teacher, *words[6:]]) == 0
    kept = exported.rows("kept")
    times = selected(output, len(kept), "--soft", f"{COSINE}:100")
    cosines = dict[str, float]()
    for path in (output / "embeddings" / "targets").glob("*.npz"):
        with np.load(path) as stored:
            for key, *pair in zip(
                unpacked_keys(stored["keys"]), stored["image"], stored["text"], strict=True
            ):
                image, text = (each[0].astype(np.float64) for each in pair)
                cosines[uid_of_key(key)] = float(image @ text)
    assert cosines.keys() == {row["uid"] for row in kept}
    best = sorted(cosines, key=lambda uid: -cosines[uid])
    assert {*best[: len(best) * 2 // 5]} <= times.keys() <= {*best[: len(best) * 3 // 5]}
    table = pa.concat_tables(
        pq.read_table(path) for path in (output / "embeddings" / "cosines").glob("*.parquet")
    )
    for uid, cosine in zip(*(table[name].to_pylist() for name in ("uid", COSINE)), strict=True):
        assert cosine == pytest.approx(cosines[uid], abs=1e-3)
    # Another run without the option may store another teacher, so the cosines are withdrawn.
    assert concepts(words) == 0
    assert main(["--output", str(output), "--samples", "50", "--soft", COSINE]) == 2


def damaged(output: Path, folder: Path, how: str) -> Path:
    """A copy of an output with something amiss."""
    copy = Path(shutil.copytree(output, folder / "copy"))
    commit = min((copy / "work" / "decide" / "commits").glob("*.json"))
    if how == "undecided":
        commit.unlink()
    elif how == "mixed":
        commit.write_text(json.dumps({**json.loads(commit.read_text()), "fingerprint": "0" * 16}))
    elif how == "unfinished":
        (copy / "run.json").unlink()
    elif how == "none":
        shutil.rmtree(copy / "work")
    elif how.endswith(".json"):
        (copy / how).write_text("{")
    return copy


@pytest.mark.parametrize(
    ("how", "words", "says"),
    [
        ("none", (), r"holds no output of `open-diht filter` with a valid plan; name one"),
        (
            "unfinished",
            (),
            r"holds no decisions of a finished run; run the same `open-diht filter` again",
        ),
        ("undecided", (), r"1 of 5 units are not decided; run the same"),
        (
            "mixed",
            (),
            r"1 of 5 units were decided by another preset .*; run the same .*, with one preset",
        ),
        ("", ("--samples", "0"), "--samples: .*0"),
        ("", ("--samples", "many"), "--samples: .*many"),
        (
            "",
            ("--samples", "721"),
            r"more than --cap 12 allows \(720\): lower --samples, raise --cap",
        ),
        ("", ("--by", "beauty"), "--by beauty: no row that may be chosen has a number there"),
        ("", ("--by", "caption"), r"--by caption: its values \(string\) are no numbers"),
        ("", ("--by", "complexity=-1"), "--by 'complexity=-1': expected NAME=WEIGHT"),
        ("", ("--delay", "action"), "--delay 'action': expected NAME=N"),
        ("", ("--soft", "luck"), "--soft luck: no row that may be chosen has a number there"),
        ("", ("--soft", "caption"), "--soft caption: its values .* are no numbers"),
        ("", ("--soft", "one"), "--soft one: .* the same value .*1.*name another column"),
        ("", ("--soft", "complexity:-1"), "--soft 'complexity:-1': expected COLUMN.*-1"),
        ("", ("--soft", "complexity:nan"), "--soft 'complexity:nan': expected COLUMN.*nan"),
        ("", ("--soft", "complexity:101"), "--soft 'complexity:101': expected COLUMN.*101"),
        ("", ("--soft", "kept,kept:2"), "--soft names 'kept' twice"),
        ("", ("--soft", ","), "--soft ',' names no column"),
        ("", ("--soft", "kept", "--by", "one"), "in place of --by and --delay"),
        ("", ("--soft", "kept", "--delay", "action=1"), "in place of --by and --delay"),
        ("", ("--soft", "kept", "--cap", "1.5"), "--cap 1.5: with --soft, give a whole number"),
        ("", ("--soft", "kept", "--rows", "kept"), "--soft kept: .* the same value"),
        ("", ("--soft", "kept:1", "--samples", "721"), "more than --cap 12 allows .*raise --cap"),
        ("", ("--soft", "teacher_cosine"), "no finished cosines .*open-diht concepts --data"),
        ("", ("--seed", "1"), "--seed is of --soft"),
        ("", ("--delay", "luck=2"), "--delay luck: no row .* has this reason .*action"),
    ],
)
def test_what_cannot_be_selected_is_one_line(how, words, says, indexed, tmp_path, capsys):
    output = damaged(indexed.output, tmp_path, how)
    shutil.rmtree(output / "selection", ignore_errors=True)
    assert main(["--output", str(output), "--samples", "90", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ")
    assert re.search(says, said), said
    assert not (output / "selection").exists()


@pytest.mark.parametrize(("method", "status"), [("cat_file", 2), ("put_file", 1)])
def test_a_store_that_does_not_answer_is_wrong_use_and_one_that_fails_later_is_a_failure(
    method, status, indexed, monkeypatch, capsys
):
    def down(*_: Any, **__: Any) -> None:
        raise ConnectionError("the store is down")

    store = fsspec.filesystem("memory")
    store.put(str(indexed.output), f"/select-{status}", recursive=True)
    monkeypatch.setattr(type(store), method, down)
    assert main(["--output", f"memory://select-{status}", "--samples", "90"]) == status
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "the store is down" in said and "check OUTPUT" in said


@pytest.mark.parametrize("name", ["run.json", "work/decide/fingerprints.json"])
def test_a_corrupt_record_is_one_line(name: str, indexed: Any, tmp_path: Path, capsys: Any) -> None:
    output = damaged(indexed.output, tmp_path, name)
    assert main(["--output", str(output), "--samples", "90"]) == 1
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and f"{output / name} holds no JSON" in said and "remove it" in said
    )
