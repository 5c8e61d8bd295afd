"""Checks while training: recall by hand, chance, intervals, several ranks, zero-shot folders."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from open_diht.common.ranks import Ranks, joined_ranks
from open_diht.trainer import checks
from open_diht.trainer.config import CheckSettings, TransformSettings
from open_diht.trainer.data import DataError, DataSettings, Source
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.data.files import BadZeroShotFolder, ZeroShotData, read_zero_shot


class Told:
    """A student whose features are given: image i's are in its pixels, caption i's in its
    tokens."""

    def __init__(self, images: Any, texts: Any):
        self.images = images
        self.texts = texts

    def eval(self) -> None:
        pass

    def encode_image(self, images: Any) -> Any:
        return self.images[images[:, 0, 0, 0].long()]

    def encode_text(self, texts: Any) -> Any:
        return self.texts[texts[:, 0]]

    def __call__(self, images: Any, texts: Any) -> Any:
        return self.encode_image(images), self.encode_text(texts)


class Pairs:
    """A loader of pairs 0 .. n-1 in batches of two, one rank's part."""

    def __init__(self, n: int, hashes: Any = None, rank: int = 0, world: int = 1):
        mine = range(n * rank // world, n * (rank + 1) // world)
        hashes = torch.arange(n) if hashes is None else hashes
        self.batches = [
            Batch(
                images=torch.tensor([float(i) for i in part])
                .reshape(-1, 1, 1, 1)
                .expand(-1, 3, 2, 2),
                texts=torch.tensor(part).reshape(-1, 1),
                caption_hash=hashes[part],
                image_hash=torch.tensor(part),
                keys=[str(i) for i in part],
            )
            for start in range(0, len(mine), 2)
            if (part := list(mine[start : start + 2]))
        ]


def retrieved(student: Any, loader: Any, ranks: Ranks | None = None) -> dict[str, checks.Share]:
    return checks.retrieval(student, loader.batches, ranks or Ranks(), torch.device("cpu"))


def recalls(images: Any, texts: Any, hashes: Any = None) -> dict[str, float]:
    loader: Any = Pairs(len(images), hashes)
    found = retrieved(Told(images, texts), loader)
    return {name: share.value for name, share in found.items()}


def test_by_hand() -> None:
    eye = torch.eye(8)
    texts = eye.clone()
    texts[0] = eye[1] + 0.1 * eye[0]  # caption 0 describes image 1 better
    found = recalls(eye, texts)
    assert found["text_to_image_r1"] == pytest.approx(7 / 8)
    # Image 0 still likes caption 0 best; image 1 its own more than 0.
    assert found["image_to_text_r1"] == 1.0
    assert found["text_to_image_r5"] == 1.0


def test_a_collapsed_model_finds_nothing() -> None:
    """Ties count against the query, so that equal features do not look perfect."""
    assert set(recalls(torch.ones(16, 4), torch.ones(16, 4)).values()) == {0.0}


def test_features_that_are_not_numbers_find_nothing() -> None:
    eye = torch.eye(16)
    lost = torch.full((16, 16), torch.nan)
    assert set(recalls(lost, eye).values()) == set(recalls(eye, lost).values()) == {0.0}
    assert recalls(torch.where(torch.arange(16)[:, None] < 4, lost, eye), eye) == {
        # four queries are lost
        **dict.fromkeys([f"image_to_text_r{k}" for k in (1, 5, 10)], 12 / 16),
        # four come first
        "text_to_image_r1": 0.0, "text_to_image_r5": 12 / 16, "text_to_image_r10": 12 / 16,
    }  # fmt: skip


def test_pairs_with_the_same_caption_are_all_right() -> None:
    images = torch.eye(4)
    texts = torch.stack([images[1], images[1], images[2], images[3]])
    hashes = torch.tensor([5, 5, 6, 7])
    found = recalls(images, texts, hashes)
    assert found["text_to_image_r1"] == 1.0 and found["image_to_text_r1"] == pytest.approx(3 / 4)


def ranks_agree(folder: Path) -> None:
    """Runs on every rank: unequal shares, one rank without any."""
    with joined_ranks("cpu", 60) as ranks:
        generator = torch.Generator().manual_seed(0)
        for n in (7, 1):
            x, y = torch.randn(2, n, 6, generator=generator)
            expected = retrieved(Told(x, x + y), Pairs(n))
            mine: Any = Pairs(n, None, ranks.rank, ranks.world)
            found = retrieved(Told(x, x + y), mine, ranks)
            assert found == expected
        data = ZeroShotData(
            names=("a", "b"), images=tuple((folder / f"{i}.png", i % 2) for i in range(5))
        )
        if ranks.first:
            for i in range(5):
                Image.new("RGB", (2, 2), (i, 0, 0)).save(folder / f"{i}.png")
        ranks.barrier()
        told: Any = Told(torch.eye(2)[torch.tensor([0, 1, 0, 0, 0])], torch.eye(2))
        sections: dict[str, Any] = {
            "check": CheckSettings(templates=("{}",), batch_size=2),
            "transform": TransformSettings(),
            "data": DataSettings(sources=(Source(path="none"),), workers=1),
        }
        parts: Any = SimpleNamespace(
            evaluated=told,
            zero_shot=data,
            config=SimpleNamespace(**sections),
            shape=(3, 2, 2),
            tokenize=lambda prompts: torch.tensor([[int("b" in prompt)] for prompt in prompts]),
            ranks=ranks,
            device=torch.device("cpu"),
        )
        share = checks.zero_shot(parts)
        assert (share.value, share.n, share.chance) == (0.8, 5, 0.5)


def test_ranks_agree_with_one_process(on_ranks: Callable[..., None], tmp_path: Path) -> None:
    on_ranks(__file__, "ranks_agree", 2, tmp_path)


def test_zero_shot_folders(tmp_path: Path) -> None:
    for name in ("red_circle", "blue square"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
        (tmp_path / name / "notes.txt").touch()
    data = read_zero_shot(tmp_path)
    assert data.names == ("blue square", "red circle") and [label for _, label in data.images] == [
        0,
        1,
    ]
    (tmp_path / "classnames.txt").write_text("a square\na circle\n")
    assert read_zero_shot(tmp_path).names == ("a square", "a circle")
    (tmp_path / "classnames.txt").write_text("one\n")
    with pytest.raises(BadZeroShotFolder, match="names 1 classes; there are 2 folders"):
        read_zero_shot(tmp_path)
    (tmp_path / "classnames.txt").unlink()
    for image in tmp_path.rglob("*.png"):
        image.unlink()
    with pytest.raises(BadZeroShotFolder, match="holds no images"):
        read_zero_shot(tmp_path)


def test_zero_shot_while_training(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    from open_diht.trainer.loop import train

    for name in ("circle", "square"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for i in range(3):
            Image.effect_noise((48, 48), 50).convert("RGB").save(
                tmp_path / "classes" / name / f"{i}.png"
            )
    config = tiny_config(
        schedule={"samples": 32},
        check={"zero_shot": str(tmp_path / "classes"), "templates": ["a {}.", "one {}."]},
    )
    said: list[str] = []
    outcome = train(config, tmp_path / "w", said.append)
    share = outcome.checks["zero_shot/accuracy"]
    assert share.n == 6 and share.chance == 0.5
    assert any(text.startswith("step 2: zero-shot, 6 images: accuracy ") for text in said)
    # The training's images are smaller.
    smaller = replace(config, data=replace(config.data, max_pixels=48 * 48 - 1))
    with pytest.raises(
        DataError, match=r"48 x 48 pixels; at most 2,303 .*data\.max_pixels sets the limit"
    ):
        train(smaller, tmp_path / "x", said.append)


def test_mean_recall() -> None:
    share = checks.Share(value=0.25, low=0, high=1, n=4, chance=0.1)
    found = {
        "retrieval/a": share,
        "retrieval/b": replace(share, value=0.75),
        "zero_shot/accuracy": share,
    }
    assert checks.metric(found) == 0.5 and checks.metric({}) is None
