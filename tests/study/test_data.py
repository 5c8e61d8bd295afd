"""The sets as they are read, drawn small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from study import data as data_module
from study import synthetic
from study.data import Data, SetMissing
from study.synthetic import write_synthetic
from study.verdicts import Decided


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(synthetic, "WEB", 16)
        patched.setattr(synthetic, "HELD", 4)
        patched.setattr(synthetic, "PHOTOGRAPHS", {"train": 4, "dev": 2, "test": 3})
        write_synthetic(found)
    return found


@pytest.fixture
def data(folder: Path, tmp_path: Path) -> Data:
    return Data(folder, tmp_path / "cache")


def test_features_of_the_web_are_standardised_on_what_is_learnt_from(data: Data) -> None:
    web = data.web()
    train = web.features[web.split == "train"]
    assert train.shape == (16, 1280) and web.features.shape == (20, 1280)
    assert np.abs(train.mean(axis=0)).max() < 1e-4
    deviation = train.std(axis=0)
    assert np.all((np.abs(deviation - 1) < 1e-3) | (deviation == 0))
    assert sorted(set(web.verdict.tolist())) == ["action", "kept"]


def test_photographs_lie_in_the_space_of_the_web(data: Data) -> None:
    web, photographs = data.web(), data.flickr8k("test")
    assert photographs.images.shape == (3, 1280) and [len(each) for each in photographs.captions] == [5] * 3
    raw = photographs.images * web.deviation + web.mean
    assert raw.min() > -0.01, "features behind a ReLU are not negative"


def test_what_is_computed_once_is_kept(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.flickr8k("dev").images
    monkeypatch.setattr("study.images._computed", lambda tar, teacher: pytest.fail("computed again"))
    assert np.array_equal(Data(data.folder, data.cache).flickr8k("dev").images, first)


def test_drawn_captions_have_an_image_and_a_verdict_each(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "drawn_verdicts", lambda tar, output: {
        f"{number:06d}": Decided(f"caption {number}", "text_spotting") for number in range(8)
    })  # fmt: skip
    drawn = data.drawn()
    assert len(drawn.captions) == len(drawn.features) == 8, "half as many as there are pairs to learn from"
    assert set(drawn.verdict.tolist()) == {"text_spotting"} and drawn.captions[3] == "caption 3"


def test_what_is_missing_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "bench"))
    data = Data(tmp_path / "none", tmp_path / "cache")
    assert len(data.missing()) == 7
    with pytest.raises(
        SetMissing, match=r"web-features\.npz.*the claims cat and negatives.*`make study-data ARGS=web`"
    ):
        data.web()


def test_one_form_of_a_set_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path))
    data = Data(tmp_path / "none", tmp_path / "cache")
    assert not data.has("cifar10")
    (tmp_path / "torchvision" / "cifar10").mkdir(parents=True)
    assert data.has("cifar10")
