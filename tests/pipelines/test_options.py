"""The options of a run: a slip is answered, and help printed, before anything heavy is imported."""

import sys

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from open_diht.common.command_line import WrongUse
from open_diht.filters.presets import preset_names
from open_diht.pipelines import options
from open_diht.pipelines.manifests.formats import format_names
from open_diht.pipelines.runners.beam_private import OptionParser, add_options
from tests.pipelines.processes import REPOSITORY, captured

HEAVY = ("apache_beam", "torch", "spacy", "pyarrow", "uvicorn")


@pytest.mark.parametrize("how", [("-m", "open_diht"), ("-m", "open_diht.pipelines")])
@pytest.mark.parametrize(
    ("words", "status", "answer"),
    [
        (["--inptu", "x"], 2, "error: unknown argument '--inptu'; did you mean --input?"),
        (
            ["--stage=captions"],
            2,
            "error: unknown argument '--stage=captions'; did you mean --stages?",
        ),
        (["--unit-rows", "few"], 2, "error: argument --unit-rows: "),
        (["--preset", "papr"], 2, "error: unknown preset 'papr' (did you mean 'paper'?)"),
        (
            ["--preset", "nowhere.yaml"],
            2,
            "error: preset file nowhere.yaml: No such file or directory;",
        ),
        (["--dataset", "smaple"], 2, "error: unknown data set 'smaple' (did you mean 'sample'?)"),
        (
            ["--stages", "captions,spoting"],
            2,
            "error: unknown stage spoting; choose from captions, download, ",
        ),
        (["--runner", "spark"], 2, "error: unknown runner 'spark'; choose direct, "),
        (["--shard", "4/4"], 2, "error: shard '4/4' is not i/n"),
        (["--delimiter", "ab"], 2, "error: sample: delimiter 'ab'"),
        (["--input="], 2, "error: --input is empty"),
        (["--help"], 0, "usage: "),
    ],
)
def test_a_slip_and_help_wait_for_no_import(how, words, status, answer, tmp_path):
    """`tmp_path` is no checkout: the missing sample is not what is wrong."""
    commands = ["filter", "pilot"] if how[1] == "open_diht" else [""]
    for command in commands:
        code = (
            "import atexit, runpy, sys\n"
            f"atexit.register(lambda: print('loaded', sorted({set(HEAVY)} & sys.modules.keys())))\n"
            f"runpy.run_module({how[1]!r}, run_name='__main__', alter_sys=True)"
        )
        typed = [word for word in (command, *words) if word]
        done = captured(
            [sys.executable, "-c", code, *typed], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}
        )
        assert done.returncode == status, done.stderr
        assert (done.stderr if status else done.stdout).startswith(answer)
        assert done.stdout.endswith("loaded []\n") and not list(tmp_path.iterdir())


def test_a_plugin_may_add_what_its_options_name() -> None:
    words = ["--plugin", "mine", "--stages", "captions,looks", "--preset", "mine.yaml"]
    assert options.parse(words).stages == "captions,looks"
    with pytest.raises(WrongUse, match="unknown runner 'spark'"):
        options.parse([*words, "--runner", "spark"])


def test_the_options_of_beam_are_those_that_its_source_names() -> None:
    for cls in PipelineOptions.__subclasses__():
        if cls.__module__ == "apache_beam.options.pipeline_options":
            parser = OptionParser(add_help=False, conflict_handler="resolve")
            add_options(cls, parser)
            words = [
                f"{name}=1"
                for action in parser._actions
                for name in action.option_strings
                if name != "--runner"
            ]
            assert options.parse(words).of_beam == words


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("--flink-mastr", "--flink_master"),
        ("--worker", "--workers"),
        ("--worker-zon=a", "--worker_zone"),
    ],
)
def test_the_nearest_option_is_named_whose_ever_it_is(typed: str, remedy: str) -> None:
    with pytest.raises(WrongUse, match=f"unknown argument '{typed}'; did you mean {remedy}[?]"):
        options.parse([typed, "1"])


def test_values_and_options_of_beam_are_left_to_beam() -> None:
    words = [
        "--preset",
        "strict",
        "--flink-master",
        "host:1",
        "--utterly-unheard-of",
        "--experiments=a",
    ]
    found = options.parse(words)
    assert found.preset == "strict" and found.of_beam == words[2:]


def test_help_names_the_presets_and_formats_that_there_are() -> None:
    assert options._PRESETS.names() == preset_names()
    assert format_names() == options.FORMATS
