"""The recogniser with all of its classes, and with those of Latin text only."""

from pathlib import Path

import numpy as np
import pytest

from open_diht.filters.spotting.ocr.alphabets import load_recogniser
from open_diht.filters.spotting.ocr.networks import load_network
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.weights import find_models


@pytest.fixture(scope="module")
def folder(ocr_models) -> Path:
    return find_models("tiny").recognition


def test_latin_letters_and_what_is_no_letter_are_kept(folder):
    _, known = load_recogniser(folder, "all")
    _, kept = load_recogniser(folder, "latin")
    assert set(kept) < set(known)
    assert set(map(chr, range(33, 127))) | set(" éßÆ½€★、") <= set(kept)
    assert not set("京三Ω") & set(kept) and "京" in known


def test_probabilities_are_those_of_all_classes_made_to_sum_to_one(folder):
    whole, known = load_recogniser(folder, "all")
    cut, kept = load_recogniser(folder, "latin")
    assert len(cut) < 0.6 * len(whole)
    lines = np.random.default_rng(0).uniform(-1, 1, (2, 3, 48, 96)).astype(np.float32)
    expected = load_network(whole, SpotterSettings())(lines)[
        ..., [0, *(known.index(character) + 1 for character in kept)]
    ]
    expected /= expected.sum(axis=-1, keepdims=True)
    assert load_network(cut, SpotterSettings())(lines) == pytest.approx(expected, abs=1e-5)


def test_files_of_another_kind_are_named(folder, tmp_path):
    detector = folder.parent / "det" / "inference.onnx"
    (tmp_path / "inference.onnx").write_bytes(detector.read_bytes())
    (tmp_path / "inference.yml").write_bytes((folder / "inference.yml").read_bytes())
    with pytest.raises(ValueError, match=r"inference\.onnx does not end in a linear layer"):
        load_recogniser(tmp_path, "latin")
    (tmp_path / "inference.yml").write_text("PostProcess: {character_dict: }")
    with pytest.raises(
        ValueError, match=r"inference\.yml has no list under PostProcess\.character_dict"
    ):
        load_recogniser(tmp_path, "latin")
