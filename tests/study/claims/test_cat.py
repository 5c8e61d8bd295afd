"""The arms of CAT: which pairs they learn from, and that all of them are measured alike."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from study.claims import cat
from study.claims.pools import open_pool, web_held
from study.rows import Arm
from study.verdicts import Decided
from study.web import Web

VERDICTS = np.array(["kept", "action", "kept", "text_spotting", "complexity"] * 4)


class Few:
    def __init__(self, pairs: int = 600):
        random = np.random.default_rng(0)
        kinds = random.integers(0, 8, pairs)
        features = np.eye(8)[kinds].repeat(160, axis=1) + 0.3 * random.normal(size=(pairs, 1280))
        self._web = Web(
            images=features.astype(np.float32),
            captions=np.array(
                [f"thing{kind} seen from place{row % 7}" for row, kind in enumerate(kinds)]
            ),
            verdict=np.where(np.arange(pairs) % 4 < 2, "kept", "action"),
            split=np.where(np.arange(pairs) < pairs - 40, "train", "held"),
        )

    def wanted(self, *names: str) -> None:
        pass

    def web(self, side: int | None = None) -> Web:
        return self._web

    @property
    def laion(self) -> list[Decided]:
        return [Decided(f"strange {row}", "kept" if row % 2 else "complexity") for row in range(30)]

    def drawn(self, side: int | None = None) -> Any:
        return SimpleNamespace(
            images=np.ones((5, 1280), np.float32),
            captions=np.array(["drawn"] * 5),
            verdict=np.array(["text_spotting"] * 5),
        )

    def flickr8k(self, split: str, side: int | None = None) -> Any:
        web = self._web
        return SimpleNamespace(
            images=web.images[:20], captions=tuple((str(text),) * 2 for text in web.captions[:20])
        )


def test_a_random_part_is_as_large_as_what_is_kept_and_another_one_for_every_seed() -> None:
    kept = cat.chosen(VERDICTS, "kept", 0)
    assert VERDICTS[kept].tolist() == ["kept"] * 8
    parts = [tuple(cat.chosen(VERDICTS, "random", seed)) for seed in range(5)]
    assert {len(part) for part in parts} == {8} and len(set(parts)) == 5
    assert all(len(set(part)) == 8 for part in parts)


def test_without_text_spotting_what_it_alone_rejects_stays() -> None:
    assert set(VERDICTS[cat.chosen(VERDICTS, "kept-ca", 0)]) == {"kept", "text_spotting"}
    assert len(cat.chosen(VERDICTS, "all", 0)) == len(VERDICTS)


def test_the_noisy_pool_has_the_web_strange_captions_and_drawn_ones() -> None:
    data: Any = Few()
    natural = open_pool(data, None)
    noisy = open_pool(data, None, noise=True)
    assert natural.about(np.arange(560)) == {"web": 560}
    assert noisy.about(np.arange(len(noisy.verdict))) == {"web": 560, "strange": 30, "drawn": 5}
    strange = noisy.origin == "strange"
    assert set(noisy.verdict[strange]) == {"kept", "complexity"}
    seen = noisy.pairs.images[noisy.pairs.image[strange]]
    of_web = {row.tobytes() for row in data.web().images[:560]}
    assert all(row.tobytes() in of_web for row in seen)


def test_halves_of_the_held_out_pairs_share_nothing() -> None:
    data: Any = Few()
    halves = [set(web_held(data.web(), half).captions) for half in (0, 1)]
    sizes = [len(web_held(data.web(), half).captions) for half in (0, 1, None)]
    assert sizes == [20, 20, 40] and halves[0] | halves[1] == set(web_held(data.web()).captions)


def test_an_arm_is_a_training_and_ranks_of_both_sets() -> None:
    data: Any = Few()
    arm = Arm(claim="cat", pool="natural", arm="kept", budget=2560, seed=0)
    metrics, items, notes = cat.run(arm, data)
    assert {name: len(ranks) for name, ranks in items.items()} == {
        "flickr8k-test/t2i": 40, "flickr8k-test/i2t": 20, "web-held/t2i": 40, "web-held/i2t": 40,
    }  # fmt: skip
    assert all(ranks.min() >= 1 for ranks in items.values())
    assert metrics["web-held/t2i/gm_rank"] == pytest.approx(
        np.exp(np.log(items["web-held/t2i"]).mean())
    )
    assert notes == {"pairs": 280, "repeats": 2560 / 280, "web": 280}
    again, _, _ = cat.run(arm, data)
    assert again == metrics


@pytest.mark.parametrize(
    ("track", "scale"),
    [
        ("cpu", "full"),
        ("cpu", "quick"),
        ("cpu", "tiny"),
        ("gpu", "full"),
        ("gpu", "quick"),
        ("gpu-tiny", "tiny"),
    ],
)
def test_every_comparison_has_at_least_three_seeds(track: str, scale: str) -> None:
    made: Any = cat.arms(track, scale, Few())  # type: ignore[arg-type]
    assert len({arm.key for arm in made}) == len(made)
    for pool, budget in {(arm.pool, arm.budget) for arm in made}:
        seeds = [
            {arm.seed for arm in made if (arm.pool, arm.budget, arm.arm) == (pool, budget, name)}
            for name in ("all", "random", "kept", "kept-ca")
        ]
        assert all(each == seeds[0] and len(each) >= 3 for each in seeds)
