"""Small towers: by name, of one's own, with words as ids; what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from open_diht.trainer.architecture import BadArchitecture, architecture, build, input_shape, tokenizer
from open_diht.trainer.config import ConceptSettings, ModelSettings
from open_diht.trainer.export import export, load
from open_diht.trainer.model import build_student
from open_diht.trainer.towers import WordTokenizer, build_tower, register
from open_diht.trainer.towers.words import frequent_words, read_words
from open_diht.trainer.warm_start import BadWeights

IMAGES = {
    "feature_mlp": ({"tower": "feature_mlp", "width": 10, "hidden": 8}, (10,)),
    "convnet": ({"tower": "convnet", "image_size": 16, "widths": [4, 8]}, (3, 16, 16)),
}
TEXTS: dict[str, dict[str, Any]] = {
    "bag_of_words": {"tower": "bag_of_words", "width": 8},
    "word_transformer": {"tower": "word_transformer", "width": 8, "heads": 2},
    "clip's": {"width": 16, "heads": 2, "layers": 1},
}


class Halves(nn.Module):
    """A tower of one's own: sums of neighbours."""

    def __init__(self, embed_dim: int):
        super().__init__()
        self.input_shape = (2 * embed_dim,)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, features: Tensor) -> Tensor:
        return self.factor * features.unflatten(1, (-1, 2)).sum(dim=2)


def settings(words: Path, image: dict[str, Any], text: dict[str, Any], **more: Any) -> ModelSettings:
    text = {**text, "vocabulary": str(words), "context_length": 6}
    return ModelSettings(architecture={"embed_dim": 4, "vision_cfg": image, "text_cfg": text}, **more)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("a\ndog\nruns\n")
    return path


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("image", IMAGES)
def test_a_pair_of_towers_is_a_dual_encoder_that_exports_and_loads(image, text, words, tmp_path):
    torch.manual_seed(0)
    tower, shape = IMAGES[image]
    model = architecture(settings(words, tower, TEXTS[text]))
    clip = build(model, 0.1).eval()
    assert input_shape(clip, model) == shape and clip.logit_scale.exp().item() == pytest.approx(10)
    images, ids = torch.rand(3, *shape), tokenizer(model)(["a dog", "runs", "a cat runs"])
    folder = export(tmp_path / "export", model, clip.state_dict(), {}, "# Card\n")
    words.unlink()  # the words are in the export
    loaded, tokens = load(folder)
    assert torch.equal(tokens(["a dog", "runs", "a cat runs"]), ids)
    for ours, theirs in ((loaded.encode_image(images), clip.encode_image(images)),
                         (loaded.encode_text(ids), clip.encode_text(ids))):  # fmt: skip
        assert ours.shape == (3, 4) and torch.equal(ours, theirs)
    unit = loaded.encode_image(images, normalize=True)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))


def test_a_tower_of_ones_own_is_named_by_its_import_path_or_registered(words: Path) -> None:
    model = architecture(settings(words, {"tower": f"{__name__}:Halves"}, TEXTS["bag_of_words"]))
    assert torch.equal(build(model, 0.1).encode_image(torch.ones(1, 8)), torch.full((1, 4), 2.0))
    register("halves", Halves)
    assert isinstance(build_tower({"tower": "halves"}, 4), Halves)
    with pytest.raises(ValueError, match="a tower called halves already"):
        register("halves", nn.Linear)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"tower": "convnett"}, r"unknown tower 'convnett' \(did you mean 'convnet'\?\); choose feature_mlp"),
        ({"tower": "convnet"}, "convnet does not take its settings: .*image_size"),
        ({"tower": "nowhere:Tower"}, "nowhere:Tower cannot be imported"),
        ({"tower": "open_diht.trainer.towers:is_own"}, "is not a torch.nn.Module"),
        ({"tower": "torch.nn:Identity"}, "has no tuple input_shape"),
    ],
)
def test_what_is_wrong_with_a_tower_is_named(image: dict[str, Any], message: str, words: Path) -> None:
    with pytest.raises(BadArchitecture, match=message):
        build(architecture(settings(words, image, TEXTS["bag_of_words"])), 0.1)


@pytest.mark.parametrize("name", ["hf_model_name", "hf_tokenizer_name"])
def test_text_models_of_a_hub_do_not_go_with_a_tower(name: str) -> None:
    model = {"embed_dim": 4, "vision_cfg": IMAGES["feature_mlp"][0], "text_cfg": {name: "nobody/absent"}}
    with pytest.raises(BadArchitecture, match="leave hf_model_name and hf_tokenizer_name out"):
        build(model, 0.1)


def test_a_vocabulary_that_is_none_is_named(words: Path, tmp_path: Path) -> None:
    for content in ("", "a\na\n"):
        words.write_text(content)
        with pytest.raises(BadArchitecture, match=r"text_cfg.vocabulary .*words.txt cannot be used"):
            architecture(settings(words, *[IMAGES["convnet"][0], TEXTS["bag_of_words"]]))


def test_words_are_ids_padded_with_0_and_unknown_ones_1() -> None:
    ids = WordTokenizer(["a", "dog's"], 4)(["A DOG'S, a", "", "a b c d e"])
    assert ids.tolist() == [[2, 3, 2, 0], [0, 0, 0, 0], [2, 1, 1, 1]]
    assert WordTokenizer(["a"], 4).vocab_size == 3


def test_a_vocabulary_is_what_occurs_often_enough(tmp_path: Path) -> None:
    assert frequent_words(["b b a", "a c", "a"], at_least=2) == ["a", "b"]
    (tmp_path / "words").write_text("b\n\n a \n")
    assert read_words(tmp_path / "words") == ["b", "a"]


@pytest.mark.parametrize("name", ["bag_of_words", "word_transformer"])
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    tower = build_tower({**TEXTS[name], "context_length": 6}, 4, vocab_size=9).eval()
    short = torch.tensor([[2, 5, 0, 0, 0, 0]])
    tower_of_two = build_tower({**TEXTS[name], "context_length": 2}, 4, vocab_size=9).eval()
    state = {name: value[:2] if name == "places" else value for name, value in tower.state_dict().items()}
    tower_of_two.load_state_dict(state)
    torch.testing.assert_close(tower(short), tower_of_two(short[:, :2]))
    assert tower(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all()


def test_batch_norms_from_scratch_are_refused_or_learn(words: Path) -> None:
    convnet = IMAGES["convnet"][0]
    with pytest.raises(BadWeights, match=r"model.batch_norm=batch"):
        build_student(settings(words, convnet, TEXTS["bag_of_words"]), ConceptSettings(), {})
    student, _, _ = build_student(
        settings(words, convnet, TEXTS["bag_of_words"], batch_norm="batch"), ConceptSettings(), {"objects": 3}
    )
    student.train()
    before = [buffer.clone() for buffer in student.statistics()]
    student(torch.rand(4, 3, 16, 16), torch.ones(4, 6, dtype=torch.int64))
    assert before and all(not torch.equal(a, b) for a, b in zip(before, student.statistics(), strict=True))
    assert not student.eval().statistics()
