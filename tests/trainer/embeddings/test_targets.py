"""Stored embeddings: what is read, and that what does not fit is refused with its place."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")

from open_diht.common.crops import crop_box, crop_of, cropped  # noqa: E402
from open_diht.common.shard_index import ShardIndex, packed_keys, scan  # noqa: E402
from open_diht.eval.fetch.archives import write_tar  # noqa: E402
from open_diht.trainer.data import ConceptMismatch  # noqa: E402
from open_diht.trainer.embeddings import open_embeddings  # noqa: E402

KEYS = ["a", "b", "c"]
Change = Callable[[dict[str, Any], dict[str, Any]], None]


def unit(*shape: int) -> Any:
    values = np.random.default_rng(0).normal(size=shape)
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float16)


def written(folder: Path, change: Change = lambda manifest, arrays: None) -> Path:
    """Targets of one shard, as `make concepts` stores them; `change` may spoil manifest or
    arrays."""
    arrays = {"keys": KEYS, "image": unit(3, 2, 4), "text": unit(3, 1, 4)}
    manifest: dict[str, Any] = {
        "version": 1, "teacher": {}, "dimension": 4, "temperature": 0.05, "crops": 2, "seed": 7,
        "crop_scale": [0.5, 1.0], "captions": ["caption"],
    }  # fmt: skip
    change(manifest, arrays)
    content = io.BytesIO()
    np.savez(content, **{**arrays, "keys": packed_keys(arrays["keys"])})
    entry = {"shard": "s.tar", "file": "s.npz", "samples": 3, "tar_sha256": "t"}
    entry |= {
        "sha256": hashlib.sha256(content.getvalue()).hexdigest(),
        "bytes": len(content.getvalue()),
    }
    (folder / "targets").mkdir(parents=True)
    (folder / "targets" / "s.npz").write_bytes(content.getvalue())
    (folder / "targets" / "manifest.json").write_text(
        json.dumps({**manifest, "shards": [entry]}), encoding="utf-8"
    )
    return folder


def test_targets_are_read_by_key_and_show_the_crop_that_the_teacher_saw(tmp_path: Path) -> None:
    targets = open_embeddings(written(tmp_path / "embeddings"))
    assert (targets.dimension, targets.temperature, targets.crops, targets.seed) == (4, 0.05, 2, 7)
    assert targets.captions == ("caption",) and targets.crop_scale == (0.5, 1.0)
    assert (
        targets.missing({"s.tar": "t", "other.tar": "t"}) == ["other.tar"]
        and targets.shard("other.tar", "") is None
    )
    shard = targets.shard("s.tar", "t")
    assert (
        shard is not None
        and np.array_equal(shard.image, unit(3, 2, 4))
        and shard.text.dtype == np.float16
    )
    assert shard.rows(indexed(tmp_path, ["c", "nobody", "a"])).tolist() == [2, -1, 0]
    assert isinstance(shard.image, np.memmap) and np.array_equal(shard.text, unit(3, 1, 4))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    box = crop_box(crop_of(7, "b", 1), 60, 40, (0.5, 1.0))
    assert np.array_equal(
        np.asarray(shard.view(image, 1, 1, 16)), np.asarray(cropped(image, box, 16))
    )


def indexed(folder: Path, keys: list[str], uids: list[str] | None = None) -> ShardIndex:
    """The index of a tar with these keys, and with uids in the JSON."""
    about = [{"uid": uid} for uid in uids or []] or [{}] * len(keys)
    parts = ({"png": b"image", "txt": b"text", "json": json.dumps(each).encode()} for each in about)
    folder.mkdir(exist_ok=True)
    write_tar(folder / "data.tar", zip(keys, parts, strict=True))
    with open(folder / "data.tar", "rb") as tar:
        return scan("s.tar", tar)


def _spoil(name: str, value: Any) -> Change:
    def change(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays[name][1, 0, 0] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            _spoil("image", np.nan),
            r"s\.npz: row 1 \(key b\) has an embedding of images that is not finite",
        ),
        (
            _spoil("text", np.inf),
            r"s\.npz: row 1 \(key b\) has an embedding of captions that is not finite",
        ),
        (
            lambda m, a: m.update(dimension=8),
            r"images are \(3, 2, 4\) float16, not \(3, 2, 8\) float16",
        ),
        (lambda m, a: m.update(crops=3), r"images are \(3, 2, 4\) float16, not \(3, 3, 4\)"),
        (
            lambda m, a: m.update(captions=["caption", "b"]),
            r"captions are \(3, 1, 4\) float16, not \(3, 2, 4\)",
        ),
        (lambda m, a: a.update(image=a["image"].astype(np.float32)), "float32, not"),
        (lambda m, a: a.update(keys=KEYS[:2]), r"images are \(3, 2, 4\) float16, not \(2, 2, 4\)"),
        (lambda m, a: a.pop("text"), r"s\.npz cannot be read"),
    ],
)
def test_a_file_that_does_not_fit_its_manifest_is_refused(
    tmp_path: Path, change: Change, says: str
) -> None:
    targets = open_embeddings(written(tmp_path, change))
    with pytest.raises(
        ConceptMismatch, match=f"{says}.*run `open-diht concepts --store embeddings` again"
    ):
        targets.shard("s.tar", "t")


def test_targets_of_other_data_and_truncated_files_are_refused_before_a_shard_is_read(
    tmp_path: Path,
) -> None:
    targets = open_embeddings(written(tmp_path))
    for refused in (
        lambda: targets.missing({"s.tar": "other"}),
        lambda: targets.shard("s.tar", "other"),
    ):
        with pytest.raises(
            ConceptMismatch, match=r"shard s\.tar in .* were made from another file of that name"
        ):
            refused()
    path = tmp_path / "targets" / "s.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConceptMismatch, match=r"s\.npz has [\d,]+ bytes, not"):
        targets.missing({"s.tar": "t"})
    with pytest.raises(ConceptMismatch, match=r"s\.npz is damaged"):
        targets.shard("s.tar", "t")
    with pytest.raises(ConceptMismatch, match="holds no embedding targets; make them with"):
        open_embeddings(tmp_path / "nowhere")


def reinforced(
    folder: Path, samples: list[dict[str, Any]], ending: str = "npz", crop: Any = None
) -> Path:
    """A folder with one tar in the format of DataCompDR."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "s.tar", "w") as tar:
        for number, arrays in enumerate(samples):
            content = io.BytesIO()
            if ending == "npz":
                np.savez(content, **arrays)
            else:
                torch.save(
                    {name: torch.from_numpy(each).bfloat16() for name, each in arrays.items()},
                    content,
                )
            boxes = [[[1, 2, 20, 30], [[4, 3.0], [12, 0.0]]], crop or [[0, 0, 10, 10], None]]
            for name, member in (
                (
                    ending,
                    content.getvalue() if ending == "npz" else gzip.compress(content.getvalue()),
                ),
                ("paug.json", json.dumps({"param_aug": json.dumps(boxes)}).encode()),
                ("syn.json", b'{"syn_text": ["x"]}'),
            ):
                info = tarfile.TarInfo(f"{number:032x}.{name}")
                info.size = len(member)
                tar.addfile(info, io.BytesIO(member))
    return folder


@pytest.mark.parametrize("ending", ["npz", "pth.gz"])
def test_tars_of_datacompdr_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    image, text = (
        np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32) for _ in range(2)
    )
    samples = [
        {"image_emb": one, "text_emb": other} for one, other in zip(image, text, strict=True)
    ]
    targets = open_embeddings(reinforced(tmp_path, samples, ending))
    assert (targets.dimension, targets.crops, targets.temperature) == (8, 2, 0.01)
    assert (
        targets.captions == ("caption", "syn_text[0]") and targets.missing({"s.tar": "any"}) == []
    )
    shard = targets.shard("s.tar", "any")
    assert shard is not None
    expected = image / np.linalg.norm(image, axis=-1, keepdims=True)
    assert np.abs(shard.image - expected).max() < (1e-3 if ending == "npz" else 4e-3)
    keys = [f"{2:032x}-000005", f"{0:032x}", "f" * 32]
    assert shard.rows(indexed(tmp_path / "data", keys)).tolist() == [2, 0, -1]
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert np.array_equal(
        np.asarray(shard.view(whole, 0, 1, 8)), np.asarray(cropped(whole, (0, 0, 10, 10), 8))
    )
    augmented = np.asarray(shard.view(whole, 0, 0, 32))
    assert not np.array_equal(augmented, np.asarray(cropped(whole, (2, 1, 32, 21), 32)))


def test_samples_of_datacompdr_are_joined_by_uid_whatever_their_keys(tmp_path: Path) -> None:
    """img2dataset numbers its samples, and the uid is in the JSON; a key that only looks like a uid
    counts for less."""
    image = np.eye(3, dtype=np.float32)[:, None]
    uids = [f"{number + 7:032x}" for number in range(3)]
    tars = [
        (uid, {"npz": arrays(image_emb=of, text_emb=of)})
        for uid, of in zip(uids, image, strict=True)
    ]
    (tmp_path / "keys").mkdir()
    (tmp_path / "numbers").mkdir()
    write_tar(tmp_path / "keys" / "s.tar", tars)
    numbered = [
        (f"{number:09d}", {**parts, "json": json.dumps({"uid": uid}).encode()})
        for number, (uid, parts) in enumerate(tars)
    ]
    write_tar(tmp_path / "numbers" / "s.tar", numbered)
    swapped = [uids[2], uids[0].upper(), "f" * 32]
    for folder in ("keys", "numbers"):
        shard = open_embeddings(tmp_path / folder).shard("s.tar")
        assert shard is not None
        of_numbers = indexed(tmp_path, ["000000000", "000000001", "000000002"], swapped)
        assert shard.rows(of_numbers).tolist() == [2, 0, -1]
        assert shard.rows(indexed(tmp_path, [uids[1], uids[0], "a"], swapped)).tolist() == [
            2,
            0,
            -1,
        ]
        assert shard.rows(indexed(tmp_path, ["000000001", f"{uids[1]}-000003"])).tolist() == [-1, 1]


def arrays(**named: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **named)
    return content.getvalue()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_of_datacompdr_that_is_not_finite_is_refused_with_its_uid(
    tmp_path: Path, value: float
) -> None:
    samples = [
        {name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")} for _ in range(3)
    ]
    samples[2]["text_emb"][1, 3] = value
    shard = open_embeddings(reinforced(tmp_path, samples)).shard("s.tar")
    assert shard is not None
    for refused in (
        lambda: shard.present(np.arange(len(shard.keys)), [0]),
        lambda: shard.pair(2, 0, 1),
    ):
        with pytest.raises(
            ConceptMismatch,
            match=rf"row 2 \(key {2:032x}\) has an embedding of captions that is not finite",
        ):
            refused()
    assert shard.pair(1, 0, 1)[1].tolist() == [0.5] * 4


def test_tars_of_datacompdr_are_listed_in_one_order_on_all_disks(tmp_path: Path) -> None:
    path = (
        reinforced(
            tmp_path, [{name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")}]
        )
        / "s.tar"
    )
    for number in (7, 3, 9, 1, 8, 2):
        shutil.copy(path, tmp_path / f"{number}.tar")
    listed = [entry["shard"] for entry in open_embeddings(tmp_path).manifest["shards"]]
    assert listed == ["1.tar", "2.tar", "3.tar", "7.tar", "8.tar", "9.tar", "s.tar"]


def test_embeddings_of_datacompdr_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    samples: list[dict[str, Any]] = [
        {name: np.ones((2, 4)) for name in ("image_emb", "text_emb")} for _ in range(2)
    ]
    samples[1]["text_emb"] = np.full((2, 4), "x")
    shard = open_embeddings(reinforced(tmp_path, samples)).shard("s.tar")
    assert shard is not None
    with pytest.raises(
        ConceptMismatch, match=rf"row 1 \(key {1:032x}\) has embeddings that cannot be read"
    ):
        shard.present(np.arange(len(shard.keys)), [0])


def test_a_tar_of_datacompdr_that_is_cut_or_whose_shapes_differ_is_refused(tmp_path: Path) -> None:
    samples = [
        {name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")} for _ in range(2)
    ]
    samples[1]["image_emb"] = samples[1]["image_emb"][:1]
    shard = open_embeddings(reinforced(tmp_path, samples)).shard("s.tar")
    assert shard is not None
    with pytest.raises(
        ConceptMismatch,
        match=rf"s\.tar: .*{1:032x}\) has embeddings of shapes \(1, 4\) and \(2, 4\)",
    ):
        shard.present(np.arange(len(shard.keys)), [0])
    path = tmp_path / "s.tar"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ConceptMismatch, match=r"s\.tar cannot be read .*; get it again"):
        open_embeddings(tmp_path)


@pytest.mark.parametrize(
    "crop",
    [
        [[-5, 0, 20, 20]],
        [[0, 0, 0, 20]],
        [[0, 0, 20]],
        [["a", 0, 10, 20]],
        [[0, 0, 9, 9], 7],
        [[0, 0, 9, 9], [[99, 1.0]]],
        [[0, 0, 9, 9], [["x", 1.0]]],
        [[0, 0, 9, 9], [[-1, 1.0]]],
        [[0, 0, 9, 9], [[3, None]]],
    ],
)
def test_a_crop_of_datacompdr_that_cannot_be_repeated_is_refused_with_its_uid(
    tmp_path: Path, crop: Any
) -> None:
    samples = [{name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")}]
    shard = open_embeddings(reinforced(tmp_path, samples, crop=crop)).shard("s.tar")
    assert shard is not None
    with pytest.raises(ConceptMismatch, match=rf"s\.tar: row 0 \(key {0:032x}\) has a paug\.json"):
        shard.present(np.arange(len(shard.keys)), [0])


def test_a_compressed_tar_of_datacompdr_must_be_uncompressed(tmp_path: Path) -> None:
    path = (
        reinforced(tmp_path, [{name: np.ones((2, 4)) for name in ("image_emb", "text_emb")}])
        / "s.tar"
    )
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ConceptMismatch, match=r"s\.tar cannot be read .*; uncompress it$"):
        open_embeddings(tmp_path)


def test_an_augmentation_of_datacompdr_out_of_its_range_is_refused_with_its_uid(
    tmp_path: Path,
) -> None:
    samples = [{name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")}]
    shard = open_embeddings(reinforced(tmp_path, samples, crop=[[0, 0, 9, 9], [[10, 99.0]]])).shard(
        "s.tar"
    )
    assert shard is not None
    with pytest.raises(
        ConceptMismatch, match=rf"\(key {0:032x}\) has a paug\.json that cannot be repeated"
    ):
        shard.view(Image.new("RGB", (30, 30)), 0, 1, 8)


def test_tars_of_datacompdr_of_other_shards_are_refused(tmp_path: Path) -> None:
    samples = [{name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")}]
    targets = open_embeddings(reinforced(tmp_path, samples))
    assert targets.missing({"s.tar": "any", "t.tar": "any"}) == ["t.tar"]
    with pytest.raises(
        ConceptMismatch, match=r"no tar has the name of a shard of the data, such as t\.tar; name"
    ):
        targets.missing({"t.tar": "any"})


def test_a_sample_of_datacompdr_without_crops_is_refused_with_its_uid(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        content = io.BytesIO()
        np.savez(content, image_emb=np.ones((2, 4)), text_emb=np.ones((2, 4)))
        info = tarfile.TarInfo("u.npz")
        info.size = len(content.getvalue())
        tar.addfile(info, io.BytesIO(content.getvalue()))
    shard = open_embeddings(tmp_path).shard("s.tar")
    assert shard is not None
    with pytest.raises(
        ConceptMismatch, match=r"row 0 \(key u\) has a paug\.json that cannot be read"
    ):
        shard.present(np.arange(len(shard.keys)), [0])


def of_many_rows(manifest: dict[str, Any], arrays: dict[str, Any]) -> None:
    manifest["dimension"] = 512
    arrays |= {
        "keys": [f"{n}" for n in range(2_000)],
        "image": unit(2_000, 2, 512),
        "text": unit(2_000, 1, 512),
    }


@pytest.mark.parametrize("reinforcing", [False, True])
def test_an_open_shard_on_a_disk_takes_little_memory(tmp_path: Path, reinforcing: bool) -> None:
    if reinforcing:
        each = {
            "image_emb": np.ones((2, 4096), np.float32),
            "text_emb": np.ones((2, 4096), np.float32),
        }
        targets = open_embeddings(reinforced(tmp_path, [each] * 200))
    else:
        targets = open_embeddings(written(tmp_path, of_many_rows))
    tracemalloc.start()
    shard = targets.shard("s.tar")
    assert shard is not None and shard.present(np.arange(len(shard.keys)), [0]).all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 2**20 < 6_000_000 < sum(path.stat().st_size for path in tmp_path.rglob("s.*"))


def test_tars_of_datacompdr_without_samples_or_boxes_and_other_sizes_of_images(
    tmp_path: Path,
) -> None:
    samples = [{name: np.ones((2, 4), np.float32) for name in ("image_emb", "text_emb")}]
    folder = reinforced(tmp_path / "good", samples)
    with tarfile.open(folder / "a.tar", "w"):
        pass
    targets = open_embeddings(folder)
    empty = targets.shard("a.tar")
    shard = targets.shard("s.tar")
    assert empty is not None and empty.image.shape == (0, 2, 4) and shard is not None
    with pytest.raises(
        ConceptMismatch,
        match=r"the crop \[1, 2, 20, 30\] of an image of 30 x 20 pixels; .*decode_side",
    ):
        shard.view(Image.new("RGB", (30, 20)), 0, 0, 8)
    (tmp_path / "good/a.tar").unlink()
    more = [{name: np.ones((3, 4), np.float32) for name in ("image_emb", "text_emb")}]
    shard = open_embeddings(reinforced(tmp_path / "boxes", more)).shard("s.tar")
    assert shard is not None
    with pytest.raises(
        ConceptMismatch, match=rf"{0:032x}\) has a paug\.json without a usable crop for each of 3"
    ):
        shard.present(np.arange(len(shard.keys)), [0])
