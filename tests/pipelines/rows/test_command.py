"""`make rows`: what its lists hold, in which order and form, and wrong use in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.rows.command import main

HOSTILE = 'A dog runs \x1b]0;taken\x07 "\n\u202e after a ball'
"""A caption with codes of a terminal, a new line, and a sign that turns the rest around."""


@pytest.fixture(scope="module")
def done(filtering: Any, captions: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The captions of the sample and a hostile one, in several units, next to a file that cannot be
    read; do not change its output."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "in").mkdir()
    texts = [*captions[:60], HOSTILE]
    numbers = [float("nan"), *range(1, len(texts))]
    table = pa.table({"caption": texts, "n": pa.array(numbers, pa.float64())})
    pq.write_table(table, folder / "in" / "a.parquet")
    (folder / "in" / "b.parquet").write_bytes(b"PAR1 no more")
    found = filtering(folder / "in", folder / "out", stages=("captions",), unit_rows=20)
    assert found.rows("kept") and found.funnel["dead_letter"]["units"] == 1
    return found


Lines = Callable[..., list[str]]


@pytest.fixture
def printed(done: Any, capsys: pytest.CaptureFixture[str]) -> Lines:
    """The lines that the command prints about the output."""

    def run(*words: str) -> list[str]:
        assert main([str(done.output), *words]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_a_list_has_the_uids_of_its_rows(printed: Lines, done: Any) -> None:
    def uids(fits: Callable[[dict[str, Any]], bool], *ends: str) -> list[str]:
        return [row["uid"] for end in ends for row in done.rows(end) if fits(row)]

    ends = ("kept", "rejected")
    for words, expected in (
        ("--end kept", uids(lambda row: True, "kept")),
        ("--end rejected --reason action", uids(lambda row: row["reason"] == "action", "rejected")),
        ("--complexity-low 0 --complexity-high 0", uids(lambda row: row["complexity"] == 0, *ends)),
        ("--caption DOG", uids(lambda row: "dog" in row["caption"].lower(), *ends)),
        ("--column n --values-high 9", uids(lambda row: row["n"] <= 9, *ends)),
        ("--end dead_letter", []),
    ):
        assert sorted(printed(*words.split(), "--uids", "--limit", "0")) == sorted(expected)
        assert len(printed(*words.split(), "--uids", "--limit", "1")) == min(1, len(expected))


def test_json_has_the_best_rows_by_an_order(printed: Lines, done: Any) -> None:
    asked = ("--end", "rejected", "--reason", "action", "--order", "n", "--limit", "5", "--json")
    best = [json.loads(line) for line in printed(*asked)]
    rows = [row for row in done.rows("rejected") if row["reason"] == "action" and row["n"] >= 0]
    expected = sorted(rows, key=lambda row: -row["n"])[:5]
    assert [(row["uid"], row["n"], row["caption"]) for row in best] == [
        (row["uid"], row["n"], row["caption"]) for row in expected
    ]
    assert all(row["place"].startswith(f"{row['place'].split('.')[0]}.rejected.") for row in best)
    every = [json.loads(line) for line in printed("--order", "n", "--ascending", "--json")]
    assert [row["n"] for row in every[:60]] == list(range(1, 61))
    assert [row["n"] for row in every[60:]] == [None] * 2, "no number, and the file's dead letter"


def test_no_caption_writes_to_the_terminal(printed: Lines) -> None:
    header, line, total = printed("--caption", "]0;taken")
    assert header.endswith("  caption") and total == "1 row of 1"
    assert "A dog runs [" in line and not {*"\x1b\x07\u202e\n"} & {*line}
    (text,) = printed("--caption", "]0;taken", "--json")
    assert text.isascii() and json.loads(text)["caption"] == HOSTILE


def test_the_table_tells_how_many_rows_there_are(printed: Lines, done: Any) -> None:
    kept = done.funnel["kept"]
    header, *rows, total = printed("--end", "kept", "--limit", "3")
    assert len(rows) == 3 and total == f"3 rows of {kept}"
    assert "  complexity  " in header and header.startswith("uid ")
    assert printed("--end", "kept", "--order", "complexity", "--limit", "1")[-1] == (
        f"1 row of {kept}"
    )
    assert printed("--end", "dead_letter")[-1] == "1 row of 1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--end rejcted", "(did you mean 'rejected'?)"),
        ("--end rejected --reason actoin", "(did you mean 'action'?)"),
        ("--reason action", "--reason belongs to --end"),
        ("--end kept --reason action", "no reason of kept 'action'"),
        ("--order complexty", "(did you mean 'complexity'?)"),
        ("--order overlap", "no order 'overlap'"),  # no run has read images
        ("--column uid", "no numeric column 'uid'; choose one of n"),
        ("--values-low 0", "--values-low belongs to --column"),
        ("--ascending", "--ascending belongs to --order"),
        ("--json --uids", "give one of them"),
        ("--order n --limit 0", "--limit 1 to 100000"),
        ("--order n --limit 100001", "--limit 1 to 100000"),
        ("--limit -1", "it must be at least 0"),
        ("--overlap-low nan", "argument --overlap-low"),
        ("--end=", "--end is empty"),
        ("--oder n", "(did you mean '--order'?)"),
    ],
)
def test_wrong_use_is_one_line(
    words: str, said: str, done: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(done.output), *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and said in printed.err


def test_what_is_no_output_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "nowhere", tmp_path, "nosuch://bucket/x"):
        assert main([str(folder)]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and "OUTPUT" in printed.err


@pytest.mark.parametrize("order", [[], ["--order", "n"]])
def test_files_that_are_gone_or_damaged_are_a_failure(
    order: list[str], done: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Path(shutil.copytree(done.output, tmp_path / "out"))
    first, second, *_ = sorted((output / "kept").iterdir())
    lost = pq.read_metadata(first).num_rows
    kept = done.funnel["kept"]
    first.unlink()
    assert main([str(output), "--end", "kept", *order]) == 1
    error = capsys.readouterr().err
    assert f"has {kept - lost} such rows and not the {kept}" in error
    assert "`open-diht verify`" in error
    second.write_bytes(b"PAR1 no more")
    assert main([str(output), "--end", "kept", *order]) == 1
    assert "`open-diht verify`" in capsys.readouterr().err


@pytest.fixture
def remote(done: Any) -> Iterator[str]:
    """The output in a store: in the memory of this process, as stores go."""
    fs = fsspec.filesystem("memory")
    for path in done.output.rglob("*"):
        if path.is_file() and not path.name.endswith("lock"):
            fs.pipe_file(f"/listed/{path.relative_to(done.output)}", path.read_bytes())
    yield "memory://listed"
    fs.rm("/listed", recursive=True)


def test_an_output_in_a_store_has_the_same_rows(
    remote: str, printed: Lines, done: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--end", "rejected", "--order", "action_score", "--json"]
    expected = printed(*words)
    for root in (remote, f"file://{done.output}"):
        assert main([root, *words]) == 0
        assert capsys.readouterr().out.splitlines() == expected != []


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(done: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "open_diht.pipelines.rows", str(done.output), "--uids"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read().decode().splitlines()[-1:] == ["loading libraries"]
    assert process.returncode == 141
