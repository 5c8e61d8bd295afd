"""`python -m open_diht.trainer.data`: what is wrong with shards, before a training finds it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from open_diht.trainer.data import cli
from open_diht.trainer.data.cli import main
from open_diht.trainer.data.shards import OpenSource, open_source

REPOSITORY = Path(__file__).resolve().parents[3]


def test_shards_are_looked_at(
    tars: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tars.folder(tmp_path / "d", [10, 10])
    assert main([str(folder), "--workers", "1"]) == 0
    assert capsys.readouterr().out == f"{folder}: 2 shards, ok 20\n"
    content = tars.members(range(20, 30))
    content[3] = (content[3][0], b"<html>")
    del content[7]
    tars.write(folder / "00002.tar", content)
    assert main([str(folder), "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert "3 shards, ok 28, missing_caption 1, undecodable_image 1" in said.out
    assert f"00002.tar: undecodable_image: {tars.key(21)}" in said.out
    assert "more than 1.0% of the samples are bad" in said.err
    assert main([str(folder), "--index-only", "--max-bad-share", "0.1"]) == 0
    assert "ok 29, missing_caption 1" in capsys.readouterr().out


def test_what_holds_no_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_a_shard_that_goes_after_indexing_fails_its_folder_alone(
    tars, tmp_path, monkeypatch, capsys
):
    lossy = tars.folder(tmp_path / "a", [3, 3])
    whole = tars.folder(tmp_path / "b", [3])

    def index_and_lose(*arguments: Any) -> OpenSource:
        source = open_source(*arguments)
        (lossy / "00001.tar").unlink(missing_ok=True)
        return source

    monkeypatch.setattr(cli, "open_source", index_and_lose)
    assert main([str(lossy), str(whole), "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert said.out == f"{whole}: 1 shards, ok 3\n"
    assert re.fullmatch(rf"error: .*{lossy}/00001\.tar.*\n", said.err)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "a path is empty"),
        ("foo://x", "foo://x cannot be used: .*foo"),
        ("foo://x/{0..1}.tar", r"shard foo://x/0\.tar cannot be used: .*foo"),
    ],
)
def test_a_path_that_is_no_address_is_wrong_use(
    path: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([path]) == 2
    assert re.fullmatch(f"error: {said}.*\n", capsys.readouterr().err)


def test_a_store_that_does_not_answer_is_one_line(
    dead_store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (f"{dead_store}/data", f"{dead_store}/{{0..1}}.tar"):
        assert main([path]) == 1
        said = capsys.readouterr().err
        assert re.fullmatch(
            r"error: .*s3://bucket/\S* cannot be reached \(EndpointConnectionError: .*check .*\n",
            said,
        )


def test_the_limit_of_pixels_is_that_of_the_training(tars: Any, tmp_path: Path) -> None:
    folder = str(tars.folder(tmp_path / "d", [3]))
    assert [main([folder, "--workers", "1", "--max-pixels", str(n)]) for n in (1, 10**6)] == [1, 0]


@pytest.mark.parametrize(
    "words", [["--workers", "-1"], ["--max-bad-share", "2"], ["--max-bad-share", "nan"]]
)
def test_numbers_out_of_range_are_wrong_use(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["anywhere", *words]) == 2
    assert re.fullmatch(rf"error: argument {words[0]}: .*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_several_processes_share_the_shards(tars: Any, tmp_path: Path) -> None:
    """Started as people do: what a process runs, it imports."""
    folder = tars.folder(tmp_path / "d", [3, 3, 3])
    words = [sys.executable, "-m", "open_diht.trainer.data", str(folder), "--workers", "2"]
    done = subprocess.run(
        words, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{folder}: 3 shards, ok 9\n"), done.stderr
