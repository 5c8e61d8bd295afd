"""The webdataset layout: read back what was written, and refuse what is not whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval.data.webdataset_layout import read_webdataset
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.fetch.archives import jpeg
from tests.eval.conftest import image, needed
from tests.tars import tar_of
from tests.webdatasets import numbers_member as numbers
from tests.webdatasets import questions_member, write_webdataset


def read(folder: Path, memo: Any, needs: Any = "labels", **options: Any) -> Any:
    return read_webdataset(folder, "test", needs, memo, folder.name, options)


def test_classification_sets_come_back_in_order_with_their_names_and_templates(colour_set, memo):
    data = read(colour_set(n=12) / "colours", memo)
    assert list(data.images.keys) == [f"s{index:04d}" for index in range(12)]
    assert data.labels is not None and data.labels.tolist() == [index % 3 for index in range(12)]
    assert data.class_names == ("red", "green", "blue") and data.templates == (
        "a {c} thing.",
        "{c}!",
    )
    means = np.asarray(data.images.open(1)).reshape(-1, 3).mean(axis=0)
    assert means.argmax() == 1 and data.images.open(1).size == (40, 36)
    once = [np.asarray(data.images.open(index)) for index in range(12)]
    for index in (11, 0, 7, 3, 7):
        assert (np.asarray(data.images.open(index)) == once[index]).all()


def test_retrieval_multilabel_and_vqa_sets(tmp_path, memo):
    shot = jpeg(image())
    write_webdataset(
        tmp_path / "texts", [("a", {"jpg": shot, "txt": "one\ntwo\n"})], kind="retrieval"
    )
    write_webdataset(
        tmp_path / "flags", [("a", {"jpg": shot, "npy": numbers(1, 0, 1)})], kind="multilabel"
    )
    write_webdataset(
        tmp_path / "asked", [("a", {"jpg": shot, "json": questions_member([GOOD])})], kind="vqa"
    )
    assert read(tmp_path / "texts", memo, "captions").captions == (("one", "two"),)
    labels = read(tmp_path / "flags", memo).labels
    assert labels is not None and labels.tolist() == [[True, False, True]]
    questions = read(tmp_path / "asked", memo, "questions").questions
    assert (
        questions is not None and questions[0].question == "Is it red?" and questions[0].image == 0
    )


GOOD = {"question": "Is it red?", "kind": "yes/no", "answers": ["yes"], "candidates": ["yes", "no"]}


@pytest.mark.parametrize(
    "content",
    [
        b'{"questions": null}',
        questions_member([GOOD, {key: value for key, value in GOOD.items() if key != "kind"}]),
        questions_member([{**GOOD, "candidates": []}]),
        questions_member([{**GOOD, "answers": [None]}]),
    ],
)
def test_questions_that_lack_something_are_named(tmp_path, memo, content):
    write_webdataset(tmp_path / "odd", [("a", {"jpg": jpeg(image()), "json": content})], kind="vqa")
    with pytest.raises(
        DataBroken, match=r"odd, sample 'a', json member: a column is missing or unusable"
    ):
        read(tmp_path / "odd", memo, "questions")


def test_numbers_beside_a_label_are_groups_and_bursts(tmp_path, memo):
    rows = [(5, 70), (0, 70), (5, 71)]
    samples = [
        (f"s{index}", {"jpg": jpeg(image("red", index)), "cls": "0", "npy": numbers(*row, 0)})
        for index, row in enumerate(rows)
    ]
    write_webdataset(tmp_path / "grouped", samples, class_names=["a"], templates=["{c}"])
    data = read(tmp_path / "grouped", memo, group=0, group_name="region", burst=1)
    assert data.groups == ("region 5", "region 0", "region 5") and data.bursts.tolist() == [
        70,
        70,
        71,
    ]
    plain = read(tmp_path / "grouped", memo)
    assert plain.groups is None is plain.bursts and plain.label_hash != data.label_hash
    some = data.take([2, 1])
    assert some.groups == ("region 5", "region 0") and some.bursts.tolist() == [71, 70]
    with pytest.raises(DataBroken, match="have no number 3"):
        read(tmp_path / "grouped", memo, group=3)
    with pytest.raises(WrongUse, match="takes the options group, group_name and burst"):
        read(tmp_path / "grouped", memo, region=0)


@pytest.mark.parametrize(
    "content", [b"", b"5", b"PK\x03\x04", numbers(1)[:-3], numbers(0.5), numbers([1], [2])]
)
def test_numbers_that_are_no_row_of_whole_ones_are_named(tmp_path, memo, content):
    write_webdataset(
        tmp_path / "odd", [("a", {"jpg": SHOT, "cls": "0", "npy": content})], class_names=["a"]
    )
    with pytest.raises(
        DataBroken, match=r"sample 'a': its .npy member is not a row of whole numbers"
    ):
        read(tmp_path / "odd", memo, group=0)
    write_webdataset(tmp_path / "flags", [("a", {"jpg": SHOT, "npy": content})], kind="multilabel")
    with pytest.raises(
        DataBroken, match=r"sample 'a': its .npy member is not a row of whole numbers"
    ):
        read(tmp_path / "flags", memo)


def test_rows_of_flags_have_one_length(tmp_path, memo):
    samples = [
        (key, {"jpg": SHOT, "npy": numbers(*row)}) for key, row in (("a", (1, 0)), ("b", (1, 0, 1)))
    ]
    write_webdataset(tmp_path / "flags", samples, kind="multilabel")
    with pytest.raises(DataBroken, match=r"its .npy members have different numbers of classes"):
        read(tmp_path / "flags", memo)


def test_a_label_without_numbers_is_named_where_they_are_asked_for(colour_set, memo):
    with pytest.raises(DataBroken, match=r"has no .npy member"):
        read(colour_set(n=3) / "colours", memo, group=0)


def test_the_fingerprint_follows_images_and_not_files(colour_set, memo):
    folder = colour_set(n=6) / "colours"
    first = read(folder, memo).images.fingerprint
    again = read(colour_set(name="again", n=6) / "again", memo).images.fingerprint
    fewer = read(colour_set(name="fewer", n=5) / "fewer", memo).images.fingerprint
    assert first == again != fewer
    samples = [
        (f"s{index:04d}", {"jpg": jpeg(image("blue", 100 + index)), "cls": "0"})
        for index in range(6)
    ]
    write_webdataset(folder, samples, class_names=["a"], templates=["{c}"], per_shard=5)
    assert read(folder, memo).images.fingerprint != first


def test_a_split_that_is_not_there_is_missing_and_not_broken(colour_set, memo):
    with pytest.raises(DataMissing, match="colours/train is not there"):
        read_webdataset(colour_set() / "colours", "train", "labels", memo, "colours")


def test_the_number_of_shards_must_be_the_promised_one(colour_set, memo):
    folder = colour_set(n=12) / "colours"
    count = folder / "test" / "nshards.txt"
    for text, message in (
        ("4", "lacks 3.tar"),
        ("2", "has besides 2.tar"),
        ("many", "not a number of shards"),
    ):
        count.write_text(text, encoding="utf-8")
        with pytest.raises(DataBroken, match=message):
            read(folder, memo)
    count.unlink()
    with pytest.raises(DataBroken, match=r"nshards.txt is missing"):
        read(folder, memo)


@pytest.mark.parametrize("name", ["classnames.txt", "dataset_type.txt", "test/nshards.txt"])
def test_a_text_that_is_not_utf_8_is_named(colour_set, memo, name):
    folder = colour_set() / "colours"
    (folder / name).write_bytes(b"caf\xe9")
    with pytest.raises(DataBroken, match=rf"{name} is not UTF-8 \(byte 3\)"):
        read(folder, memo)


SHOT = jpeg(image())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of(("a.jpg", SHOT)), "has no .cls member"),
        (tar_of(("a.cls", b"0")), "has no image member"),
        (tar_of(("a.jpg", SHOT), ("a.cls", b"zero")), "is not a label"),
        (
            tar_of(("a.jpg", SHOT), ("a.cls", b"0"), ("a.png", SHOT)),
            "two images of a sample, have the key 'a'",
        ),
        (tar_of(("a.jpg", SHOT), ("a.cls", b"0"))[:600], "cut off|not a readable tar"),
        (b"<html>not found</html>" * 100, "not a readable tar"),
        (tar_of(), "holds no samples"),
    ],
)
def test_a_shard_that_is_not_what_it_should_be_is_named(tmp_path, memo, content, message):
    folder = tmp_path / "broken" / "test"
    folder.mkdir(parents=True)
    (folder / "0.tar").write_bytes(content)
    (folder / "nshards.txt").write_text("1", encoding="utf-8")
    with pytest.raises(DataBroken, match=message):
        read(folder.parent, memo)


def test_a_shard_that_is_damaged_in_the_middle_is_not_taken_for_a_shorter_one(tmp_path, memo):
    first, second = (tar_of((f"{key}.jpg", SHOT), (f"{key}.cls", b"0")) for key in "ab")
    members = first.rstrip(b"\0")
    members += bytes(-len(members) % 512)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.tar").write_bytes(members + b"\xff" * 512 + second[512:])
    (tmp_path / "test" / "nshards.txt").write_text("1", encoding="utf-8")
    with pytest.raises(DataBroken, match=f"no tar header at byte {len(members)}"):
        read(tmp_path, memo)


def test_an_image_that_is_none_is_named_when_it_is_opened(tmp_path, memo):
    write_webdataset(
        tmp_path / "html", [("page", {"jpg": b"<html>", "cls": "0"})], class_names=["a"]
    )
    with pytest.raises(DataBroken, match="sample page: no readable image"):
        read(tmp_path / "html", memo).images.open(0)


def test_a_set_of_another_kind_is_refused(colour_set, memo):
    with pytest.raises(
        DataBroken, match="classification set and cannot serve a task that needs captions"
    ):
        read(colour_set() / "colours", memo, "captions")


class Exported:
    """A data set as CLIP_benchmark's exporter takes it: bytes of images, and labels or captions."""

    classes = ("red", "green")
    templates = ("a {c} thing",)

    def __init__(self, labels: Sequence[Any]):
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[bytes, Any]:
        return jpeg(image("red", index)), self.labels[index]


def test_what_clip_benchmark_exports_is_read(tmp_path, memo):
    exporter = needed("clip_benchmark.webdataset_builder")
    how = {"image_format": "jpg", "max_count": 2, "verbose": False}
    exporter.convert_dataset(Exported([0, 1, 1, 0, 1]), "test", str(tmp_path / "classes"), **how)
    data = read(tmp_path / "classes", memo)
    assert data.labels.tolist() == [0, 1, 1, 0, 1] and data.class_names == ("red", "green")
    assert data.templates == ("a {c} thing",) and data.images.open(4).size == image().size
    captions = [["a cat", "it sits"], ["a dog"], ["one\ntwo"]]
    exporter.convert_retrieval_dataset(Exported(captions), "test", str(tmp_path / "told"), **how)
    told = read(tmp_path / "told", memo, "captions")
    assert told.captions == (("a cat", "it sits"), ("a dog",), ("one\\ntwo",))
