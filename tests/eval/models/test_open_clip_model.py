"""Leaving out the padding of texts changes no feature, and is done only where it cannot."""

import copy

import pytest
import torch

from open_diht.eval.models.open_clip_model import can_shorten, encode_short

TEXTS = ["a cat", "a photo of a dog in the snow", "x", "word " * 100]


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:3], TEXTS])
def test_features_are_those_of_the_whole_length(tiny, texts):
    tokens = tiny._tokens(texts)
    with torch.inference_mode():
        whole = tiny._model.encode_text(tokens)
        short = encode_short(tiny._model, tokens)
    assert tiny._short
    assert short.numpy() == pytest.approx(whole.numpy(), abs=1e-5)


def test_the_model_is_left_as_it_was(tiny):
    before = {name: value.clone() for name, value in tiny._model.state_dict().items()}
    mask = tiny._model.attn_mask
    tiny.texts(["a cat"])
    after = tiny._model.state_dict()
    assert list(before) == list(after) and all(
        torch.equal(before[name], after[name]) for name in before
    )
    assert tiny._model.attn_mask is mask and mask.shape == (77, 77)


def test_only_texts_read_at_their_end_by_what_sees_nothing_later_are_shortened(tiny):
    model = copy.deepcopy(tiny._model)
    tokens = tiny._tokens(["a cat"])
    assert can_shorten(model, tokens)
    model.attn_mask = torch.zeros(77, 77)
    assert not can_shorten(model, tokens)
    model = copy.deepcopy(tiny._model)
    model.text_pool_type = "last"
    assert not can_shorten(model, tiny._tokens(["a cat"]))
    assert not can_shorten(torch.nn.Linear(2, 2), torch.zeros(1, 2))
