"""Suite files: what they promise, and that nothing in one passes unread."""

import json
from collections import Counter
from importlib import resources
from typing import Any

import pytest

from open_diht.eval.errors import WrongUse
from open_diht.eval.tasks import choose_tasks, load_suite, suite_names
from open_diht.eval.templates import fill, known, look_up, named, slot_of

GOOD = """
name: mine
about: for a test
tasks:
  - name: one
    kind: classification
    title: One
    metric: top1
    sources: [{layout: webdataset, path: one}]
    license: MIT
    get: look here
"""


def test_the_suite_has_17_classification_10_retrieval_and_2_vqa_tasks_and_says_what_it_is():
    suite = load_suite("diht29")
    kinds = Counter(task.kind for task in suite.tasks)
    # Two are Winoground's.
    assert kinds == {
        "classification": 17,
        "retrieval": 8,
        "pair_selection": 2,
        "vqa": 2,
    }
    assert "our selection" in suite.about and "not confirmed" in suite.about
    directions = Counter(task.direction for task in suite.tasks if task.kind == "retrieval")
    assert directions == {"image_to_text": 4, "text_to_image": 4}


@pytest.mark.parametrize("name", suite_names())
def test_every_task_says_where_its_data_comes_from_and_under_which_terms(name):
    for task in load_suite(name).tasks:
        assert task.sources and task.license and task.get, task.name
        assert all(source.split for source in (*task.sources, *task.support)), task.name


def test_every_task_of_the_29_says_how_large_it_is_and_what_is_asked():
    for task in load_suite("diht29").tasks:
        assert task.items and task.metric and task.title, task.name
        if task.kind == "classification":
            assert task.classes and task.templates != "dataset", task.name
        if task.kind == "retrieval":
            assert task.captions_per_image and task.caption_templates == (
                "{}",
                "a photo of {}.",
            ), task.name


# evaluation of openai/CLIP: classes, templates, metric.
PUBLISHED = {
    "imagenet1k": (1000, 80, "top1"), "cifar10": (10, 18, "top1"), "cifar100": (100, 18, "top1"),
    "stl10": (10, 2, "top1"), "food101": (101, 1, "top1"),
    "caltech101": (102, 34, "mean_per_class"), "cars": (196, 8, "top1"),
    "fgvc_aircraft": (100, 2, "mean_per_class"), "flowers": (102, 1, "mean_per_class"),
    "eurosat": (10, 3, "top1"), "dtd": (47, 8, "top1"), "pets": (37, 1, "mean_per_class"),
    "sun397": (397, 2, "top1"), "country211": (211, 5, "top1"), "ucf101": (101, 48, "top1"),
    "renderedsst2": (2, 1, "top1"), "hateful_memes": (2, 1, "roc_auc"),
}  # fmt: skip


def test_classes_templates_and_metrics_are_the_published_ones():
    tasks = {
        task.name: task for task in load_suite("diht29").tasks if task.kind == "classification"
    }
    found = {
        name: (task.classes, len(named("templates", task.templates)), task.metric)
        for name, task in tasks.items()
    }
    assert found == PUBLISHED


# CLIP_benchmark's and DataComp's lists of tasks: classes, images of the test split.
SIZES = {
    "imagenetv2": (1000, 10_000), "imagenet_a": (200, 7_500), "imagenet_r": (200, 30_000),
    "imagenet_sketch": (1000, 50_889), "objectnet": (113, 18_574), "imagenet_o": (200, 2_000),
    "clevr_counts": (8, 15_000), "clevr_distance": (6, 15_000), "gtsrb": (43, 12_630),
    "kitti_distance": (4, 711), "mnist": (10, 10_000), "pcam": (2, 32_768), "resisc45": (45, 6_300),
    "svhn": (10, 26_032), "voc2007": (20, 14_976),
}  # fmt: skip


def test_the_sizes_of_what_papers_report_beside_them_are_the_published_ones():
    tasks = {
        task.name: task for name in ("robustness", "datacomp38") for task in load_suite(name).tasks
    }
    assert {name: (tasks[name].classes, tasks[name].items) for name in SIZES} == SIZES


def test_every_shipped_template_has_one_slot_and_every_class_list_names_a_class_once():
    for name in known("templates"):
        for template in look_up("templates", name):
            slot_of(template)
    for name in known("class_names"):
        counts = Counter(look_up("class_names", name))
        # The revised ImageNet list of openai/CLIP itself has "missile" twice; everyone's numbers
        # are with it.
        allowed = {"clip_benchmark:imagenet1k": ["missile", "sunglasses"]}.get(name, [])
        assert [one for one, count in counts.items() if count > 1 and one not in allowed] == []


def test_templates_and_class_names_are_those_of_open_clip_and_clip_benchmark():
    import open_clip

    assert look_up("class_names", "clip_benchmark:imagenet1k") == list(
        open_clip.IMAGENET_CLASSNAMES
    )
    ours = [fill(template, "cat") for template in look_up("templates", "clip_benchmark:imagenet1k")]
    assert (
        ours == [template("cat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        and len(ours) == 80
    )
    files = {
        "templates": "en_zeroshot_classification_templates.json",
        "class_names": "en_classnames.json",
    }
    kind: Any
    for kind, file in files.items():
        theirs = json.loads(
            resources.files("clip_benchmark.datasets").joinpath(file).read_text(encoding="utf-8")
        )
        names = [name for name in known(kind) if name.startswith("clip_benchmark:")]
        assert len(names) > 13
        for name in names:
            # VTAB's classes of Caltech-101 go with the set's own templates.
            own = name.removeprefix("clip_benchmark:")
            assert look_up(kind, name) == theirs.get(own, theirs[own.removesuffix("_vtab")]), name


def test_a_class_name_is_taken_literally():
    assert fill("a photo of a {c}.", "{c} {}") == "a photo of a {c} {}."
    with pytest.raises(WrongUse, match="exactly one slot"):
        slot_of("a photo of {} and {c}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("metric: top1", "metrc: top1"), r"unknown key task.metrc \(did you mean 'metric'\?\)"),
        (("metric: top1", "metric: recall@1"), "task.metric is 'recall@1'; choose top1"),
        (
            ("kind: classification", "kind: classify"),
            r"task.kind is 'classify' \(did you mean 'classification'",
        ),
        (("layout: webdataset", "layout: webdatset"), "did you mean 'webdataset'"),
        (("path: one", "path: a/../../b"), "write it without"),
        (("    license: MIT\n", ""), "task.license is missing"),
        (("    license: MIT\n    get: look here\n", ""), "task.license, task.get are missing"),
        (
            ("get: look here", "get: look here\n    direction: image_to_text"),
            "belongs to retrieval",
        ),
        (("get: look here", "get: look here\n    templates: ['no slot']"), "exactly one slot"),
        (
            ("get: look here", "get: look here\n    templates: clip_benchmark:cifar11"),
            "did you mean",
        ),
        (
            ("get: look here", "get: look here\n    classes: 3\n    class_names: [a, b]"),
            "2 class names for 3 classes",
        ),
        (
            ("get: look here", "get: look here\n    sample: 0"),
            "task.sample is 0; it must be at least 1",
        ),
        (("name: one", "name: one two"), "no blanks"),
        (
            ("path: one}", "path: one}, {layout: webdataset, path: one, split: val}"),
            "the same layout and path",
        ),
        (("tasks:", "tasks: {"), r"mine\.yaml, line 5, column 3: not YAML, [^\n]*$"),
        (
            ("metric: top1", "metric: top1\n    metric: top5"),
            "line 9, column 5: key 'metric' is given twice",
        ),
        (("about: for a test", "about: 3"), "about is 3; it must be a text"),
        (
            ("get: look here", "get: look here\n    class_names: [1, 2]"),
            r"class_names\[0\] is 1; it must be a text",
        ),
    ],
)
def test_what_a_suite_file_may_not_say_is_named_with_its_place(change, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert load_suite(str(file)).tasks[0].name == "one"
    file.write_text(GOOD.replace(*change), encoding="utf-8")
    with pytest.raises(WrongUse, match=message) as caught:
        load_suite(str(file))
    assert "mine.yaml" in str(caught.value)


def test_suites_and_tasks_are_chosen_by_name_once_each(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD, encoding="utf-8")
    names = [task.name for task in choose_tasks(f"cifar10, vqav2 ,cifar10,{file}").tasks]
    assert names == ["cifar10", "vqav2", "one"]
    assert len(choose_tasks("diht29,cifar10").tasks) == 29


def test_a_suite_takes_tasks_of_another_as_they_are(tmp_path):
    (ours,) = [task for task in load_suite("robustness").tasks if task.name == "imagenet1k"]
    assert ours in load_suite("diht29").tasks
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nabout: x\ntasks: ['diht29:cifar10']", encoding="utf-8")
    assert [task.name for task in load_suite(str(file)).tasks] == ["cifar10"]
    for words, message in (
        ("diht29:cifar1O", "did you mean 'cifar10'"),
        ("cifar10", "names no suite"),
    ):
        file.write_text(f"name: mine\nabout: x\ntasks: ['{words}']", encoding="utf-8")
        with pytest.raises(WrongUse, match=message):
            load_suite(str(file))


def test_a_name_stands_for_one_task_whatever_the_suite():
    found: dict[str, Any] = {}
    for name in suite_names():
        for task in load_suite(name).tasks:
            assert found.setdefault(task.name, task) == task


def test_the_sample_is_no_test_of_who_was_trained_on_it():
    tasks = {task.name: task for task in load_suite("demo").tasks}
    for name in ("sample_t2i", "sample_i2t"):
        assert "trained on the sample" in tasks[name].caution


@pytest.mark.parametrize(
    ("words", "message"),
    [("cifar1O", "did you mean 'cifar10'"), (" , ", "no tasks"), ("no.yaml", "No such file")],
)
def test_an_unknown_task_is_wrong_use(words, message):
    with pytest.raises(WrongUse, match=message):
        choose_tasks(words)


def test_tasks_of_the_newer_suites_say_where_they_were_published():
    for name in ("compositional", "robustness", "multilingual", "datacomp38"):
        for task in load_suite(name).tasks:
            assert task.paper or task in load_suite("diht29").tasks, task.name
