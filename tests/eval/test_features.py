"""The feature cache: nothing is encoded twice, nothing stale is used, and what lies there is
whole."""

import copy
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open_diht.eval.data import Memo
from open_diht.eval.data.webdataset_layout import read_webdataset
from open_diht.eval.errors import DataBroken, ModelError
from open_diht.eval.features import FeatureCache
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.models import load_model
from tests.eval.conftest import image
from tests.tiny_clip import write_tiny
from tests.webdatasets import write_webdataset


class Counted:
    """Wraps a model and counts what its encoders are given."""

    def __init__(self, model: Any, stop_after: int | None = None) -> None:
        self._model = model
        self._stop = stop_after
        self.images_seen = 0
        self.texts_seen = 0

    def __getattr__(self, name: Any) -> Any:
        return getattr(self._model, name)

    def images(self, batch: Any) -> Any:
        if self._stop is not None and self.images_seen >= self._stop:
            raise KeyboardInterrupt
        self.images_seen += len(batch)
        return self._model.images(batch)

    def texts(self, texts: Any) -> Any:
        self.texts_seen += len(texts)
        return self._model.texts(texts)


counted_model: Any = Counted


@pytest.fixture
def data(colour_set, memo) -> Any:
    return read_webdataset(colour_set(n=14) / "colours", "test", "labels", memo, "colours")


def test_features_are_unit_vectors_in_the_order_of_the_set(cache, data, tiny, tmp_path):
    features = cache.images(data.images)
    found = features.all()
    assert found.shape == (14, tiny.width) and found.dtype == np.float32
    assert features.folder.is_relative_to(tmp_path / "features")
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(14), abs=1e-5)
    assert list(features.keys) == list(data.images.keys)
    one = tiny.images(tiny.preprocess(data.images.open(9))[None])[0]
    assert found[9] == pytest.approx(one, abs=1e-5)
    assert (features.rows(3, 11) == found[3:11]).all()
    given = np.empty((8, features.width), np.float32)
    assert features.rows(3, 11, given) is given and (given == found[3:11]).all()
    for wanted in ([], [13], [5, 0, 5, 12, 4]):
        assert (features.take(np.array(wanted, dtype=np.int64)) == found[wanted]).all()


def test_an_interrupted_run_goes_on_and_encodes_no_image_twice(tmp_path, tiny, data):
    first = counted_model(tiny, stop_after=8)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path / "f", first, batch=4).images(data.images)
    second = counted_model(tiny)
    FeatureCache(tmp_path / "f", second, batch=4).images(data.images)
    third = counted_model(tiny)
    FeatureCache(tmp_path / "f", third, batch=5).images(data.images)
    assert (first.images_seen, second.images_seen, third.images_seen) == (8, 6, 0)


def test_the_same_images_serve_every_task(tmp_path, tiny, colour_set, memo):
    classes = read_webdataset(colour_set(n=6) / "colours", "test", "labels", memo, "colours")
    captions = [
        (f"s{i:04d}", {"jpg": jpeg(image(("red", "green", "blue")[i % 3], i)), "txt": "x"})
        for i in range(6)
    ]
    write_webdataset(tmp_path / "texts", captions, kind="retrieval")
    retrieval = read_webdataset(tmp_path / "texts", "test", "captions", memo, "texts")
    model = counted_model(tiny)
    cache = FeatureCache(tmp_path / "f", model)
    cache.images(classes.images)
    cache.images(retrieval.images)
    assert model.images_seen == 6


def test_other_weights_or_another_preprocessing_are_encoded_anew(tmp_path, tiny, data):
    other = load_model(str(write_tiny(tmp_path / "other", seed=1)), data=tmp_path)
    assert other.fingerprint != tiny.fingerprint
    for model in (tiny, other):
        counted = counted_model(model)
        FeatureCache(tmp_path / "f", counted).images(data.images)
        assert counted.images_seen == 14


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_and_what_was_encoded_before_stays(tmp_path, tiny, memo, workers):
    samples = [
        (f"s{i}", {"jpg": b"junk" if i == 5 else jpeg(image("red", i)), "cls": "0"})
        for i in range(7)
    ]
    write_webdataset(tmp_path / "broken", samples, class_names=["red"])
    data = read_webdataset(tmp_path / "broken", "test", "labels", memo, "broken")
    model = counted_model(tiny)
    for expected in (4, 4):
        with pytest.raises(DataBroken, match="sample s5"):
            FeatureCache(tmp_path / "f", model, batch=2, workers=workers).images(data.images)
        assert model.images_seen == expected


@pytest.mark.parametrize(
    "damage", ["not a number", "another number", "another batch", "no array", "torn"]
)
def test_a_damaged_batch_is_no_hit(tmp_path, tiny, data, damage):
    """Thirty of sixty rows set to not-a-number once made 35 % of hits 67 %."""
    features = FeatureCache(tmp_path / "f", tiny, batch=4).images(data.images)
    whole = features.all()
    first, second = sorted(features.folder.glob("*.npy"))[:2]
    rows = np.load(second)
    if damage == "another batch":
        second.write_bytes(first.read_bytes())
    elif damage in ("no array", "torn"):
        second.write_bytes(second.read_bytes()[: 0 if damage == "no array" else 70])
    else:
        rows[1] = np.nan if damage == "not a number" else -rows[1]
        np.save(second, rows)
    (features.folder / ".tmp-left-over.npy").write_bytes(b"")  # a foreign file is ignored
    counted = counted_model(tiny)
    again = FeatureCache(tmp_path / "f", counted, batch=4).images(data.images)
    assert counted.images_seen == 4 and again.all() == pytest.approx(whole, abs=1e-6)


def test_features_that_are_no_numbers_are_never_kept(tmp_path, tiny, data):
    model = counted_model(tiny)
    model.images = lambda batch: np.full((len(batch), tiny.width), np.nan, np.float32)
    with pytest.raises(ModelError, match="finite"):
        FeatureCache(tmp_path / "f", model, batch=4).images(data.images)
    assert not list(tmp_path.rglob("*.npy"))


def test_a_torn_record_is_written_again(tmp_path, tiny, data):
    for content in ("", '{"width": 3', "[]", '{"width": 32}'):
        features = FeatureCache(tmp_path / "f", tiny).images(data.images)
        (features.folder / "meta.json").write_text(content)
    counted = counted_model(tiny)
    assert (
        FeatureCache(tmp_path / "f", counted).images(data.images).width == tiny.width
        and counted.images_seen == 0
    )


def test_other_libraries_or_another_kind_of_device_are_encoded_anew(tiny, monkeypatch):
    before = tiny.fingerprint
    monkeypatch.setitem(tiny.record, "device", "cuda:1")
    on_gpu = tiny.fingerprint
    monkeypatch.setitem(tiny.record, "device", "cuda:0")
    assert tiny.fingerprint == on_gpu != before  # ranks share what they encode
    monkeypatch.undo()
    monkeypatch.setattr("open_diht.eval.models.model.library_versions", lambda: {"torch": "1.0"})
    assert tiny.fingerprint != before


def test_fp32_is_no_tf32(tiny):
    class Spy:
        """Sees what is allowed while it encodes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tiny._model, name)

        def encode_text(self, tokens: Any) -> Any:
            seen.append((torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()))
            return tiny._model.encode_text(tokens)

    seen: list[Any] = []
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    model = copy.copy(tiny)
    model._model = Spy()
    model._short = False
    torch.set_float32_matmul_precision("high")
    try:
        model.texts(["a cat"])
        assert seen == [(False, "highest")] and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[1])
    assert torch.backends.cudnn.allow_tf32 == before[0]


def test_equal_texts_are_encoded_once_and_equal_to_the_last_bit(tmp_path, tiny):
    model = counted_model(tiny)
    texts = [
        "sunglasses",
        *(f"a longer text, number {i}" for i in range(9)),
        "sunglasses",
        *["word " * 200] * 2,
    ]
    for _ in range(2):  # they are kept, too
        features = FeatureCache(tmp_path / "f", model, text_batch=4).texts(texts)
    assert model.texts_seen == 11 and features.count == 13 and features.truncated == 2
    found = features.all()
    assert (found[0] == found[10]).all() and (found[11] == found[12]).all()
    assert (features.rows(9, 12) == found[9:12]).all()
    assert (features.take(np.array([12, 0, 10])) == found[[12, 0, 10]]).all()
    direct = np.concatenate([tiny.texts([text]) for text in texts])
    assert found == pytest.approx(direct, abs=1e-5)


def test_features_that_are_no_numbers_are_an_error(tmp_path):
    broken: Any = load_model(str(write_tiny(tmp_path / "nan")), data=tmp_path)
    with torch.no_grad():
        broken._model.visual.ln_post.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite numbers"):
        broken.images(torch.zeros(1, 3, 32, 32))


class Slow(Counted):
    """Takes its time."""

    def images(self, batch: Any) -> Any:
        time.sleep(0.05)
        return super().images(batch)


def encode(model: Path, root: Path) -> None:
    """Runs in a process of its own."""
    torch.set_num_threads(1)
    data = read_webdataset(root / "colours", "test", "labels", Memo(root / "hashes"), "colours")
    slow: Any = Slow(load_model(str(model), data=model))
    FeatureCache(root / "f", slow, batch=2).images(data.images)


@pytest.mark.slow
@pytest.mark.kill
def test_killed_while_encoding_it_goes_on_from_the_last_batch(
    colour_set, tiny, tiny_folder, memo, forks, tmp_path
):
    root = colour_set(n=60)
    child = forks.start(__file__, "encode", tiny_folder, root, said=tmp_path / "said.txt")
    deadline = time.monotonic() + 120
    while len(list(root.glob("f/*/[0-9]*.npy"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert forks.wait(child) == -signal.SIGKILL, (tmp_path / "said.txt").read_text()
    done = sum(len(np.load(path)) for path in root.glob("f/*/[0-9]*.npy"))
    assert 8 <= done < 60
    data = read_webdataset(root / "colours", "test", "labels", memo, "colours")
    model = counted_model(tiny)
    features = FeatureCache(root / "f", model, batch=2).images(data.images)
    assert model.images_seen == 60 - done
    direct = tiny.images(
        torch.stack([tiny.preprocess(data.images.open(index)) for index in range(60)])
    )
    assert features.all() == pytest.approx(direct, abs=1e-5)
