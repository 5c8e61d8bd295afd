"""Beam's options on our command line: known ones go through, everything else is refused before
anything starts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.options import filter_parser
from open_diht.pipelines.runners import RUNNERS, RunnerError, make_backend
from open_diht.pipelines.runners.beam_options import check_beam_options, option_values
from tests.pipelines.processes import REPOSITORY


def test_options_go_through_in_both_spellings_and_with_their_values() -> None:
    given = ["--flink-master", "host:1", "--parallelism=3", "--experiments=a", "--experiments=b"]
    flags = check_beam_options(given, "flink")
    values = option_values(flags)
    assert (values["flink_master"], values["parallelism"], values["experiments"]) == (
        "host:1",
        3,
        ["a", "b"],
    )


@pytest.mark.parametrize(
    ("arguments", "runner", "message"),
    [
        (
            ["--utterly-unheard-of"],
            "direct",
            "unknown argument '--utterly-unheard-of' (see --help)",
        ),
        (["stray"], "direct", "unknown argument 'stray' (see --help)"),
        (["--parallelism=many"], "flink", "invalid int value: 'many'"),
        (["--flink_version=1.2"], "flink", "invalid choice: '1.2'"),
        (
            ["--flink_master=host:1"],
            "direct",
            "--flink_master is an option of --runner flink, not of --runner direct",
        ),
        (
            ["--project=p"],
            "prism",
            "--project is an option of --runner dataflow, not of --runner prism",
        ),
        (["--prism_location=/p"], "dataflow", "--prism_location is an option of --runner prism"),
        (["--spark_master_url=x"], "flink", "an option of a runner that is not supported"),
        (
            ["--direct_num_workers=4"],
            "direct",
            "--direct_num_workers is set by this program; use --workers",
        ),
        (
            ["--streaming"],
            "flink",
            "--streaming is set by this program; leave it out, because a run is a batch",
        ),
    ],
)
def test_what_beam_would_drop_or_misread_is_refused(
    arguments: list[str], runner: str, message: str
) -> None:
    with pytest.raises(RunnerError) as refused:
        check_beam_options(arguments, runner)
    assert message in str(refused.value)


@settings(max_examples=20, deadline=None)
@given(st.text("abcdefghijklmnopqrstuvwxyz_-", min_size=12, max_size=20), st.sampled_from(RUNNERS))
def test_no_unknown_name_gets_through(name: str, runner: str) -> None:
    with pytest.raises(RunnerError):
        check_beam_options([f"--zz{name}=1"], runner)


def test_beams_names_of_runners_are_taken_and_unknown_ones_refused() -> None:
    names = ("DataflowRunner", "FlinkRunner", "prism", "direct")
    assert [make_backend(name).name for name in names] == ["dataflow", "flink", "prism", "direct"]
    with pytest.raises(
        WrongUse, match=r"unknown runner 'spark'; choose direct, dask, flink or dataflow"
    ):
        make_backend("spark")


def test_prism_is_for_tests_and_not_listed_for_users() -> None:
    assert (
        "prism" not in filter_parser("filter").format_help().lower()
        and make_backend("prism").name == "prism"
    )
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (line,) = [line for line in makefile.splitlines() if line.startswith("RUNNER ")]
    assert "prism" not in line and all(name in line for name in RUNNERS)
