"""HN-NCE's arms: what chose the initial scale is not reported, and what is said to be chosen is
what the rows chose."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.claims import negatives
from study.claims.described import described
from study.rows import Arm, Rows

RESULTS = Path(negatives.__file__).resolve().parents[1] / "results"


class Present:
    def wanted(self, *names: str) -> None:
        pass


def test_scales_in_the_file_are_those_that_the_rows_chose() -> None:
    chosen = described(negatives.ABOUT)["chosen"]
    assert negatives.best_scales(Rows(RESULTS).read("negatives")) == chosen


def test_the_best_scale_has_the_lowest_mean_rank_over_seeds(tmp_path: Path) -> None:
    rows = Rows(tmp_path)
    for seed, ranks in ((100, {2: 20.0, 5: 10.0, 10: 30.0}), (101, {2: 10.0, 5: 16.0, 10: 11.0})):
        for start, rank in ranks.items():
            arm = Arm(claim="negatives", pool="tuning", arm="beta-1", budget=8, seed=seed,
                      settings={"stage": "tuning", "beta": 1, "scale": start})  # fmt: skip
            rows.write(
                arm, {"web-chosen/t2i/gm_rank": rank}, {"web-chosen/t2i": np.array([1])}, 1.0, {}
            )
    assert negatives.best_scales(rows.read("negatives")) == {8: {1: 5}}
    assert negatives.ranks_by_scale(rows.read("negatives"))[8][1][5] == pytest.approx(160**0.5)


def test_no_seed_of_the_grid_is_reported_and_betas_are_paired() -> None:
    made: Any = negatives.arms("cpu", "full", Present())  # type: ignore[arg-type]
    grid = {arm.seed for arm in made if arm.settings.get("stage") == "tuning"}
    reported = [arm for arm in made if arm.settings.get("stage") != "tuning"]
    assert grid and not grid & {arm.seed for arm in reported}
    for pool, budget, seed in {(arm.pool, arm.budget, arm.seed) for arm in reported}:
        betas = [
            arm.arm for arm in reported if (arm.pool, arm.budget, arm.seed) == (pool, budget, seed)
        ]
        assert sorted(betas) == ["beta-0", "beta-0.25", "beta-0.5", "beta-1"]
    assert {arm.settings["scale"] for arm in reported if arm.pool == "usual"} == {14.3}


@pytest.mark.parametrize(
    ("track", "scale"), [("cpu", "quick"), ("cpu", "tiny"), ("gpu", "full"), ("gpu-tiny", "tiny")]
)
def test_a_shorter_study_and_one_on_a_gpu_choose_nothing(track: str, scale: str) -> None:
    made: Any = negatives.arms(track, scale, Present())  # type: ignore[arg-type]
    assert {arm.pool for arm in made} == {"usual", "tuned"}
