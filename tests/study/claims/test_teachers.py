"""The claim of stored teachers: the halves of the web, what is stored, and that an arm learns from
it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.trainer.concepts import open_targets
from open_diht.trainer.embeddings import open_embeddings
from study.claims import teachers
from study.claims.described import described
from study.claims.pools import open_pool
from study.rows import CPU, Arm
from study.tables import TABLES
from study.training import FILE, pair_keys
from tests.study.claims.test_cat import Few

KINDS = (
    "red dog",
    "green bird",
    "blue car",
    "white horse",
    "black cat",
    "yellow boat",
    "brown cow",
    "old house",
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """600 pairs of eight kinds, for a teacher that learns for a tenth of its time."""
    monkeypatch.setitem(described(teachers.ABOUT)["teacher"], "budget", 5120)
    few: Any = Few()
    few.cache = tmp_path
    said = [
        f"a {KINDS[int(caption[5])]} on the {caption[-6:]}"
        for caption in few.web().captions.tolist()
    ]
    few._web = replace(few.web(), captions=np.array(said))
    return few


def test_arms_that_are_compared_have_the_same_pools_budgets_and_seeds(data: Any) -> None:
    made: dict[str, set[tuple[str, int, int]]] = {}
    for arm in teachers.arms(CPU, "full", data):
        made.setdefault(arm.arm, set()).add((arm.pool, arm.budget, arm.seed))
    assert made.pop("more-infonce") == {
        one for one in made["none-infonce"] if one[0].endswith("-all")
    }
    tables = [
        table
        for name, table in TABLES.items()
        if name.startswith("teachers") and name != "teachers-more"
    ]
    compared = {arm for table in tables for contrast in table.contrasts for arm in contrast}
    assert compared == made.keys() and len({frozenset(each) for each in made.values()}) == 1
    assert len(made["none-hn"]) == 4 * 2 * 5


@pytest.mark.parametrize("origin", ["natural", "injected"])
def test_no_image_is_in_both_halves_whatever_its_captions(origin: str, data: Any) -> None:
    known = open_pool(data, None).pairs
    mine = {known.images[row].tobytes() for row in known.image[teachers._is_teachers(known)]}
    all_, kept, more = (
        teachers._pairs(f"{origin}-{part}", data)[0] for part in ("all", "kept", "more")
    )
    images = [{image.tobytes() for image in pairs.images} for pairs in (all_, kept, more)]
    assert images[1] < images[0] and not images[0] & mine and images[2] == images[0] | mine
    assert (
        len(more.captions) == len(all_.captions) + len(mine)
        and 0.4 < len(mine) / len(known.captions) < 0.6
    )


def test_an_arm_learns_what_the_teacher_has_stored_about_its_pairs(data: Any) -> None:
    metrics, items, notes = teachers.run(
        Arm(claim="teachers", pool="natural-kept", arm="both-hn", budget=2560, seed=0), data
    )
    (pairs, _), folder = (
        teachers._pairs("natural-kept", data),
        teachers._stored("natural-kept", data),
    )
    assert (
        notes["pairs"] == len(pairs.captions)
        and {"flickr8k-test/t2i", "web-held/t2i"} <= items.keys()
    )
    # 20 images of 8 kinds: the kind alone gives about 3, a blind guess about 8.
    assert metrics["web-held/t2i/gm_rank"] < 4 and notes["teacher"]["web-held/t2i/gm_rank"] < 4
    keys = pair_keys(FILE, len(pairs.captions))
    teacher = teachers._teacher(data)
    targets = open_embeddings(folder / "embeddings")
    stored = targets.shard(FILE)
    heads = open_targets(folder / "concepts").shard(FILE)
    assert stored is not None and heads is not None and list(stored.keys) == keys
    assert (heads.rows(keys) >= 0).all() and heads.head("objects", heads.rows(keys))[1].sum(
        axis=1
    ).min() > 0.9
    assert targets.temperature == teacher.temperature
    mean = np.mean(
        [
            (one.images(pairs.images[pairs.image]) * one.texts(pairs.captions)).sum(dim=1).numpy()
            for one in teacher.models
        ],
        axis=0,
    )
    cosine = (stored.image[:, 0].astype(np.float32) * stored.text[:, 0]).sum(axis=1)
    assert cosine == pytest.approx(mean, abs=2e-3)
