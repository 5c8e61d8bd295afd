"""From a task to its data: the first source at hand, samples, and what has to fit together."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval import cli
from open_diht.eval.data import class_names, open_support, sample_indices, shared_images, templates
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.protocol import data_record
from open_diht.eval.session import open_task
from open_diht.eval.tasks import Source, Task
from tests.eval.conftest import a_task, image, paint

TASK = a_task(
    "colours", "classification", "top1",
    sources=(Source(layout="webdataset", path="nowhere"),
             Source(layout="webdataset", path="colours")),
)  # fmt: skip


def task(**changes: Any) -> Task:
    return dataclasses.replace(TASK, **changes)


def test_the_first_source_at_hand_is_read_and_an_absolute_path_needs_no_data_folder(
    colour_set, memo, tmp_path
):
    root = colour_set(n=6)
    data: Any = open_task(TASK, root, memo)
    assert data.place == "colours" and len(data) == 6
    away = task(sources=(Source(layout="webdataset", path=str(root / "colours")),))
    assert len(open_task(away, tmp_path / "elsewhere", memo)) == 6


def test_data_that_is_nowhere_says_how_to_get_it(tmp_path, memo):
    with pytest.raises(
        DataMissing,
        match=r"data not found: paint some .*nowhere/test is not there; colours/test is",
    ):
        open_task(TASK, tmp_path, memo)


def test_a_task_without_a_training_split_says_so(colour_set, memo):
    root = colour_set(n=6)
    with pytest.raises(DataMissing, match="no training split"):
        open_support(TASK, open_task(TASK, root, memo), root, memo)


def test_a_sample_depends_on_keys_alone(colour_set, memo):
    root = colour_set(n=12)
    one, two = (open_task(task(sample=5), root, memo) for _ in range(2))
    assert (
        list(one.images.keys) == list(two.images.keys) and len(one) == 5 and one.labels is not None
    )
    assert one.labels.tolist() == [int(key[1:]) % 3 for key in one.images.keys]
    keys = [f"s{index:04d}" for index in range(12)]
    backwards = sample_indices(keys[::-1], 5)
    assert sorted(keys[::-1][index] for index in backwards) == sorted(one.images.keys)


def test_a_sample_is_recorded_unless_the_whole_set_was_read(colour_set, memo):
    root = colour_set(n=6)
    for items, sample, recorded in ((None, 5, True), (6, 5, True), (6, 6, False), (None, 7, False)):
        asked = task(items=items, sample=sample)
        record = data_record(asked, open_task(asked, root, memo))
        said = f"at most {sample} items, drawn by seed 0 from the sorted keys"
        assert record.get("sample") == (said if recorded else None)


def test_shared_images_are_found_across_layouts_by_their_bytes(tmp_path, colour_set, memo):
    root = colour_set(n=6)
    tar = open_task(TASK, root, memo).images
    for name, number in (("red/again.jpg", 3), ("red/other.jpg", 33), ("blue/again.jpg", 2)):
        path = root / "files" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(image(path.parent.name, number)))
    listed = task(sources=(Source(layout="folder", path="files", split="train"),))
    files = open_task(listed, root, memo).images
    assert shared_images(files, tar) == ["blue/again.jpg", "red/again.jpg"]
    assert shared_images(tar, files) == ["s0002", "s0003"]
    few: Any = open_task(TASK, root, memo).take([3, 4])
    assert shared_images(few.images, files) == ["s0003"]


def test_whether_pixels_are_those_of_files_is_not_known(colour_set, memo, monkeypatch):
    class Pixels:
        """As torchvision's CIFAR10: an array of all images; in `Whole` nothing that is an image's
        own."""

        def __init__(self, root: Any, split: str) -> None:
            self.data = np.arange(12, dtype=np.uint8).reshape(3, 2, 2) // (
                8 if split == "test" else 4
            )
            self.targets = [0, 1, 2]
            self.classes = ["a", "b", "c"]

        def __len__(self) -> int:
            return 3

    class Whole(Pixels):
        def __init__(self, root: Any, split: str) -> None:
            super().__init__(root, split)
            del self.data

    root = colour_set(n=6)

    def images(name: str, split: str = "test") -> Any:
        source = Source(layout="torchvision", path="colours", split=split, options={"name": name})
        return open_task(task(sources=(source,), templates=("a {}",)), root, memo).images

    for kind in (Pixels, Whole):
        monkeypatch.setattr(f"torchvision.datasets.{kind.__name__}", kind, raising=False)
    tar = open_task(TASK, root, memo).images
    assert shared_images(images("Pixels"), images("Pixels", "train")) == [
        "00000000",
        "00000001",
        "00000002",
    ]
    assert shared_images(images("Pixels", "train"), images("Pixels")) == ["00000000", "00000001"]
    assert shared_images(images("Pixels"), tar) is None is shared_images(tar, images("Pixels"))
    assert shared_images(images("Whole"), images("Whole")) is None


def test_labels_must_have_class_names_and_those_templates(colour_set, memo):
    root = colour_set(n=6)
    (root / "colours" / "classnames.txt").write_text("red\ngreen\n", encoding="utf-8")
    with pytest.raises(DataBroken, match="labels up to 2 and class names for 2"):
        open_task(TASK, root, memo)
    (root / "colours" / "classnames.txt").unlink()
    with pytest.raises(DataBroken, match="no class names of its own"):
        open_task(TASK, root, memo)
    (root / "colours" / "zeroshot_classification_templates.txt").unlink()
    with pytest.raises(
        DataBroken, match=r"no class names or templates of its own .*classnames.txt, zeroshot_class"
    ):
        open_task(TASK, root, memo)


def test_the_lists_of_the_data_go_before_those_of_the_task_and_the_source_is_told(colour_set, memo):
    root = colour_set(n=6)
    wanted = task(class_names=("a", "b", "c"), templates=("see {}",))
    data: Any = open_task(wanted, root, memo)
    assert class_names(wanted, data).texts == ["red", "green", "blue"]
    assert "own" in templates(wanted, data).source
    (root / "colours" / "classnames.txt").unlink()
    data = open_task(wanted, root, memo)
    assert class_names(wanted, data) == (["a", "b", "c"], "the suite file")


def images_in(folder: Path, names: dict[str, str]) -> Path:
    for number, (name, colour) in enumerate(names.items()):
        paint(folder / name, colour, number)
    return folder


def test_folders_of_classes(tmp_path, memo):
    images_in(
        tmp_path / "f",
        {"test/deep_red/1.png": "red", "test/blue/2.png": "blue", "test/blue/3.png": "blue"},
    )
    folder = task(sources=(Source(layout="folder", path="f"),))
    data: Any = open_task(folder, tmp_path, memo)
    assert data.class_names == ("blue", "deep red")
    assert data.labels is not None and data.labels.tolist() == [0, 0, 1]
    with pytest.raises(
        DataBroken, match="the folder 'deep red' does not name exactly one of the 2 classes"
    ):
        open_task(dataclasses.replace(folder, class_names=("Blue", "red")), tmp_path, memo)
    listed: Any = open_task(
        dataclasses.replace(folder, class_names=("Deep red", "green", "Blue")), tmp_path, memo
    )
    assert listed.labels.tolist() == [2, 2, 0]


def test_folders_of_two_splits_have_their_classes_in_common_by_name(tmp_path, memo):
    images_in(tmp_path / "f", {"test/ant/1.png": "red", "test/cat/2.png": "blue"})
    images_in(tmp_path / "f", {"train/ant/1.png": "red", "train/bee/2.png": "blue"})
    source, support = (
        Source(layout="folder", path="f", split=split) for split in ("test", "train")
    )
    both = task(sources=(source,), support=(support,))
    data = open_task(both, tmp_path, memo)
    with pytest.raises(
        DataBroken, match="the folder 'bee' does not name exactly one of the 2 classes"
    ):
        open_support(both, data, tmp_path, memo)
    (tmp_path / "f" / "train" / "bee").rename(tmp_path / "f" / "train" / "cat")
    (tmp_path / "f" / "train" / "ant").rename(tmp_path / "elsewhere")
    labels = open_support(both, data, tmp_path, memo).labels
    assert labels is not None and labels.tolist() == [1]  # a cat, as in the test split


def listed(file: str, options: Any = None) -> Task:
    source = Source(
        layout="manifest",
        path=f"m/{file}",
        options=options or {"image": "{image}", "caption": "caption"},
    )
    return task(kind="retrieval", direction="image_to_text", metric="recall@1", sources=(source,))


def test_lists_of_images_put_the_captions_of_one_together(tmp_path, memo):
    images_in(tmp_path / "m" / "p", {"1.png": "red", "2.png": "blue"})
    rows = (
        "image\tcaption\tby\n1.png\ta red"
        " one\tx\n2.png\tblue\ty\n1.png\tred\tz\n9.png\tgone\t-\n2.png\t\tw\n"
    )
    (tmp_path / "m" / "list.tsv").write_text(rows, encoding="utf-8")
    options = {
        "image": "{image}",
        "caption": "caption",
        "below": "p",
        "leave_out": ["9.png"],
        "skip_empty": True,
    }
    assert open_task(listed("list.tsv", options), tmp_path, memo).captions == (
        ("a red one", "red"),
        ("blue",),
    )
    for change, message in (
        ({"leave_out": []}, "image 9.png is not there"),
        ({"skip_empty": False}, "an empty caption"),
    ):
        with pytest.raises(DataBroken, match=message):
            open_task(listed("list.tsv", {**options, **change}), tmp_path, memo)


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("list.tsv", "image\tcaption\n1.png\tred\n2.png"),
        ("list.jsonl", '{"image": "1.png", "caption": "red"}\n{"image": "2.png", "caption": null}'),
    ],
)
def test_a_column_without_a_value_is_empty(tmp_path, memo, file, rows):
    (images_in(tmp_path / "m", {"1.png": "red", "2.png": "blue"}) / file).write_text(
        rows, encoding="utf-8"
    )

    def captions(**options: Any) -> Any:
        return open_task(listed(file, {"caption": "caption", **options}), tmp_path, memo).captions

    assert captions(image="{image}", skip_empty=True) == (("red",),)
    with pytest.raises(DataBroken, match=r"image 2\.png has an empty caption"):
        captions(image="{image}")
    with pytest.raises(DataBroken, match=rf"m/{file}, row 2: .*a column is empty"):
        captions(image="{caption}.png", caption="image")


def test_a_csv_has_quotes_and_a_tsv_has_none(tmp_path, memo):
    folder = images_in(tmp_path / "m", {"1.png": "red", "2.png": "blue"})
    (folder / "list.csv").write_text(
        'image,caption\n1.png,"A ""red"" dog, running"\n2.png,blue\n', encoding="utf-8-sig"
    )  # as Excel writes it
    (folder / "list.tsv").write_text(
        'image\tcaption\n1.png\t"Red, he said\n2.png\t7" blue\n', encoding="utf-8"
    )
    expected = {
        "list.csv": (('A "red" dog, running',), ("blue",)),
        "list.tsv": (('"Red, he said',), ('7" blue',)),
    }
    for file, captions in expected.items():
        assert open_task(listed(file), tmp_path, memo).captions == captions
    images_in(tmp_path / "f", {"test/red/1.png": "red"})
    (tmp_path / "f" / "groups.csv").write_text(
        'image,group\nred/1.png,"Congo, Republic"\n', encoding="utf-8"
    )
    source = Source(layout="folder", path="f", options={"groups": "groups.csv"})
    data = open_task(task(metric="worst_group_top1", sources=(source,)), tmp_path, memo)
    assert data.groups == ("Congo, Republic",)


@pytest.mark.parametrize(("file", "separator"), [("list.csv", ","), ("list.tsv", "\t")])
def test_a_row_with_more_fields_than_the_header_is_named(tmp_path, memo, file, separator):
    rows = ["image,caption", "1.png,red", "2.png,blue, and cold"]
    folder = images_in(tmp_path / "m", {"1.png": "red", "2.png": "blue"})
    (folder / file).write_text("\n".join(rows).replace(",", separator), encoding="utf-8")
    with pytest.raises(
        DataBroken, match=rf"m/{file} .*\(row 2: ' and cold' is in no column of the header; "
    ):
        open_task(listed(file), tmp_path, memo)


def test_torchvision_sets_are_read_and_never_downloaded(tmp_path, memo):
    raw = tmp_path / "tv" / "FashionMNIST" / "raw"
    source = Source(layout="torchvision", path="tv", options={"name": "FashionMNIST"})
    wanted = task(sources=(source,), class_names=tuple("abcdefghij"), templates=("a {}",))
    raw.mkdir(parents=True)
    with pytest.raises(DataMissing, match="torchvision finds no FashionMNIST"):
        open_task(wanted, tmp_path, memo)
    for part in ("t10k", "train"):
        pixels = np.arange(3 * 28 * 28, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, 3, 28, 28) + pixels.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, 3) + bytes([7, 0, 2])
        )
    data: Any = open_task(wanted, tmp_path, memo)
    assert data.labels is not None and data.labels.tolist() == [7, 0, 2]
    assert data.images.open(0).mode == "RGB" and data.images.open(0).size == (28, 28)
    unknown = dataclasses.replace(source, split="tset", options={"name": "SVHN"})
    with pytest.raises(
        WrongUse, match="torchvision's SVHN: Unknown value 'tset' for argument split"
    ):
        open_task(dataclasses.replace(wanted, sources=(unknown,)), tmp_path, memo)
    (tmp_path / "tv" / "notes.txt").write_text("a foreign file changes nothing")
    again = open_task(wanted, tmp_path, memo)
    assert again.images.fingerprint == data.images.fingerprint
    raw_test = raw / "t10k-images-idx3-ubyte"
    raw_test.write_bytes(raw_test.read_bytes()[:-1] + b"x")
    assert open_task(wanted, tmp_path, memo).images.fingerprint != data.images.fingerprint


def test_torchvision_files_are_those_of_the_split_and_class_names_keep_their_strokes(
    tmp_path, memo, monkeypatch
):
    class Planes:
        """As torchvision's FGVCAircraft."""

        def __init__(self, root: Any) -> None:
            self._image_files = [str(Path(root) / f"{number}.png") for number in (1, 2)]
            self._labels = [1, 0]
            self.classes = ["F-16A/B", "Cessna_172"]

        def __len__(self) -> int:
            return 2

    monkeypatch.setattr("torchvision.datasets.Planes", Planes, raising=False)
    images_in(tmp_path / "tv", {"1.png": "red", "2.png": "blue", "3.png": "blue"})
    source = Source(layout="torchvision", path="tv", options={"name": "Planes"})
    wanted = task(sources=(source,), templates=("a {}",))
    data = open_task(wanted, tmp_path, memo)
    assert data.class_names == ("F-16A/B", "Cessna 172")
    (tmp_path / "tv" / "3.png").unlink()
    assert open_task(wanted, tmp_path, memo).images.fingerprint == data.images.fingerprint
    images_in(tmp_path / "tv", {"2.png": "green"})
    assert open_task(wanted, tmp_path, memo).images.fingerprint != data.images.fingerprint


@pytest.mark.parametrize("held", ["_image_files", "data"])
def test_the_images_of_a_torchvision_set_are_listed_once(tmp_path, memo, monkeypatch, held):
    listed = []

    class Large:
        """As torchvision's ImageNet, whose files are listed in a time that grows with their
        number."""

        def __init__(self, root: Any) -> None:
            self.content = (
                [str(Path(root) / "1.png")] * 50
                if held != "data"
                else np.zeros((50, 2, 2), np.uint8)
            )
            self._labels = [0] * 50
            self.classes = ["red"]

        def __getattr__(self, name: str) -> Any:
            if name != held:
                raise AttributeError(name)
            listed.append(name)
            return self.content

        def __len__(self) -> int:
            return 50

    monkeypatch.setattr("torchvision.datasets.Large", Large, raising=False)
    images_in(tmp_path / "tv", {"1.png": "red"})
    source = Source(layout="torchvision", path="tv", options={"name": "Large"})
    images = open_task(task(sources=(source,), templates=("a {}",)), tmp_path, memo).images
    assert images.fingerprint and len({images.stored_hash(index) for index in range(50)}) == 1
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        (
            {"label": "label"},
            '["1.png", 0]',
            r"m/list.jsonl, row 2: a column is missing or unusable \(TypeError",
        ),
        (
            {"label": "label"},
            '{"image": "1.png", "by": 1}',
            r"row 2: .*KeyError\('label'\)\); its columns are image, by",
        ),
    ],
)
def test_a_row_of_a_list_without_its_columns_is_named(tmp_path, memo, options, row, message):
    images_in(tmp_path / "m", {"1.png": "red"})
    (tmp_path / "m" / "list.jsonl").write_text(
        '{"image": "1.png", "label": 0}\n' + row, encoding="utf-8"
    )
    source = Source(layout="manifest", path="m/list.jsonl", options={"image": "{image}", **options})
    with pytest.raises(DataBroken, match=message):
        open_task(task(sources=(source,)), tmp_path, memo)


def vqa(folder: Path, name: str = "", **changes: Any) -> Task:
    """A VQAv2 set of one question; the last entry of the file `name` gets the changes, a key of
    None goes."""
    images_in(folder / "v", {"p/000000000007.jpg": "red"})
    train = [
        ("yes", "is"),
        ("yes", "is"),
        ("no", "is"),
        ("2", "how many"),
        ("3", "how many"),
        ("3", "how many"),
    ]
    answered = {
        "question_type": "how many",
        "answer_type": "number",
        "answers": [{"answer": "2"}] * 10,
    }
    files: dict[str, Any] = {
        "q.json": {"questions": [{"question_id": 1, "question": "How many?", "image_id": 7}]},
        "a.json": {"annotations": [{"question_id": 1, "image_id": 7, **answered}]},
        "t.json": {
            "annotations": [
                {"multiple_choice_answer": answer, "question_type": kind} for answer, kind in train
            ]
        },
    }
    for file, content in files.items():
        (entries,) = content.values()
        if file == name:
            entries[-1] = {
                key: value for key, value in {**entries[-1], **changes}.items() if value is not None
            }
        (folder / "v" / file).write_text(json.dumps(content), encoding="utf-8")
    options = {"questions": "q.json", "annotations": "a.json", "train_annotations": "t.json"}
    source = Source(
        layout="vqav2", path="v", split="val", options={**options, "image": "p/{image_id:012d}.jpg"}
    )
    return task(kind="vqa", metric="soft_accuracy", candidates=2, sources=(source,))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("q.json", {"question": None}, r"v/q.json, questions 1: .*KeyError\('question'\)"),
        ("q.json", {"question": 5}, "v/a.json, annotations 1: .*all of them texts"),
        (
            "a.json",
            {"answers": None},
            r"v/a.json, annotations 1: .*its columns are question_id, image_id",
        ),
        ("a.json", {"answers": []}, "v/a.json, annotations 1: .*all of them texts"),
        ("t.json", {"question_type": None}, "v/t.json, annotations 6: .*question_type"),
    ],
)
def test_an_unusable_entry_of_vqav2_is_named(tmp_path, memo, name, changes, message):
    with pytest.raises(DataBroken, match=message):
        open_task(vqa(tmp_path, name, **changes), tmp_path, memo)


def test_vqav2_offers_the_frequent_training_answers_of_the_questions_type(tmp_path, memo):
    data: Any = open_task(vqa(tmp_path), tmp_path, memo)
    (question,) = data.questions
    assert (
        question.candidates == ("3", "2")
        and question.kind == "number"
        and len(question.answers) == 10
    )


@pytest.mark.parametrize(("old", "new"), [(b"}]}", b"}]"), (b"is", b"\xff")])
def test_a_damaged_file_of_vqav2_is_named(tmp_path, memo, old, new):
    asked = vqa(tmp_path)
    path = tmp_path / "v" / "t.json"
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(DataBroken, match=r"v/t\.json is not JSON with a list 'annotations'"):
        open_task(asked, tmp_path, memo)


def test_snli_ve_leaves_out_rows_without_a_gold_label(tmp_path, memo):
    images_in(tmp_path / "s", {"p/5.jpg": "red"})
    rows = [
        {"Flickr30K_ID": "5", "sentence2": "It is red.", "gold_label": "entailment", "pairID": "a"},
        {"Flickr30K_ID": "5", "sentence2": "It is odd.", "gold_label": "-", "pairID": "b"},
    ]
    (tmp_path / "s" / "x.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    source = Source(
        layout="snli_ve", path="s", options={"file": "x.jsonl", "image": "p/{Flickr30K_ID}.jpg"}
    )
    data: Any = open_task(task(kind="vqa", metric="accuracy", sources=(source,)), tmp_path, memo)
    assert [question.key for question in data.questions] == ["a"]
    for name in ("gold_label", "sentence2", "Flickr30K_ID"):
        lacking = {key: value for key, value in rows[0].items() if key != name}
        (tmp_path / "s" / "x.jsonl").write_text(json.dumps(lacking), encoding="utf-8")
        with pytest.raises(DataBroken, match=rf"s, line 1: .*KeyError\('{name}'\)"):
            open_task(task(kind="vqa", metric="accuracy", sources=(source,)), tmp_path, memo)


def test_the_folders_of_classes_on_the_page_are_measured(tmp_path, tiny_folder):
    page = (Path(__file__).resolve().parents[3] / "docs" / "extend" / "task.md").read_text(
        encoding="utf-8"
    )
    suite = next(block for block in page.split("```") if "layout: folder" in block).partition("\n")[
        2
    ]
    (tmp_path / "pets.yaml").write_text(suite, encoding="utf-8")
    images_in(tmp_path / "data" / "pets" / "test", {"cat/1.jpg": "red", "dog/1.jpg": "blue"})
    asked = [
        "--tasks",
        str(tmp_path / "pets.yaml"),
        "--data",
        str(tmp_path / "data"),
        "--output",
        str(tmp_path / "o"),
    ]
    assert cli.main(["--model", str(tiny_folder), *asked, "--cache", str(tmp_path / "cache")]) == 0
    rows = json.loads((tmp_path / "o" / "results.json").read_text())
    assert {row["metric"]: row["n"] for row in rows if row["task"] == "my_pets"}["top1"] == 2


def test_all_that_folders_of_classes_lack_is_said_at_once(tmp_path, memo):
    images_in(tmp_path / "pets", {"cat/1.jpg": "red", "dog/1.jpg": "blue"})
    pets = task(sources=(Source(layout="folder", path="pets"),))
    with pytest.raises(
        DataMissing,
        match=r"pets has cat, dog: class folders go below a split, pets/test.*templates: ",
    ):
        open_task(pets, tmp_path, memo)
    images_in(tmp_path / "pets" / "test", {"cat/1.jpg": "red", "dog/1.jpg": "blue"})
    with pytest.raises(DataBroken, match=r"^pets has no templates of its own .*templates: "):
        templates(pets, open_task(pets, tmp_path, memo))
