"""The arms of selection: the constants come from one half of a pool, the reported rows from the
other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.pipelines.select.repeats import DELAYS, HALVES
from study.claims import select
from study.rows import TUNING, Rows
from study.tables import TABLES, lines
from study.words import pool_in_words
from tests.study.claims.test_cat import Few

REPOSITORY = Path(__file__).resolve().parents[3]
VERDICTS = np.array(["kept", "action", "kept", "text_spotting", "complexity"] * 4)


def test_an_epoch_holds_as_many_pairs_as_are_seen_and_rejected_ones_after_their_delay() -> None:
    kept = VERDICTS == "kept"
    assert select.chosen(VERDICTS, "kept", 80, 0).tolist() == kept.astype(int).tolist()
    assert select.chosen(VERDICTS, "all", 80, 0).tolist() == [1] * 20
    for arm, delay in (("delay-3", 3), ("selected", DELAYS["action"])):
        repeats = select.chosen(VERDICTS, arm, 80, 0)
        assert repeats.sum() == 80
        assert repeats[kept].mean() - repeats[~kept].mean() == pytest.approx(delay, abs=0.2)
        assert not select.chosen(VERDICTS, arm, 8, 0)[~kept].any()


def test_tuned_and_reported_rows_share_no_pair_no_test_and_no_seed() -> None:
    data: Any = Few()
    arms = select.arms("cpu", "full", data)
    tuning = [arm for arm in arms if arm.settings.get("stage") == TUNING]
    reported = [arm for arm in arms if arm not in tuning]
    assert tuning and reported and not {arm.seed for arm in tuning} & {arm.seed for arm in reported}
    halves = [select._half("natural", data, None, half)[0] for half in (0, 1)]
    images = [{row.tobytes() for row in half.images} for half in halves]
    assert not images[0] & images[1] and sum(map(len, images)) == 560
    small = next(
        arm
        for arm in select.arms("cpu", "tiny", data)
        if (arm.pool, arm.arm) == ("natural", "selected")
    )
    metrics, items, notes = select.run(small, data)
    assert set(items) == {
        f"{name}/{way}" for name in ("flickr8k-test", "web-held") for way in ("t2i", "i2t")
    }
    assert len(items["web-held/t2i"]) == 20 and metrics["web-held/t2i/gm_rank"] >= 1
    assert notes["repeats"] - notes["repeats_of_rejected"] == pytest.approx(
        DELAYS["action"], abs=0.05
    )


def test_the_constants_are_what_the_committed_rows_give() -> None:
    delay, halves = select.fitted(Rows(REPOSITORY / "study" / "results").read("select"))
    assert set(DELAYS.values()) == {delay} and halves == HALVES


def test_the_page_has_the_changes_of_the_committed_rows() -> None:
    found = lines(Rows(REPOSITORY / "study" / "results"), TABLES["select"], "cpu")
    page = (REPOSITORY / "docs" / "howto" / "select.md").read_text(encoding="utf-8")
    changes = {(line.items, line.pool, line.budget, line.a): line for line in found}
    within = [line for line in found if line.a == "all" and line.found[0].difference <= 3]
    assert len(found) == 24 and f"{len(within)} of 12 comparisons" in page
    for (items, pool, budget, a), line in changes.items():
        kept = changes[items, pool, budget, "kept"]
        if a == "all":
            both = " | ".join(
                f"{x.difference:+.1f} [{x.low:+.1f}, {x.high:+.1f}]"
                for x in (line.found[0], kept.found[0])
            )
            row = (
                f"| {items.removesuffix('/t2i')} | {pool_in_words(pool, line.pairs)} |"
                f" {budget:,} | {line.repeats:.1f} | {both} |"
            )
            assert row in page.replace("**", "")  # significant changes are bold
