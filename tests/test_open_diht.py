"""`open-diht`: equal to the Makefile's targets, quick to answer, and whole in a wheel outside a
checkout."""

import argparse
import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from open_diht import cli
from open_diht.common.command_line import Parser
from open_diht.common.installation import remedy
from open_diht.common.run_command import LOADING
from open_diht.completion import SHELLS
from tests.command_lines import of_make, understood

REPOSITORY = Path(__file__).resolve().parents[1]


def as_module(module: str, *arguments: str) -> None:
    """What `python -m` does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", [module, *arguments])
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@pytest.mark.usefixtures("commands_in_process")
@pytest.mark.parametrize(
    ("target", "variables", "arguments"),
    [
        ("filter", [], []),
        ("filter", ["DATASET=custom", "INPUT=/data/*.tsv", "SHARD=0/4"],
         ["--dataset", "custom", "--input", "/data/*.tsv", "--shard", "0/4"]),
        ("view", [], []),
        ("view", ["OUTPUT=/data/cat", "PRESET=strict", "ARGS=--port 8000"],
         ["--output", "/data/cat", "--preset", "strict", "--port", "8000"]),
        ("rows", [], []),
        ("rows", ["OUTPUT=/data/cat", "ARGS=--end kept --order overlap"],
         ["/data/cat", "--end", "kept", "--order", "overlap"]),
        ("verify", [], []),
        ("verify", ["OUTPUT=/data/cat", "INPUT=/data/*.tsv", "ARGS=--sample 9"],
         ["/data/cat", "--input", "/data/*.tsv", "--sample", "9"]),
        ("pilot", ["UNITS=5"], ["--units", "5"]),
        ("select", ["OUTPUT=/data/cat", "SAMPLES=9"], ["--output", "/data/cat", "--samples", "9"]),
        ("concepts", [], []),
        ("train", [], []),
        ("train", ["CONFIG=vit-b-32", "ARGS=loss.beta=0.5"],
         ["--config", "vit-b-32", "loss.beta=0.5"]),
        ("bench", [], []),
        ("bench-data", ["TASK=demo"], ["--task", "demo"]),
        ("compare", ["A=one", "B=two"], ["one", "two"]),
    ],
)  # fmt: skip
def test_a_command_is_what_its_target_is(target, variables, arguments, monkeypatch):
    expected, _ = understood(lambda: cli.main([target, *arguments]), monkeypatch)
    (words,) = of_make(target, *variables)
    assert understood(lambda: cli.main(words), monkeypatch)[0] == expected


@pytest.mark.usefixtures("commands_in_process")
@pytest.mark.parametrize(
    "words",
    [
        ["filter", "--input", "/nowhere"],
        ["select", "--output", "/nowhere", "--samples", "9"],
        ["compare", "/nowhere", "/nowhere"],
        ["concepts", "--data", "/nowhere", "--head-epochs", "3"],
    ],
)
def test_a_command_line_is_parsed_once(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    parse = Parser.parse_known_args

    def counted(self: Parser, args: Any = None, namespace: Any = None) -> Any:
        seen.append(args)
        return parse(self, args, namespace)

    monkeypatch.setattr(Parser, "parse_known_args", counted)
    assert cli.main(words) == 2 and len(seen) == 1


def test_every_target_that_is_named_alike_has_its_command() -> None:
    wanted = {"filter", "view", "rows", "verify", "pilot", "select", "concepts", "train"}
    wanted |= {"bench", "bench-data", "compare"}
    others = {"average", "check-shards", "completion", "deploy", "publish", "table", "weights"}
    assert set(cli.COMMANDS) == wanted | others, (
        "a checkout has the recipes, targets fetch the weights, and the others have no defaults to"
        " share"
    )
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{name}:.* ## ", makefile, re.MULTILINE) for name in wanted)


def test_concepts_does_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, argparse.Namespace]] = []

    def run(command: cli.Command, words: list[str], prog: str, options: argparse.Namespace) -> int:
        calls.append((command.module, options))
        return 1 if "--utterly-unheard-of" in words else 0

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["concepts", "--data", "/data/cat", "--head-epochs", "3", "--head-k", "4"]) == 0
    (first, features), (second, heads) = calls
    assert (first, second) == ("open_diht.pipelines.teachers.cli", "open_diht.trainer.concepts.cli")
    assert (features.data, heads.concepts) == ("/data/cat", "/data/cat/concepts")
    assert (heads.settings.epochs, heads.settings.batch_size, heads.k) == (3, 256, 4)
    assert features.device == "auto" and heads.settings.device == "cpu"
    calls.clear()
    assert cli.main(["concepts", "--data", "/data/cat", "--shard", "0/4"]) == 0
    assert (calls[1][1].concepts, calls[1][1].shard) == ("/data/cat/concepts", "0/4")
    calls.clear()
    assert cli.main(["concepts", "--utterly-unheard-of"]) == 1
    assert len(calls) == 1, "heads are not trained on what failed"
    calls.clear()
    assert cli.main(["concepts", "--data", "s3://bucket/cat/"]) == 0
    assert calls[1][1].concepts == "s3://bucket/cat/concepts"


def test_heads_use_all_cores_after_the_features_half_used_one(monkeypatch):
    threads: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=threads.append))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(48), raising=False)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(os.environ, "BLIS_NUM_THREADS", "3")  # the user's
    seen: list[tuple[str, str | None, str | None]] = []

    def main(*_: object, **__: object) -> int:
        seen.append(("half", os.environ.get("OMP_NUM_THREADS"), os.environ.get("BLIS_NUM_THREADS")))
        return 0

    halves = {cli.COMMANDS["concepts"].module, "open_diht.trainer.concepts.cli"}
    for name in halves:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(main=main, before_main=lambda: None))
    assert cli.main(["concepts", "--data", "/data/cat"]) == 0
    assert seen == [("half", "1", "3"), ("half", None, "3")] and threads == [48]
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "5")
    assert cli.main(["concepts", "--data", "/data/cat"]) == 0 and threads == [48]


@pytest.mark.usefixtures("commands_in_process")
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_calls_a_command_as_it_was_called(name, capsys):
    with contextlib.suppress(SystemExit):
        assert cli.main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: open-diht {name} ")
    module = re.sub(r"(\.driver)?\.(cli|command|__main__)$", "", cli.COMMANDS[name].module)
    with pytest.raises(SystemExit) as ended:
        as_module(module, "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {module} ")


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["filtre"], ["study"], ["study-data", "flickr8k"]]
)
def test_what_needs_no_command_loads_no_library(words):
    code = (
        "import sys; from open_diht import cli; status = cli.main(sys.argv[1:])\nassert not"
        " {'apache_beam', 'torch', 'numpy', 'open_diht.pipelines', 'open_diht.trainer',"
        " 'open_diht.eval'} & sys.modules.keys()\nsys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=REPOSITORY, capture_output=True, text=True
    )
    if words == ["filtre"]:
        assert (done.returncode, done.stderr) == (
            2,
            "error: unknown command 'filtre'; did you mean 'filter'?\n",
        )
    elif words and words[0].startswith("study"):
        assert (
            done.returncode == 2
            and done.stderr.count("\n") == 1
            and f"`make {words[0]}`" in done.stderr
        )
    else:
        # A script that forgets the command must not take the answer for a success.
        status, shown = (0, done.stdout) if words else (2, done.stderr)
        assert done.returncode == status and all(f"  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("open-diht fi", ["filter"]),
        ("open-diht comp", ["compare", "completion"]),
        ("open-diht filter --in", ["--input"]),
        ("open-diht filter --export ", ["shards", "index"]),
        ("open-diht concepts --head-ep", ["--head-epochs"]),
        ("open-diht nonsense --", []),
    ],
)
def test_a_shell_completes_commands_options_and_values(line: str, offered: list[str]) -> None:
    script = f"""
eval "$(open-diht completion bash)"
COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9 COMP_WORDBREAKS=' '
_python_argcomplete open-diht
printf '%s\n' "${{COMPREPLY[@]}}"
"""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert [word.strip() for word in done.stdout.replace("\v", "\n").split()] == offered


def test_every_shell_gets_the_code_that_its_users_are_told_to_load(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for shell in SHELLS:
        assert cli.main(["completion", shell]) == 0
        assert "open-diht" in capsys.readouterr().out
    assert cli.main(["completion", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(how.split()) in shown for how in SHELLS.values())


HEAVY = ("apache_beam", "torch", "spacy", "timm", "open_clip", "transformers")
RUN = """
import sys
from open_diht.cli import main

def run(*words):
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code
"""


def test_no_slip_and_no_help_waits_for_imports():
    code = f"{RUN}\nfor words in {[[name] for name in cli.COMMANDS]!r}:\n"
    code += (
        "    assert (run(*words, '--help') or 0, run(*words, '--no-such-option')) == (0, 2),"
        " words\n"
    )
    code += f"    assert not {set(HEAVY)} & sys.modules.keys(), words"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0 and LOADING not in done.stderr, done.stderr
    assert done.stdout.count("usage: ") == len(cli.COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        "filter",
        "view",
        "pilot",
        "select --samples 9",
        "concepts",
        "train",
        "bench",
        "compare one other",
    ],
)
def test_a_first_line_comes_before_the_imports(words):
    code = f"""{RUN}
class Imported(BaseException): pass
class Watch:
    def find_spec(self, name, *more):
        if name in ("torch", "pyarrow", "scipy"): raise Imported
sys.meta_path.insert(0, Watch())
try: run(*sys.argv[1:])
except Imported: print("imports", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stderr == f"{LOADING}\nimports\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("filter", "apache_beam", ""), ("view", "uvicorn", "view"), ("train", "torch", "train"),
        ("bench --model x", "torch", "eval"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_one_line_that_names_it(command, missing, extra, tmp_path):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from open_diht import cli;"
        " sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    name = command.split()[0]
    why = (
        f"open-diht {name} needs {missing}, which is not installed:"
        f" {remedy(*filter(None, [extra]))}"
    )
    assert done.stderr == f"{LOADING}\nerror: {why}\n"
