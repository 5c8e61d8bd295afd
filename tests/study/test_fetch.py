"""Fetching from a server on this machine, and what is made of the archives."""

import io
import json
import re
import tarfile
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_diht.eval.errors import FetchFailed
from study.data import Data
from study.fetch import (
    SIDE,
    Places,
    fetch,
    fetch_flickr8k,
    fetch_grocery,
    fetch_laion,
    main,
    shrunk,
)
from study.images import samples
from study.verdicts import run_filter
from tests.eval.fetch.test_fetch import Server, server

__all__ = ["server"]


def jpeg(width: int, height: int, colour: str = "red") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, "JPEG")
    return content.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, one in files.items():
            archive.writestr(name, one)
    return content.getvalue()


@pytest.fixture
def flickr8k(server: Server) -> str:
    names = {"train": ["b.jpg", "a.jpg"], "dev": ["c.jpg"], "test": ["d.jpg"]}
    every = [name for split in names.values() for name in split]
    texts = {
        f"Flickr_8k.{split}Images.txt": "\n".join(each).encode() for split, each in names.items()
    }
    texts["Flickr8k.token.txt"] = "".join(
        f"{name}#{number}\t{name[0]} says {number} .\n" for name in every for number in range(5)
    ).encode()
    server.files["/Flickr8k_text.zip"] = zipped(texts)
    images = {f"Flicker8k_Dataset/{name}": jpeg(300, 200) for name in every} | {
        "__MACOSX/._a.jpg": b"no image"
    }
    server.files["/Flickr8k_Dataset.zip"] = zipped(images)
    return server.address


def test_flickr8k_becomes_three_tars(flickr8k: str, server: Server, tmp_path: Path) -> None:
    counts = {"train": 2, "dev": 1, "test": 1}
    assert fetch_flickr8k(tmp_path, flickr8k, counts) == 4
    (key, first), _ = samples(tmp_path / "flickr8k-train.tar")
    assert key == "a" and json.loads(first["json"])["captions"] == [
        f"a says {number} ." for number in range(5)
    ]
    assert Image.open(io.BytesIO(first["jpg"])).size == (168, SIDE)
    asked = len(server.asked)
    assert fetch_flickr8k(tmp_path, flickr8k, counts) == 4
    assert len(server.asked) == asked, "what is at hand is not fetched again"
    found = Data(tmp_path, tmp_path / "cache").flickr8k("train", 16)
    assert found.keys == ("a", "b") and found.images.shape == (2, 3, 16, 16)
    assert found.captions[1][4] == "b says 4 ."


def test_an_archive_that_lacks_images_is_refused(
    flickr8k: str, server: Server, tmp_path: Path
) -> None:
    server.files["/Flickr8k_Dataset.zip"] = zipped({"Flicker8k_Dataset/a.jpg": jpeg(9, 9)})
    with pytest.raises(
        FetchFailed, match=r"flickr8k-train\.tar: the archive lacks b\.jpg; remove it"
    ):
        fetch_flickr8k(tmp_path, flickr8k, {"train": 2})
    assert not (tmp_path / "flickr8k-train.tar").exists()


@pytest.fixture
def grocery(server: Server) -> str:
    texts = {
        "classes.csv": "Class Name (str),Class ID (int),Coarse\nOat-Milk,1,x\nRoyal-Gala,0,y\n",
        "train.txt": "train/Fruit/a_1.jpg, 0, 0\ntrain/Packages/b_1.jpg, 1, 1\n",
        "test.txt": "test/Packages/b_2.jpg, 1, 1\n",
        "val.txt": "",
    }
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        images = {
            f"{split}.jpg": jpeg(120, 240)
            for split in ("train/Fruit/a_1", "train/Packages/b_1", "test/Packages/b_2")
        }
        for name, one in {
            **{name: text.encode() for name, text in texts.items()},
            **images,
        }.items():
            entry = tarfile.TarInfo(f"GroceryStoreDataset-abc/dataset/{name}")
            entry.size = len(one)
            archive.addfile(entry, io.BytesIO(one))
    server.files["/grocery"] = content.getvalue()
    return f"{server.address}/grocery"


def test_groceries_keep_their_order_labels_and_names(grocery: str, tmp_path: Path) -> None:
    assert fetch_grocery(tmp_path, grocery, {"train": 2, "test": 1}) == 3
    data = Data(tmp_path, tmp_path / "cache")
    train = data.grocery("train")
    test = data.grocery("test")
    assert train.class_names == ("Royal Gala", "Oat Milk") and list(train.images.keys) == [
        "00000",
        "00001",
    ]
    assert train.labels is not None and train.labels.tolist() == [0, 1]
    assert test.labels is not None and test.labels.tolist() == [1]
    assert test.images.open(0).size == (SIDE, 2 * SIDE)


def test_another_number_of_images_than_published_is_refused(grocery: str, tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match="2 images, expected 3"):
        fetch_grocery(tmp_path, grocery, {"train": 3})


def test_captions_of_another_content_are_refused(server: Server, tmp_path: Path) -> None:
    server.files["/x"] = b"PAR1"
    with pytest.raises(FetchFailed, match="another file than before"):
        fetch_laion(tmp_path, f"{server.address}/x")
    assert not (tmp_path / "laion-captions.parquet").exists()


@pytest.mark.slow
def test_a_filter_that_fails_fails_its_set_alone(grocery, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("study.fetch.make_web", lambda *_: run_filter("--stages", "dogs"))
    monkeypatch.setattr(
        "study.fetch.fetch_grocery", lambda folder, url: fetch_grocery(folder, url, {})
    )
    options = Namespace(
        sets=["web", "grocery"], data=str(tmp_path), manifest=tmp_path / "urls.tsv", rows=9
    )
    assert fetch(options, Places(grocery=grocery)) == 1
    said = capsys.readouterr()
    assert re.fullmatch(r"error: `.* --stages dogs` ended with 2: error: .*dogs.*\n", said.err)
    assert (tmp_path / "grocery-classes.txt").exists() and "grocery: 0 items available" in said.out


def test_a_damaged_archive_fails_its_set_alone(flickr8k, server, tmp_path, capsys):
    server.files["/Flickr8k_Dataset.zip"] = zipped({"Flicker8k_Dataset/a.jpg": jpeg(9, 9)})[:-30]
    options = Namespace(sets=["flickr8k", "laion"], data=str(tmp_path), manifest=None, rows=9)
    assert fetch(options, Places(flickr8k=flickr8k, laion=f"{server.address}/absent")) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: flickr8k: an archive is damaged (") and "absent" in second


def test_after_ctrl_c_no_other_set_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.fetch.fetch_for_evaluation", lambda arguments: 130)
    monkeypatch.setattr(
        "study.fetch.fetch_laion", lambda folder, url: pytest.fail("it was fetched")
    )
    options = Namespace(sets=["cifar10", "laion"], data=str(tmp_path), manifest=None, rows=9)
    assert fetch(options, Places()) == 130


def test_small_images_stay_as_large_as_they_are() -> None:
    assert Image.open(io.BytesIO(shrunk(jpeg(50, 90)))).size == (50, 90)
    assert np.asarray(Image.open(io.BytesIO(shrunk(jpeg(500, 90, "white"))))).min() > 250


def test_the_web_needs_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "--data", str(tmp_path)]) == 2
    assert "--manifest Train_GCC-training.tsv" in capsys.readouterr().err
    assert main(["flowers", "--data", str(tmp_path)]) == 2
    assert "set 'flowers' is unknown; there are flickr8k, grocery" in capsys.readouterr().err
