"""Several ranks share the encoding and the ranking, and get what one process gets."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.common.ranks import Ranks
from open_diht.eval.cli import main
from open_diht.eval.fetch.archives import jpeg
from tests.eval.conftest import COLOURS, image
from tests.forks import Forks
from tests.webdatasets import questions_member, write_webdataset

SUITE = """
name: two
about: for two ranks
tasks:
  - {name: i2t, kind: retrieval, title: T, metric: recall@1, direction: image_to_text,
     license: CC0-1.0, get: nowhere, sources: [{layout: webdataset, path: told}]}
  - {name: t2i, kind: retrieval, title: T, metric: recall@1, direction: text_to_image,
     license: CC0-1.0, get: nowhere, sources: [{layout: webdataset, path: told}]}
  - {name: classes, kind: classification, title: T, metric: mean_per_class,
     license: CC0-1.0, get: nowhere, sources: [{layout: webdataset, path: colours}],
     support: [{layout: webdataset, path: colours}]}
  - {name: asked, kind: vqa, title: T, metric: soft_accuracy,
     license: CC0-1.0, get: nowhere, sources: [{layout: webdataset, path: asked}]}
"""


def test_one_process_is_all_there_is_and_shares_cover_everything_once():
    alone = Ranks()
    assert (
        alone.first
        and list(alone.part(3)) == [0, 1, 2]
        and alone.share("x") == "x"
        and alone.collect(5) == [5]
    )
    with pytest.raises(ValueError, match="told"):
        alone.all_or_error(ValueError("told"))
    assert sorted(index for rank in range(3) for index in Ranks(rank, 3).part(8)) == list(range(8))


class Three(Ranks):
    """Rank 0 of three, whose colleagues have done their share."""

    def collect(self, value: Any) -> list[Any]:
        return [value, *([] if self.world == 1 else self.others)]

    others: list[Any]


@pytest.mark.parametrize("edges", [[0, 3, 4, 9, 10, 12], [0, 5], [0, 1, 2], [0]])
def test_what_ranks_computed_is_put_in_the_order_of_the_blocks(edges):
    blocks = [range(low, high) for low, high in itertools.pairwise(edges)]
    rows = np.arange(2 * edges[-1]).reshape(-1, 2)

    def share(rank: int) -> np.ndarray:
        return np.concatenate(
            [
                rows[:0],
                *(rows[blocks[i].start : blocks[i].stop] for i in Ranks(rank, 3).part(len(blocks))),
            ]
        )

    three = Three(0, 3)
    object.__setattr__(three, "others", [share(1), share(2)])
    assert (three.in_order(blocks, share(0)) == rows).all()
    assert (Ranks().in_order(blocks, rows) == rows).all()


@pytest.mark.slow
def test_two_ranks_encode_every_image_once_and_agree_with_one(tmp_path, tiny_folder, forks):
    told = [
        (f"t{i}", {"jpg": jpeg(image("red", i)), "txt": f"one {i}\ntwo {i}"}) for i in range(31)
    ]
    write_webdataset(tmp_path / "data" / "told", told, kind="retrieval")
    names = list(COLOURS)
    classes = [
        (f"c{i}", {"jpg": jpeg(image(names[i % 3], i)), "cls": str(i % 3)}) for i in range(20)
    ]
    write_webdataset(
        tmp_path / "data" / "colours", classes, class_names=names, templates=["a {c} thing"]
    )
    question = {
        "question": "Is it red?",
        "kind": "yes/no",
        "answers": ["yes"],
        "candidates": ["yes", "no"],
    }
    asked = [
        (f"q{i}", {"jpg": jpeg(image("red", 50 + i)), "json": questions_member([question])})
        for i in range(9)
    ]
    write_webdataset(tmp_path / "data" / "asked", asked, kind="vqa")
    (tmp_path / "two.yaml").write_text(SUITE, encoding="utf-8")
    found = {}
    for ranks in (1, 2):
        found[ranks] = _run(tmp_path, tiny_folder, ranks, forks)
    assert found[1] == found[2]
    assert {kind for _, kind, *_ in found[1]} == {"retrieval", "classification", "few_shot", "vqa"}
    (folder,) = [
        path for path in (tmp_path / "features2").iterdir() if len(list(path.glob("*.npy"))) == 8
    ]
    spans = sorted(
        tuple(int(part) for part in path.stem.split("-")[:2]) for path in folder.glob("*.npy")
    )
    assert spans == [(start, min(start + 4, 31)) for start in range(0, 31, 4)]
    assert all(len(np.load(path)) for path in folder.glob("*.npy"))


def evaluate(words: list[str]) -> None:
    """Runs on every rank."""
    assert main(words) == 0


def _run(tmp_path: Path, model: Path, ranks: int, forks: Forks) -> list[tuple[Any, ...]]:
    out = tmp_path / f"out{ranks}"
    words = [
        "--model",
        str(model),
        "--tasks",
        str(tmp_path / "two.yaml"),
        "--data",
        str(tmp_path / "data"),
    ]
    words += [
        "--output",
        str(out),
        "--cache",
        str(tmp_path / f"features{ranks}"),
        "--batch",
        "4",
        "--workers",
        "0",
    ]
    words += ["--shots", "2", "--seeds", "2", "--device", "cpu"]
    said = forks.call_on_ranks(ranks, __file__, "evaluate", words, folder=tmp_path)
    assert said.count("4 of 4 tasks measured") == 1
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return [
        (row["task"], row["kind"], row["metric"], row["value"], row["low"], row["high"], row["n"])
        for row in rows
    ]
