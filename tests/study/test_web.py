"""Pairs of the web from a manifest: which runs of the filter are asked for, and what is made of
their outputs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_diht.eval.fetch.archives import jpeg, write_tar
from study import web
from study.data import Data
from study.images import samples
from study.web import make_web, pairs_of

SHARDS = {"00000": ("b", "a"), "00001": ("d", "c", "e")}
SAID = {
    "a": ("a dog runs", "kept"),
    "b": ("sale", "action"),
    "d": ("a cat sits", "kept"),
    "e": ("SALE", "text_spotting"),
}
SHADES = {key: 40 * number for number, key in enumerate("abcde")}


class Filter:
    """What the two runs leave behind; of `c`, which could not be read, nothing is said."""

    def __init__(self) -> None:
        self.runs: list[dict[str, str]] = []

    def __call__(self, *options: str) -> None:
        self.runs.append(dict(zip(options[::2], options[1::2], strict=True)))
        output = Path(self.runs[-1]["--output"])
        if len(self.runs) == 1:
            (output / "shards").mkdir(parents=True)
            for name, keys in SHARDS.items():
                image = {
                    key: jpeg(Image.new("RGB", (40, 30), (SHADES[key],) * 3), 90) for key in keys
                }
                write_tar(
                    output / "shards" / f"{name}.tar",
                    ((key, {"jpg": image[key], "txt": key}) for key in keys),
                )
            return
        for kind in ("kept", "rejected"):
            rows = [
                (key, *said)
                for key, said in SAID.items()
                if (said[1] == "kept") == (kind == "kept")
            ]
            table = dict(
                zip(
                    ("__key__", "caption", "reason"),
                    map(list, zip(*rows, strict=True)),
                    strict=True,
                )
            )
            (output / kind).mkdir(parents=True)
            pq.write_table(pa.table(table), output / kind / "part-00000.parquet")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Filter]:
    """A folder of sets with the pairs of five of six urls."""

    def brightness(tar: Path, cache: Path) -> np.ndarray:
        return np.array([[SHADES[key], 1.0] for key in SHARDS[tar.stem]], np.float32)

    filter_ = Filter()
    monkeypatch.setattr(web, "run_filter", filter_)
    monkeypatch.setattr(web, "tar_features", brightness)
    monkeypatch.setattr(web, "HELD", 0.5)
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text(
        "".join(f"caption {n}\thttp://127.0.0.1/{n}.jpg\n" for n in range(6)), encoding="utf-8"
    )
    said: list[str] = []
    assert make_web(manifest, 5, tmp_path / "sets", said.append, ["--download-timeout", "5"]) == 4
    assert said == [f"web: 4 of 5 pairs in {tmp_path / 'sets' / 'web-features.npz'}"]
    return tmp_path / "sets", filter_


def test_all_images_are_fetched_before_cat_decides(made: tuple[Path, Filter]) -> None:
    folder, filter_ = made
    fetching, deciding = filter_.runs
    assert fetching["--stages"] == "download,export" and fetching["--download-timeout"] == "5"
    assert len(Path(fetching["--input"]).read_text(encoding="utf-8").splitlines()) == 5
    assert deciding["--stages"] == "captions,spotting"
    assert sorted(folder.glob("web/images/shards/*.tar")) == sorted(
        Path("/").glob(deciding["--input"][1:])
    )


def test_features_captions_and_verdicts_are_of_the_same_pairs(made: tuple[Path, Filter]) -> None:
    with np.load(made[0] / "web-features.npz") as stored:
        assert stored["features"][:, 0].tolist() == [SHADES[key] for key in "bade"]
        assert stored["caption"].tolist() == [SAID[key][0] for key in "bade"]
        assert stored["verdict"].tolist() == [SAID[key][1] for key in "bade"]
        assert set(stored["split"].tolist()) == {"held", "train"}


def test_the_images_of_the_shards_are_those_of_the_features(
    made: tuple[Path, Filter], tmp_path: Path
) -> None:
    data = Data(made[0], tmp_path / "cache")
    assert data.has("web-images")
    found = data.web(16)
    assert found.images.mean(axis=(1, 2, 3)).round().tolist() == [SHADES[key] for key in "bade"]
    features = data.web()
    for name in ("captions", "verdict", "split"):
        assert np.array_equal(getattr(found, name), getattr(features, name))


def test_whether_a_pair_is_held_out_is_decided_by_its_key_alone(made: tuple[Path, Filter]) -> None:
    def images(shard: Path) -> np.ndarray:
        return np.zeros((len(list(samples(shard))), 1))

    there = pairs_of(made[0], images)
    shards = made[0] / "web/images/shards"
    (shards / "00000.tar").rename(shards / "00002.tar")
    back = pairs_of(made[0], images)
    assert there.captions.tolist() != back.captions.tolist()
    assert dict(zip(there.captions, there.split, strict=True)) == dict(
        zip(back.captions, back.split, strict=True)
    )
