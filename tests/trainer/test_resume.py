"""Killed at a random step and started again, a run ends with the bits of an undisturbed one."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from open_diht.common.command_line import WrongUse
from open_diht.trainer.config_files import load_config, merged, plain
from open_diht.trainer.resume import as_begun
from tests.trainer.conftest import STATEFUL

SCRIPT = Path(__file__).with_name("kill_runs.py")
SEED = random.SystemRandom().randrange(10**6)


@pytest.fixture
def killed_and_calm(tiny_values, targets, tmp_path, forks):
    def compare(
        world: int, workers: int, kills: int, how: str, times: Sequence[int] = ()
    ) -> dict[str, Any]:
        config = tmp_path / "config.yaml"
        selection = tmp_path / "selection.npy"
        np.save(
            selection,
            np.repeat(np.array([(0, number) for number in range(len(times))], "u8,u8"), times),
        )
        sections = {"data": {"workers": workers, "selection": str(selection) if len(times) else ""}}
        sections |= {"concepts": {"path": str(targets)}, "run": {"max_nonfinite": 2}}
        values = tiny_values(**merged(STATEFUL, sections))
        config.write_text(yaml.safe_dump(values))
        arguments = (str(config), tmp_path, world, kills, SEED, how)
        status = forks.wait(
            forks.start(str(SCRIPT), "kill_and_compare", *arguments, said=tmp_path / "compared.txt")
        )
        said = "".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("*.txt")))
        assert status == 0, f"seed {SEED}: {said}"
        return dict(json.loads((tmp_path / "found.json").read_text()))

    return compare


def equal(found: dict[str, Any]) -> bool:
    return bool(found["losses"] and found["model"] and found["training"] and found["steps"] == 12)


@pytest.mark.kill
@pytest.mark.parametrize(
    ("world", "workers", "times", "kills"),
    [
        pytest.param(1, 2, [3, 0, 1, 1] * 24, 1, marks=pytest.mark.slow, id="selection"),
        pytest.param(2, 0, [], 1, marks=pytest.mark.slow, id="all"),
        *(
            pytest.param(world, n, [], 4, marks=pytest.mark.soak)
            for world in (1, 2)
            for n in (0, 2)
        ),
    ],
)
def test_killed_at_a_random_step_with_a_torn_checkpoint(
    world, workers, times, kills, killed_and_calm
):
    """It goes on from the checkpoint before, across the border of an epoch at step 5 or 10 (of a
    selection with up to three repeats: 6)."""
    found = killed_and_calm(world, workers, kills, "tear", times)
    assert equal(found), (SEED, found)
    assert len(found["damaged"]) == 1 and len(found["killed_at"]) == kills, (SEED, found)
    assert found["killed_at"][0] >= 7, (SEED, found)


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 2)])
def test_asked_to_stop_at_random_moments(world, workers, killed_and_calm):
    """All processes get the signal, as from a launcher; it may come in a step, a check or a save.
    No step is lost."""
    found = killed_and_calm(world, workers, 3, "stop")
    assert equal(found) and found["lost"] == 0, (SEED, found)


def test_a_run_of_an_older_version_resumes_unless_its_data_are_read_in_another_way() -> None:
    config = load_config("tiny", base={"data": {"sources": [{"path": "/data/cat"}], "streams": 4}})
    begun = plain(config)
    of_today = {"loader", "path"}
    older = {key: value for key, value in begun["data"].items() if key not in of_today} | {
        "features": ""
    }
    assert as_begun(config, {**begun, "data": older}, True, "w") == config
    for other in ({"features": "pairs.npz"}, {"selection": "selection.npy"}):
        with pytest.raises(WrongUse, match=r"another data\.features"):
            as_begun(config, {**begun, "data": older | other}, True, "w")
