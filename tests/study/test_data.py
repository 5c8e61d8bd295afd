"""The sets as they are read, drawn small."""

from pathlib import Path

import numpy as np
import pytest

from study import data as data_module
from study import synthetic
from study.data import Data, SetMissing
from study.synthetic import write_synthetic
from study.verdicts import Decided

TRAIN = 19
"""Of the 20 pairs of the web those that are learnt from, by their keys."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic, "WEB", 20)
        patched.setattr(synthetic, "PHOTOGRAPHS", {"train": 4, "dev": 2, "test": 3})
        write_synthetic(found)
    return found


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Data:
    return Data(folder, tmp_path / "cache")


def test_features_of_the_web_are_standardised_on_what_is_learnt_from(data: Data) -> None:
    web = data.web()
    train = web.images[web.split == "train"]
    assert train.shape == (TRAIN, 1280) and web.images.shape == (20, 1280)
    assert np.abs(train.mean(axis=0)).max() < 1e-4
    deviation = train.std(axis=0)
    assert np.all((np.abs(deviation - 1) < 1e-3) | (deviation == 0))
    assert sorted(set(web.verdict.tolist())) == ["action", "kept"]


def test_photographs_lie_in_the_space_of_the_web(data: Data) -> None:
    raw = data.flickr8k_of_teacher("test").images
    photographs = data.flickr8k("test")
    assert (
        photographs.images.shape == (3, 1280)
        and [len(each) for each in photographs.captions] == [5] * 3
    )
    with np.load(data.folder / "web-features.npz") as stored:
        train = stored["features"][stored["split"] == "train"].astype(np.float32)
    varied = train.std(axis=0) > 0
    again = photographs.images * train.std(axis=0) + train.mean(axis=0)
    assert varied.sum() > 100 and np.allclose(again[:, varied], raw[:, varied], atol=1e-3)


def test_what_is_computed_once_is_kept(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.flickr8k("dev").images
    monkeypatch.setattr("study.images._computed", lambda *of: pytest.fail("computed again"))
    assert np.array_equal(Data(data.folder, data.cache).flickr8k("dev").images, first)


@pytest.fixture
def drawn_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many captions were drawn as there are pairs to learn from."""
    made = {
        f"{number:06d}": Decided(f"caption {number}", "text_spotting")
        for number in range(TRAIN // 2)
    }
    monkeypatch.setattr(data_module, "drawn_verdicts", lambda tar, output: made)


@pytest.mark.usefixtures("drawn_ones")
def test_drawn_captions_have_an_image_and_a_verdict_each(data: Data) -> None:
    drawn = data.drawn()
    assert len(drawn.captions) == len(drawn.images) == TRAIN // 2
    assert set(drawn.verdict.tolist()) == {"text_spotting"} and drawn.captions[3] == "caption 3"


@pytest.mark.usefixtures("drawn_ones")
def test_pairs_of_the_web_as_images_are_those_of_the_features(data: Data) -> None:
    features = data.web()
    images = data.web(48)
    assert images.images.shape == (20, 3, 48, 48) and images.images.dtype == np.uint8
    for name in ("captions", "verdict", "split"):
        assert np.array_equal(getattr(images, name), getattr(features, name))
    colours = {
        "red": (255, 0, 0),
        "green": (0, 128, 0),
        "blue": (0, 0, 255),
        "yellow": (255, 255, 0),
    }
    backs = {text: text.split()[-2] for text in images.captions.tolist() if text.endswith("field")}
    for image, text in zip(images.images, images.captions.tolist(), strict=True):
        if (colour := colours.get(backs.get(text, ""))) is not None:
            assert np.abs(image[:, :2, :2].mean(axis=(1, 2)) - colour).max() < 40, text
    assert data.drawn(48).images.shape == (TRAIN // 2, 3, 48, 48)
    assert data.flickr8k("test", 48).images.shape == (3, 3, 48, 48)


def test_what_is_missing_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "bench"))
    data = Data(tmp_path / "none", tmp_path / "cache")
    assert len(data.missing("cpu")) == 7 and len(data.missing("gpu")) == 3
    assert "web/images/shards" in data.missing("gpu")[0]
    said = (
        r"web-features\.npz.*the claims cat, negatives, rivals, mix, teachers and select.*ARGS='web"
        r" --manifest TSV'`"
    )
    with pytest.raises(SetMissing, match=said):
        data.web()


def test_one_form_of_a_set_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path))
    data = Data(tmp_path / "none", tmp_path / "cache")
    assert not data.has("cifar10")
    (tmp_path / "torchvision" / "cifar10").mkdir(parents=True)
    assert data.has("cifar10")
