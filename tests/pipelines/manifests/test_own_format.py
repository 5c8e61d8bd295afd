"""The seam for formats: the module of `docs/extend/format.md`, by the command line and in worker
processes."""

import json
import re
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.manifests.formats import Format, register_format

REPOSITORY = Path(__file__).resolve().parents[3]
CAPTIONS = (
    "a brown dog runs over the wet grass",
    "two cats sleep on a red sofa",
    "SALE NOW",
    "a man rides a white horse",
)


def _line(number: int, caption: str) -> bytes:
    return f"{f'http://127.0.0.1/{number}.jpg':32}{caption}\n".encode()


@pytest.mark.slow
def test_a_format_of_ones_own_is_filtered(tmp_path, command):
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        words = [
            "--dataset",
            "custom",
            "--output",
            "out",
            "--stages",
            "captions,export",
            "--workers",
            "2",
        ]
        return command(*words, "--unit-rows", "2", *more, cwd=tmp_path)

    page = (REPOSITORY / "docs" / "extend" / "format.md").read_text(encoding="utf-8")
    [module] = re.findall(r"^```\{\.python \.compile\}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_format.py").write_text(module, encoding="utf-8")
    rows = [_line(number, caption) for number, caption in enumerate(CAPTIONS)]
    (tmp_path / "rows.fwf").write_bytes(b"".join([*rows[:2], b"\xff\n", *rows[2:]]))

    asked = ("--input", ".", "--plugin", "my_format", "--max-dead-share", "1")
    done = run(*asked)
    assert done.returncode == 0, done.stderr
    kept = pq.read_table(tmp_path / "out" / "kept").to_pylist()
    assert [row["caption"] for row in kept] == [CAPTIONS[0], CAPTIONS[1], CAPTIONS[3]]
    assert [row["url"][-5:] for row in kept] == ["0.jpg", "1.jpg", "3.jpg"]
    [rejected] = pq.read_table(tmp_path / "out" / "rejected").to_pylist()
    [dead] = pq.read_table(tmp_path / "out" / "dead_letter").to_pylist()
    assert rejected["caption"] == CAPTIONS[2]
    assert (dead["error"], dead["raw"]) == ("invalid_utf8", b"\xff")
    units = json.loads((tmp_path / "out" / "work" / "plan.json").read_text())["units"]
    assert len(units) > 1 and {unit["span"]["format"] for unit in units} == {"fwf"}

    again = run(*asked)
    assert again.returncode == 0 and "nothing to do: " in again.stdout
    without = run("--input", "rows.fwf")
    assert (
        without.returncode == 2
        and "pass --format, one of parquet, tsv, csv, jsonl, webdataset" in without.stderr
    )
    mistyped = run("--input", "rows.fwf", "--plugin", "my_format", "--format", "fwt")
    assert (
        mistyped.returncode == 2 and "unknown format 'fwt' (did you mean 'fwf'?)" in mistyped.stderr
    )


def _named(name: str, endings: tuple[str, ...] = ()) -> type[Format]:
    made = {
        "name": name,
        "endings": endings,
        "look": lambda *_: None,
        "chunks": lambda *_, **__: iter(()),
    }
    return type("Mine", (Format,), made)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (_named("csv"), "name 'csv' of Mine belongs to Csv"),
        (_named("mine", (".mine", ".tab")), r"ending '\.tab' of Mine belongs to Tsv"),
        (_named("auto"), "name 'auto'; use lower case letters"),
        (_named("a b"), "name 'a b'; use lower case letters"),
    ],
)
def test_formats_that_would_hide_another_are_refused(kind: type[Format], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        register_format(kind)


def test_a_format_without_its_methods_is_refused() -> None:
    half: type[Format] = type("Half", (Format,), {"name": "half", "look": lambda *_: None})
    with pytest.raises(TypeError, match="format Half lacks chunks"):
        register_format(half)
