"""Killed with SIGKILL at random moments and started again, features end as if nothing had
happened."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import timm  # noqa: F401  # that forks have it
import torch  # noqa: F401

from open_diht.pipelines.runners import Direct
from open_diht.pipelines.teachers import cli
from tests.pipelines.conftest import Here
from tests.pipelines.kills import Moment, check_kills
from tests.pipelines.processes import ForkedStarter, enter


def make_targets(words: list[str], *where: str) -> None:
    """The command, which does its units itself: a worker would take seconds to import torch. Runs
    in a process of its own."""
    enter(*where)
    with patch.object(Direct, "run", Here.run):
        raise SystemExit(cli.main(words))


class Runs(ForkedStarter):
    program = (__file__, "make_targets")

    def words(self, given: Path, output: Path, *more: str, workers: int) -> list[str]:
        return [
            "--data",
            str(given),
            "--output",
            str(output),
            "--workers",
            "1",
            "--batch-size",
            "8",
            *more,
        ]


@pytest.fixture
def runs(tmp_path, forks) -> Iterator[Runs]:
    with contextlib.closing(Runs(forks, tmp_path)) as made:
        yield made


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_started_again_equals_undisturbed(tmp_path, runs, filtered, tiny, made):
    data = filtered.write(
        [24] * 4, lambda n, m: [(m[0][0], b"<html>"), *m[1:]] if n % 30 == 7 else m
    )
    options = ["--teacher", tiny[0], "--weights", tiny[1]]
    calm = tmp_path / "calm"
    killed = tmp_path / "killed"
    runs.finish(data, calm, *options)
    moments = [Moment("*", (0, 0.5), 0.1), Moment("*", (0.5, 1), 0.1)]
    left = check_kills(runs, data, options, moments, calm=calm, killed=killed, hits=1, read=made)
    assert len(left) == 4 * 3 + 1
    assert not [*(killed / "work" / "features" / "begun").glob("*")]
