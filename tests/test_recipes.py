"""`open-diht deploy` writes recipes that parse, with the paths of this installation, and replaces
nothing."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from open_diht import recipes
from open_diht.common.command_line import OK, WRONG_USE
from open_diht.pipelines.options import filter_parser
from open_diht.pipelines.runners.beam_options import check_beam_options

Printed = pytest.CaptureFixture[str]


def commands(printed: str) -> list[list[str]]:
    """The commands that are printed, as words without the marks of optional ones."""
    return [
        shlex.split(line) for line in printed.partition("\n\n")[2].replace("\\\n", "").splitlines()
    ]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_parse_and_name_what_is_there(name: str, tmp_path: Path, capsys: Printed) -> None:
    to = tmp_path / "deploy" / "a b"
    assert recipes.main([name, "--to", str(to)]) == OK
    texts = {
        path.name: path.read_text(encoding="utf-8")
        for path in to.iterdir()
        if path.suffix != ".whl"
    }
    for file, text in texts.items():
        if file.endswith((".sh", ".sbatch")):
            subprocess.run(["bash", "-n", to / file], check=True)
        elif file.endswith((".yaml", ".json")):
            assert list(yaml.safe_load_all(text)) if file.endswith(".yaml") else json.loads(text)
        elif file.endswith(".py"):
            ast.parse(text)
        for copied in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
            assert all((to / part).is_file() for part in copied.split()), copied
        own = text.replace(sys.executable, "").replace(str(to), "")
        assert not re.search(r"\.venv/|\bdeploy/|/src/requirements|COPY common", own), file
    printed = commands(capsys.readouterr().out)
    assert printed
    for words in printed:
        assert all(Path(word).exists() for word in words if word.startswith(str(to))), words
        if "open_diht" in words:
            options, rest = filter_parser("filter").parse_known_args(
                words[words.index("filter") + 1 :]
            )
            check_beam_options(rest, options.runner)


def test_files_of_another_content_are_named_and_kept(tmp_path: Path, capsys: Printed) -> None:
    assert (
        recipes.main(["slurm", "--to", str(tmp_path)])
        == recipes.main(["slurm", "--to", str(tmp_path)])
        == OK
    )
    mine = tmp_path / "train.sbatch"
    mine.write_text("mine")
    (tmp_path / "filter.sbatch").unlink()
    capsys.readouterr()
    assert recipes.main(["slurm", "--to", str(tmp_path)]) == WRONG_USE
    error = capsys.readouterr().err
    assert "train.sbatch" in error and "concepts.sbatch" not in error and "--to" in error
    assert mine.read_text() == "mine" and not (tmp_path / "filter.sbatch").exists()


@pytest.mark.parametrize(
    ("to", "said"),
    [("", "--to is empty"), ("/proc/x/y", "cannot be written"), ("/etc/passwd", "--to")],
)
def test_a_folder_that_cannot_be_written_is_one_line(to: str, said: str, capsys: Printed) -> None:
    assert recipes.main(["slurm", "--to", to]) == WRONG_USE
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


# PaddleOCR imports the second.
@pytest.mark.parametrize("reader", ["importlib.metadata", "importlib_metadata"])
def test_images_have_this_python_and_its_versions(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two distributions of a name counts, and what has no metadata is passed over."""
    pytest.importorskip(reader)
    first = tmp_path / "first"
    (first / "numpy-1.99.0.dist-info").mkdir(parents=True)
    (first / "numpy-1.99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 1.99.0\n"
    )
    (first / "left.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(first))
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    for name in ("kubernetes", "dataflow", "flink"):
        assert recipes.main([name, "--to", str(tmp_path / name)]) == OK
        image = (tmp_path / name / "Dockerfile").read_text().replace(str(tmp_path), "")
        assert not re.search(r"3\.11\b|311|3, 11", image)
        assert re.search(
            r"^FROM python:3\.12-slim|version_info\[:2\] != \(3, 12\)", image, re.MULTILINE
        )
        assert "numpy==1.99.0\n" in (tmp_path / name / "constraints.txt").read_text()


def test_an_unknown_name_lists_the_names(tmp_path: Path, capsys: Printed) -> None:
    assert recipes.main(["slrm", "--to", str(tmp_path / "to")]) == WRONG_USE
    error = capsys.readouterr().err
    assert all(name in error for name in recipes.RECIPES) and not (tmp_path / "to").exists()
