"""Towers and loaders of one's own: by import path or by name, with tokens of their own; what does
not fit is named."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from open_diht.trainer.architecture import (
    BadArchitecture,
    architecture,
    build,
    input_shape,
    tokenizer,
)
from open_diht.trainer.config import ConceptSettings, ModelSettings, TransformSettings
from open_diht.trainer.data import BadSource, DataSettings, Source
from open_diht.trainer.export import export, load
from open_diht.trainer.inputs import open_pairs
from open_diht.trainer.model import build_student
from open_diht.trainer.towers import build_tower, imported_class, register
from open_diht.trainer.warm_start import BadWeights


class Halves(nn.Module):
    """An image tower of one's own: sums of neighbours."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.input_shape = (2 * embed_dim,)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        return self.factor * features.unflatten(1, (-1, 2)).sum(dim=2)


class Normed(nn.Module):
    def __init__(self, embed_dim: int, *, image_size: int):
        super().__init__()
        self.input_shape = (3, image_size, image_size)
        self.norm = nn.BatchNorm2d(3)
        self.map = nn.Linear(3, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.map(self.norm(images).mean(dim=(2, 3)))


class Lengths:
    vocab_size = 9

    def __call__(self, captions: Sequence[str]) -> Tensor:
        rows = [[len(word) for word in text.split()][:6] for text in captions]
        return torch.tensor([row + [0] * (6 - len(row)) for row in rows])


class Counts(nn.Module):
    """A text tower of one's own: the mean of the vectors of its ids."""

    def __init__(
        self, embed_dim: int, *, vocab_size: int, context_length: int, language: str = "en"
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, padding_idx=0)

    @staticmethod
    def tokenizer(settings: dict[str, Any]) -> Lengths:
        return Lengths()

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids).mean(dim=1)


HALVES = {"tower": f"{__name__}:Halves"}
NORMED = {"tower": f"{__name__}:Normed", "image_size": 16}
COUNTS = {"tower": f"{__name__}:Counts", "context_length": 6}
CLIPS = {"width": 16, "heads": 2, "layers": 1, "context_length": 6}


def settings(image: dict[str, Any], text: dict[str, Any], **more: Any) -> ModelSettings:
    return ModelSettings(
        architecture={"embed_dim": 4, "vision_cfg": image, "text_cfg": text}, **more
    )


@pytest.mark.parametrize("text", [COUNTS, CLIPS], ids=["own", "clip's"])
@pytest.mark.parametrize(
    ("image", "shape"), [(HALVES, (8,)), (NORMED, (3, 16, 16))], ids=["features", "images"]
)
def test_a_pair_of_towers_is_a_dual_encoder_that_exports_and_loads(image, shape, text, tmp_path):
    torch.manual_seed(0)
    model = architecture(settings(image, text))
    clip = build(model, 0.1).eval()
    assert input_shape(clip, model) == shape and clip.logit_scale.exp().item() == pytest.approx(10)
    images = torch.rand(3, *shape)
    ids = tokenizer(model)(["a dog", "runs", "a cat runs"])
    assert text is CLIPS or ids[:, :3].tolist() == [[1, 3, 0], [4, 0, 0], [1, 3, 4]]
    folder = export(tmp_path / "export", model, clip.state_dict(), {}, "# Card\n")
    loaded, tokens = load(folder, [part["tower"] for part in (image, text) if "tower" in part])
    assert torch.equal(tokens(["a dog", "runs", "a cat runs"]), ids)
    for ours, theirs in ((loaded.encode_image(images), clip.encode_image(images)),
                         (loaded.encode_text(ids), clip.encode_text(ids))):  # fmt: skip
        assert ours.shape == (3, 4) and torch.equal(ours, theirs)
    unit = loaded.encode_image(images, normalize=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))


def test_a_tower_of_ones_own_is_named_by_its_import_path_or_registered() -> None:
    model = architecture(settings(HALVES, COUNTS))
    assert torch.equal(build(model, 0.1).encode_image(torch.ones(1, 8)), torch.full((1, 4), 2.0))
    register("halves", Halves)
    assert isinstance(build_tower({"tower": "halves"}, 4), Halves)
    with pytest.raises(ValueError, match="a tower called halves already"):
        register("halves", nn.Linear)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"tower": "halvess"}, r"unknown tower.*'halvess' is not of the form package.module:Class"),
        ({"tower": NORMED["tower"]}, "Normed does not take its settings: .*image_size"),
        ({"tower": "nowhere:Tower"}, "nowhere:Tower cannot be imported"),
        (
            {"tower": "open_diht.trainer.towers:is_own"},
            r"is not a class derived from torch.nn.*Module",
        ),
        ({"tower": "torch.nn:Identity"}, "has no tuple input_shape"),
    ],
)
def test_what_is_wrong_with_a_tower_is_named(image: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArchitecture, match=message):
        build(architecture(settings(image, COUNTS)), 0.1)


@pytest.mark.parametrize("name", ["nowhere:Loader", "loader", f"{__name__}:Halves"])
def test_what_is_wrong_with_a_loader_of_ones_own_is_named(name: str) -> None:
    with pytest.raises(BadSource, match=f"data.loader: .*{name}"):
        open_pairs(DataSettings(loader=name), TransformSettings(), (8,), training=True)


def test_a_class_may_lie_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed command has its own folder on the import path instead."""
    (tmp_path / "lies_in_this_folder.py").write_text(
        "import torch\nclass Tower(torch.nn.Identity): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert imported_class("lies_in_this_folder:Tower", nn.Module).__name__ == "Tower"
    with pytest.raises(
        ValueError, match=r"absent:Tower cannot be imported: .* in this folder, or on PYTHONPATH"
    ):
        imported_class("absent:Tower", nn.Module)


def test_a_tower_of_features_reads_no_shards() -> None:
    with pytest.raises(BadSource, match=r"takes features of shape \(8,\): set data.loader"):
        open_pairs(
            DataSettings(sources=(Source(path="x"),)), TransformSettings(), (8,), training=True
        )


@pytest.mark.parametrize("name", ["hf_model_name", "hf_tokenizer_name"])
def test_text_models_of_a_hub_do_not_go_with_a_tower(name: str) -> None:
    model = {"embed_dim": 4, "vision_cfg": HALVES, "text_cfg": {name: "nobody/absent"}}
    with pytest.raises(BadArchitecture, match="leave hf_model_name and hf_tokenizer_name out"):
        build(model, 0.1)


@pytest.mark.parametrize("key", ["warm_start", "warm_start_text"])
def test_weights_of_other_tokens_are_refused(key: str, tmp_path: Path) -> None:
    """All shapes fit, and each word would get the vector of another one."""
    model = architecture(settings(HALVES, COUNTS))
    folder = export(tmp_path / "export", model, build(model, 0.1).state_dict(), {}, "# Card\n")
    start: dict[str, Any] = {key: str(folder / "open_clip_model.safetensors")}
    build_student(settings(HALVES, COUNTS, **start), ConceptSettings(), {})
    with pytest.raises(BadWeights, match="another text_cfg"):
        build_student(
            settings(HALVES, {**COUNTS, "language": "de"}, **start), ConceptSettings(), {}
        )


def test_batch_norms_from_scratch_are_refused_or_learn() -> None:
    with pytest.raises(BadWeights, match=r"model.batch_norm=batch"):
        build_student(settings(NORMED, COUNTS), ConceptSettings(), {})
    student, _, _ = build_student(
        settings(NORMED, COUNTS, batch_norm="batch"), ConceptSettings(), {"objects": 3}
    )
    student.train()
    before = [buffer.clone() for buffer in student.statistics()]
    student(torch.rand(4, 3, 16, 16), torch.ones(4, 6, dtype=torch.int64))
    assert before and all(
        not torch.equal(a, b) for a, b in zip(before, student.statistics(), strict=True)
    )
    assert not student.eval().statistics()
