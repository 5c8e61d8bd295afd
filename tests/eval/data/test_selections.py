"""Captions to choose from and pairs, read as their authors publish them."""

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval.data import Association, DataSet, Memo
from open_diht.eval.data.files import text_of
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.features import FeatureCache
from open_diht.eval.session import open_task
from open_diht.eval.tasks import Source, load_suite
from tests.eval.conftest import a_task, image, paint

SUGARCREPE = {"files": ["swap_att.json"], "image": "val2017/{filename}", "right": ["{caption}"]}
ROWS = [
    {"filename": "1.png", "caption": "red left", "negative_caption": "blue left"},
    {"filename": "2.png", "caption": "blue", "negative_caption": "red"},
    {"filename": "1.png", "caption": "red again", "negative_caption": "green"},
]


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, colour in enumerate(("red", "blue", "green")):
        path = tmp_path / "set" / "val2017" / f"{number + 1}.png"
        paint(path, colour, number)
    return tmp_path / "set"


def opened(
    folder: Path, memo: Memo, kind: str, layout: Any, options: dict[str, Any], **more: Any
) -> DataSet:
    metric = {"caption_selection": "accuracy", "pair_selection": "group_score"}.get(
        kind, "recall@1"
    )
    source = Source(layout=layout, path=folder.name, options=options)
    return open_task(a_task("t", kind, metric, sources=(source,), **more), folder.parent, memo)


def selection(folder: Path, memo: Memo, **options: Any) -> DataSet:
    given = {**SUGARCREPE, "wrong": ["{negative_caption}"], **options}
    return opened(folder, memo, "caption_selection", "selection", given)


@pytest.mark.parametrize("rows", [ROWS, {str(number): row for number, row in enumerate(ROWS)}])
def test_rows_of_json_become_choices_and_an_image_is_there_once(folder, memo, rows):
    (folder / "swap_att.json").write_text(json.dumps(rows), encoding="utf-8")
    data = selection(folder, memo)
    assert [(c.image, c.captions, c.right, c.category) for c in data.choices or ()] == [
        (0, ("red left", "blue left"), 1, "swap_att"),
        (1, ("blue", "red"), 1, "swap_att"),
        (0, ("red again", "green"), 1, "swap_att"),
    ]
    assert len(data) == 2 and data.items == 3


def test_a_sample_is_of_questions_with_their_images(folder, memo):
    (folder / "swap_att.json").write_text(json.dumps(ROWS), encoding="utf-8")
    data = selection(folder, memo)
    for count in (1, 2):
        few = data.sampled(count)
        assert few.items == count and len(few) == len(
            {choice.image for choice in few.choices or ()}
        )
        kept = {choice.key: choice for choice in data.choices or ()}
        for choice in few.choices or ():
            assert few.images.keys[choice.image] == data.images.keys[kept[choice.key].image]


def test_captions_and_what_counts_as_one_observation_are_part_of_the_data(folder, memo):
    hashes = set()
    for rows in (ROWS, [{**ROWS[0], "negative_caption": "blue right"}, *ROWS[1:]]):
        (folder / "swap_att.json").write_text(json.dumps(rows), encoding="utf-8")
        hashes.add(selection(folder, memo).label_hash)
    assert len(hashes) == 2
    data = selection(folder, memo)
    apart = tuple(
        dataclasses.replace(choice, cluster=number)
        for number, choice in enumerate(data.choices or ())
    )
    cue = Association(key="a", cue="b", images=(0, 1), right=1, cluster=0)
    associations = [
        dataclasses.replace(data, associations=(dataclasses.replace(cue, cluster=n),))
        for n in (0, 1)
    ]
    assert dataclasses.replace(data, choices=apart).label_hash != data.label_hash
    assert associations[0].label_hash != associations[1].label_hash


def test_lists_columns_by_place_and_categories(folder, memo):
    (folder / "w.json").write_text(json.dumps([[1, "a left b", "a right b"]]), encoding="utf-8")
    given = {"files": ["w.json"], "image": "val2017/{0}.png", "right": ["{1}"], "wrong": ["{2}"]}
    (choice,) = opened(folder, memo, "caption_selection", "selection", given).choices or ()
    assert choice.captions == ("a left b", "a right b")
    row = {"p": "1", "options": ["yes", "no", "maybe"], "tags": ["x", "y"]}
    (folder / "o.jsonl").write_text(json.dumps(row), encoding="utf-8")
    given = {
        "files": ["o.jsonl"], "image": "val2017/{p}.png", "right": ["{options[0]}"],
        "wrong": ["{options[1]}", "{options[2]}"], "category": "{tags[0]}_{tags[1]}",
    }  # fmt: skip
    (choice,) = opened(folder, memo, "caption_selection", "selection", given).choices or ()
    assert choice.captions == ("yes", "no", "maybe") and choice.category == "x_y"


def test_the_part_of_an_image_that_is_meant(folder, memo):
    (folder / "aro.json").write_text(
        json.dumps(
            [
                {
                    "image_path": "1.png",
                    "x": 4,
                    "y": 2,
                    "w": 10,
                    "h": 12,
                    "yes": "a on b",
                    "no": "b on a",
                },
                {
                    "image_path": "1.png",
                    "x": 0,
                    "y": 0,
                    "w": 5,
                    "h": 5,
                    "yes": "c on b",
                    "no": "b on c",
                },
            ]
        ),
        encoding="utf-8",
    )
    given = {
        "files": ["aro.json"], "image": "val2017/{image_path}", "right": ["{yes}"],
        "wrong": ["{no}"], "crop": ["{x}", "{y}", "{w}", "{h}"],
    }  # fmt: skip
    data = opened(folder, memo, "caption_selection", "selection", given)
    whole = np.asarray(image("red", 0))
    assert np.array_equal(np.asarray(data.images.open(0)), whole[2:14, 4:14])
    assert list(data.images.keys) == ["val2017/1.png#4,2,10,12", "val2017/1.png#0,0,5,5"]
    assert data.images.stored_hash(0) != data.images.stored_hash(1)
    with pytest.raises(
        DataBroken, match=r"set/aro.json, row 1: .*could not convert string to float"
    ):
        opened(
            folder,
            memo,
            "caption_selection",
            "selection",
            {**given, "crop": ["{x}", "{y}", "{w}", "{yes}"]},
        )


CROPPED = {"crop": ["{box[0]}", "{box[1]}", "{box[2]}", "{box[3]}"]}


@pytest.mark.parametrize("box", [(0, 0, 0.5, 0.5), (4, 4, -2, 5), (4, 4, 5, 0)])
def test_a_part_of_less_than_a_pixel_is_refused_with_its_row(folder, memo, box):
    rows = [{**row, "box": (0, 0, 5, 5)} for row in ROWS]
    (folder / "swap_att.json").write_text(
        json.dumps([*rows[:1], {**rows[1], "box": box}]), encoding="utf-8"
    )
    with pytest.raises(DataBroken, match=r"set/swap_att.json, row 2: .*at least 1 pixel"):
        selection(folder, memo, **CROPPED)


@pytest.mark.parametrize("box", [(40, 0, 5, 5), (0, 36, 5, 5), (-5, 0, 5, 5), (0, -5, 5, 5)])
def test_a_part_outside_the_image_is_refused_with_its_row(folder, memo, tmp_path, tiny, box):
    # The last one has a pixel of the image, at its corner.
    boxes = [
        (0, 0, 5, 5),
        box,
        (39, 35, 5, 5),
    ]
    rows = [{**row, "box": own} for row, own in zip(ROWS, boxes, strict=True)]
    (folder / "swap_att.json").write_text(json.dumps(rows), encoding="utf-8")
    images = selection(folder, memo, **CROPPED).images
    assert images.open(0).size == images.open(2).size == (5, 5)
    with pytest.raises(
        DataBroken, match=r"set/swap_att.json, row 2: .* outside the image of 40 x 36 pixels"
    ):
        FeatureCache(tmp_path / "features", tiny).images(images)


def test_categories_with_too_few_questions_are_left_out_with_their_images(folder, memo):
    (folder / "swap_att.json").write_text(json.dumps(ROWS), encoding="utf-8")
    data = selection(folder, memo, category="{filename}", at_least=2)
    assert data.items == 2 and list(data.images.keys) == ["val2017/1.png"]


def test_pairs_in_one_row_and_in_two(folder, memo):
    row = {"image_0": "1", "image_1": "2", "caption_0": "red", "caption_1": "blue", "tag": "Object"}
    (folder / "examples.jsonl").write_text(json.dumps(row), encoding="utf-8")
    winoground = {
        "files": ["examples.jsonl"], "images": ["val2017/{image_0}.png", "val2017/{image_1}.png"],
        "captions": ["{caption_0}", "{caption_1}"], "category": "{tag}",
    }  # fmt: skip
    data = opened(folder, memo, "pair_selection", "pairs", winoground)
    (pair,) = data.pairs or ()
    assert (pair.images, pair.captions, pair.category) == ((0, 1), ("red", "blue"), "Object")
    (folder / "Questions.csv").write_text(
        "Id,Type,Statement\n1,color,red\n2,color,blue\n", encoding="utf-8"
    )
    mmvp = {
        "files": ["Questions.csv"],
        "images": ["val2017/{0}.png"],
        "captions": ["{2}"],
        "category": "{1}",
    }
    (pair,) = opened(folder, memo, "pair_selection", "pairs", mmvp).pairs or ()
    assert (pair.images, pair.captions, pair.category) == ((0, 1), ("red", "blue"), "color")
    (folder / "Questions.csv").write_text("Id,Type,Statement\n1,color,red\n", encoding="utf-8")
    with pytest.raises(DataBroken, match="1 rows, an odd number, are not pairs"):
        opened(folder, memo, "pair_selection", "pairs", mmvp)


def test_a_sample_of_pairs_keeps_both_images(folder, memo):
    rows = [{"a": "1", "b": "2"}, {"a": "3", "b": "1"}]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = {
        "files": ["p.jsonl"], "images": ["val2017/{a}.png", "val2017/{b}.png"],
        "captions": ["{a}", "{b}"],
    }  # fmt: skip
    data = opened(folder, memo, "pair_selection", "pairs", given, sample=1)
    assert data.items == 1 and len(data) == 2
    (pair,) = data.pairs or ()
    assert [data.images.keys[one] for one in pair.images] == [
        f"val2017/{caption}.png" for caption in pair.captions
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "neither objects nor lists"),
        ("{", "is not a .json file of rows"),
        ("[]", "no rows in"),
        ('[{"filename": "1.png", "caption": " ", "negative_caption": "x"}]',
         r"row 1: '\{caption\}' gives nothing"),
        ('[{"filename": "1.png", "caption": null, "negative_caption": "x"}]',
         "row 1: .*a column is empty"),
        ('[{"filename": "1.png", "caption": "x"}]',
         r"row 1: '\{negative_caption\}' does not fit its columns"),
        ('[{"filename": "1.png", "caption": "x", "negative_caption": "y"}, '
         '{"filename": "9.png", "caption": "x", "negative_caption": "y"}]',
         "1 of 2 images are not there"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_rows_is_said_with_its_place(folder, memo, content, message):
    (folder / "swap_att.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataBroken, match=message):
        selection(folder, memo)


def test_what_is_not_at_hand_and_what_nobody_understands(folder, memo):
    with pytest.raises(DataMissing, match=r"swap_att.json is not there"):
        selection(folder, memo)
    (folder / "swap_att.json").write_text(
        json.dumps([{**ROWS[0], "filename": "9.png"}]), encoding="utf-8"
    )
    with pytest.raises(DataMissing, match="the images of set are not in"):
        selection(folder, memo)
    with pytest.raises(WrongUse, match="needs the options files, image, right, wrong, and takes"):
        selection(folder, memo, colour="x")


def test_captions_line_by_line(folder, memo):
    (folder / "names.txt").write_text("1.png 7\n2.png 8\n", encoding="utf-8")
    (folder / "captions.de.gz").write_bytes(gzip.compress(b"ein roter\nein blauer\n"))
    given = {"images": "names.txt", "captions": "captions.de.gz", "image": "val2017/{0}"}

    def read() -> DataSet:
        return opened(folder, memo, "retrieval", "lines", given, direction="text_to_image")

    assert read().captions == (("ein roter",), ("ein blauer",))
    for pattern, error in (("val2017/{2}", "IndexError"), ("val2017/{file}", "KeyError")):
        given["image"] = pattern
        with pytest.raises(
            DataBroken, match=rf"names.txt, line 1: a column is missing or unusable \({error}"
        ):
            read()
    (folder / "names.txt").write_text("1.png 7\n", encoding="utf-8")
    with pytest.raises(DataBroken, match=r"1 lines of names\.txt, 2 of captions\.de\.gz"):
        read()
    for content, message in (
        (gzip.compress(b"\xff"), "is not UTF-8"),
        (gzip.compress(b"ein")[:-9], "fetch the set again"),
    ):
        (folder / "captions.de.gz").write_bytes(content)
        with pytest.raises(DataBroken, match=rf"set/captions.de.gz .*{message}"):
            read()
    for content in (b"no gzip", gzip.compress(b"ein roter")[:-8] + bytes(8)):
        (folder / "captions.de.gz").write_bytes(content)
        with pytest.raises(DataBroken, match=r"captions.de.gz is not a whole gzip file"):
            read()


def test_a_list_that_unpacks_to_more_than_its_bound_is_refused(tmp_path):
    path = tmp_path / "captions.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(257):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**21
    with pytest.raises(DataBroken, match="here holds more than 268,435,456 bytes of text"):
        text_of(path, "here")


def test_the_suites_read_rows_as_their_authors_publish_them(tmp_path, memo):
    """A row each in the form that the authors' own code reads."""
    rows: dict[str, dict[str, Any]] = {
        "sugarcrepe": {
            f"{name}.json": {"0": {"filename": "1.png", "caption": "a", "negative_caption": "b"}}
            for name in ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel",
                         "swap_att", "swap_obj")
        },
        "aro_relation": {
            "visual_genome_relation.json": [
                {
                    "image_path": "1.png", "true_caption": "a", "false_caption": "b",
                    "relation_name": "on", "bbox_x": 0, "bbox_y": 0, "bbox_w": 5, "bbox_h": 5,
                }
            ]
        },
        "whatsup_a": {"controlled_images_dataset.json": [{"image_path": "1.png",
                                                          "caption_options": list("abcd")}]},
        "colorswap": {
            "test.json": [
                {"caption_1": "a", "caption_2": "b", "image_1": "1", "image_2": "2",
                 "image_source": "x"},
            ]
        },
    }  # fmt: skip
    for task in load_suite("compositional").tasks:
        if task.name not in rows:
            continue
        options = dict(task.sources[0].options)
        for name in ("image", "images"):  # the images of the test lie in one folder
            if isinstance(options.get(name), str):
                options[name] = "val2017/1.png"
            elif name in options:
                options[name] = ["val2017/1.png", "val2017/2.png"]
        folder = tmp_path / task.name
        (folder / "val2017").mkdir(parents=True)
        for number in (1, 2):
            image("red", number).save(folder / "val2017" / f"{number}.png")
        for file, content in rows[task.name].items():
            (folder / file).write_text(json.dumps(content), encoding="utf-8")
        data = opened(folder, memo, task.kind, task.sources[0].layout, options)
        assert data.items == len(rows[task.name]), task.name
