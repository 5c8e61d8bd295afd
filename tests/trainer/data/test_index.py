"""What the index finds in a tar, good and bad."""

import io
import json
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_diht.common.shard_index import ShardIndex, is_current, part_of, save, scan
from open_diht.trainer.data.errors import ShardMismatch
from open_diht.trainer.data.shards import load


def index_of(content: Path | bytes) -> ShardIndex:
    data = content.read_bytes() if isinstance(content, Path) else content
    return scan("a.tar", io.BytesIO(data), "stamp")


def bytes_of(path: Path, index: ShardIndex, row: int) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    entry = index.rows[row]
    image, caption = (
        data[entry[f"{n}_at"] : entry[f"{n}_at"] + entry[f"{n}_size"]] for n in ("image", "caption")
    )
    return image, caption


def test_places_are_those_of_the_bytes(tars: Any, tmp_path: Path) -> None:
    path = tars.write(tmp_path / "a.tar", tars.members(range(5)))
    index = index_of(path)
    assert index.keys == [tars.key(number) for number in range(5)]
    assert index.bad == {}
    for number in range(5):
        assert bytes_of(path, index, number) == (tars.image(number), b"caption %d" % number)


def test_hashes_are_equal_for_equal_content(tars: Any, tmp_path: Path) -> None:
    content = [
        ("a.jpg", b"one"), ("a.txt", b"a dog\n"),
        ("b.jpg", b"two"), ("b.txt", b" a dog"),
        ("c.jpg", b"one"), ("c.txt", b"A dog"),
    ]  # fmt: skip
    rows = index_of(tars.write(tmp_path / "a.tar", content)).rows
    assert rows["caption_hash"][0] == rows["caption_hash"][1] != rows["caption_hash"][2]
    assert rows["image_hash"][0] == rows["image_hash"][2] != rows["image_hash"][1]


def test_what_webdataset_and_other_tars_hold(tars: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.tar"
    with webdataset.TarWriter(str(path)) as writer:
        writer.write({"__key__": "deep/000", "jpg": b"image", "txt": "a caption", "json": {"x": 1}})
    index = index_of(path)
    assert index.keys == ["deep/000"] and bytes_of(path, index, 0) == (b"image", b"a caption")
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        name = "long" * 60
        with tarfile.open(path, "w", format=style) as tar:
            tar.addfile(tarfile.TarInfo("folder"))
            for ending, data in (("JPEG", b"image"), ("txt", "naïve".encode()), ("cls", b"1")):
                info = tarfile.TarInfo(f"{name}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        assert bytes_of(path, index_of(path), 0) == (b"image", "naïve".encode())


@pytest.mark.parametrize(
    ("key", "content", "uid"),
    [
        (
            "000000017",
            {"uid": "0123456789abcdef0123456789ABCDEF"},
            "0123456789abcdef0123456789abcdef",
        ),
        ("0" * 31 + "1-000004", None, "0" * 31 + "1"),
        ("0" * 31 + "1-000004", {"uid": "f" * 32}, "f" * 32),
        ("deep/" + "a" * 32, {"uid": "short"}, "a" * 32),
        ("000000017", {"uid": 17}, ""),
        ("000000017", [], ""),
        ("000000017", None, ""),
    ],
)
def test_the_uid_is_the_one_of_the_json_else_of_the_key(tars, tmp_path, key, content, uid):
    members = [(f"{key}.jpg", b"x"), (f"{key}.txt", b"x")]
    members += [] if content is None else [(f"{key}.json", json.dumps(content).encode())]
    path = tars.write(tmp_path / "a.tar", members)
    (row,) = index_of(path).rows
    assert (int(row["uid_high"]), int(row["uid_low"])) == (
        int(uid[:16] or "0", 16),
        int(uid[16:] or "0", 16),
    )
    place = slice(row["json_at"], row["json_at"] + row["json_size"])
    assert (
        (json.loads(path.read_bytes()[place]) == content)
        if content is not None
        else place == slice(0, 0)
    )


def test_what_is_wrong_with_members_is_counted_by_kind(tars: Any, tmp_path: Path) -> None:
    content = [
        ("good.jpg", b"x"), ("good.txt", b"x"),
        ("no_caption.jpg", b"x"),
        ("blank.jpg", b"x"), ("blank.txt", b" \n"),
        ("no_image.txt", b"x"),
        ("other.jpg", b"x"), ("other.txt", b"x"),
        ("good.jpg", b"y"), ("good.txt", b"y"),
    ]  # fmt: skip
    index = index_of(tars.write(tmp_path / "a.tar", content))
    assert index.keys == ["good", "other"]
    assert index.bad == {"missing_caption": 2, "missing_image": 1, "duplicate_key": 1}
    assert "a.tar: duplicate_key: good" in index.problems


def test_of_several_images_the_first_by_kind_counts(tars: Any, tmp_path: Path) -> None:
    """As for the filters, whichever stands first in the tar."""
    content = [("a.webp", b"webp"), ("a.jpg", b"jpg"), ("a.png", b"png"), ("a.txt", b"x")]
    path = tars.write(tmp_path / "a.tar", content)
    assert bytes_of(path, index_of(path), 0) == (b"jpg", b"x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    kinds=st.lists(st.sampled_from(["good", "no image", "no text", "again"]), min_size=1),
    data=st.data(),
)
def test_each_sample_of_a_stretch_is_found_or_said_to_be_unusable(tars, tmp_path, kinds, data):
    """However a tar is cut at beginnings of samples; the places go on from stretch to stretch."""
    content: list[tuple[str, bytes]] = []
    for number, kind in enumerate(kinds):
        key = "again" if kind == "again" else f"{number:03d}"
        content += [(f"{key}.txt", b"x")] * (kind != "no text") + [(f"{key}.jpg", b"x")] * (
            kind != "no image"
        )
        content += [("apart.json", b"{}")]  # a sample without both
    path = tars.write(tmp_path / "a.tar", content)
    index = index_of(path)
    expected = []
    for number, kind in enumerate(kinds):
        good = kind == "good" or (kind == "again" and kinds.index("again") == number)
        key = "again" if kind == "again" else f"{number:03d}"
        expected += [key if good else None, None]
    samples = len(expected)
    assert len(index.starts) == samples and index.places_samples
    cuts = sorted(data.draw(st.sets(st.integers(1, samples - 1), max_size=4)))
    edges = [0, *(int(index.starts[cut]) for cut in cuts), index.bytes]
    found = np.concatenate([index.rows_between(*edge) for edge in pairwise(edges)]).tolist()
    assert [index.keys[row] if row >= 0 else None for row in found] == expected


def test_a_part_is_read_back_and_known_from_the_whole_and_other_parts(
    tars: Any, tmp_path: Path
) -> None:
    index = index_of(tars.write(tmp_path / "a.tar", tars.members(range(5))))
    parts = [
        part_of(index, np.array(rows, np.int64), [f"{row:032x}" for row in rows])
        for rows in ([], [1], [1, 3])
    ]
    assert (
        len({index.identity, *(part.identity for part in parts)}) == 4
        and index.identity == index.sha256
    )
    save(parts[2], tmp_path / "a.npz")
    again = load(tmp_path / "a.npz")
    assert again.keys == [index.keys[1], index.keys[3]] and again.rows["uid_low"].tolist() == [1, 3]
    assert (again.identity, again.sha256) == (
        parts[2].identity,
        index.sha256,
    ) and not again.places_samples


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "empty_tar"), (b"<html>" * 500, "not_a_tar"), (b"short", "not_a_tar")],
)
def test_files_that_are_no_tars(content: bytes, kind: str) -> None:
    index = index_of(content)
    assert index.bad == {kind: 1} and not index.keys


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_tar_cut_anywhere_gives_what_stands_before(
    tars: Any, tmp_path: Path, share: float
) -> None:
    path = tars.write(tmp_path / "a.tar", tars.members(range(6)))
    whole = path.read_bytes()
    used = index_of(whole).rows[-1]["caption_at"]
    cut = whole[: int(share * (used + 1000))]
    index = index_of(cut)
    assert index.keys == [tars.key(number) for number in range(len(index.keys))]
    assert len(index.bad) <= 2 and {*index.bad} & {"empty_tar", "truncated_tar", "not_a_tar"}
    for entry in index.rows:
        assert entry["caption_at"] + entry["caption_size"] <= len(cut)


@pytest.mark.parametrize("damage", [b"\xff" * 512, b"\0" * 512])
def test_a_tar_damaged_in_the_middle_is_not_taken_for_a_shorter_one(
    tars: Any, tmp_path: Path, damage: bytes
) -> None:
    path = tars.write(tmp_path / "a.tar", tars.members(range(6)))
    index = index_of(path)
    header = int(index.rows[3]["image_at"]) - 512
    content = path.read_bytes()
    damaged = index_of(content[:header] + damage + content[header + 512 :])
    assert damaged.keys == index.keys[:3]
    assert damaged.bad == {"truncated_tar": 1}


@given(noise=st.binary(max_size=2000))
def test_noise_never_raises(noise: bytes) -> None:
    index_of(noise)


def test_every_flipped_bit_leaves_the_index_or_is_a_bad_one_that_is_named(
    tars: Any, tmp_path: Path
) -> None:
    place = tmp_path / "a.npz"
    save(index_of(tars.write(tmp_path / "a.tar", tars.members(range(2)))), place)
    content = place.read_bytes()
    refused = 0
    for bit in range(0, 8 * len(content), 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            load("bucket/a.npz", bytes(damaged))
        except ShardMismatch as error:
            refused += 1
            assert str(error).startswith("the index bucket/a.npz cannot be read")
        if bit % 8 == 0:
            place.write_bytes(damaged)
            is_current(place, "stamp")
    assert refused > 1000


@pytest.mark.parametrize("keys", [["a\nb"], ["\n", "x/y\n\nz", "c"], ["d\x00e", "\udcff"]])
def test_keys_of_any_names_are_read_back(tars: Any, tmp_path: Path, keys: list[str]) -> None:
    members = [
        member for key in keys for member in ((f"{key}.jpg", b"x"), (f"{key}.txt", b"a dog"))
    ]
    path = tars.write(tmp_path / "a.tar", members, tarfile.PAX_FORMAT)
    index = index_of(path)
    save(index, tmp_path / "a.npz")
    assert load(tmp_path / "a.npz").keys == index.keys == [key for key in keys if "\0" not in key]


def test_an_index_is_read_back_and_torn_ones_are_not_current(tars: Any, tmp_path: Path) -> None:
    index = index_of(tars.write(tmp_path / "a.tar", tars.members(range(3))))
    place = tmp_path / "a.npz"
    save(index, place)
    again = load(place)
    assert (again.keys, again.sha256, again.bad) == (index.keys, index.sha256, index.bad)
    assert np.array_equal(again.rows, index.rows)
    assert is_current(place, "stamp") and not is_current(place, "other")
    place.write_bytes(place.read_bytes()[:300])
    assert not is_current(place, "stamp")
    with pytest.raises(ShardMismatch, match=r"a\.npz cannot be read"):
        load(place)
    assert [left.name for left in tmp_path.iterdir() if left.name.startswith(".tmp")] == []
