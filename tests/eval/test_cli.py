"""What people type: a run from end to end, run again, with data that is missing or broken, and
wrong use."""

import io
import json
import shutil
from typing import Any

import numpy as np
import pytest

from open_diht.eval import cli, compare
from open_diht.eval.data import check_options
from open_diht.eval.fetch.archives import jpeg
from open_diht.eval.fewshot import METHODS
from open_diht.eval.tasks import load_suite, suite_names
from tests.eval.conftest import COLOURS, image
from tests.tiny_clip import write_tiny
from tests.webdatasets import questions_member, write_webdataset

SUITE = """
name: mine
about: a suite for a test
average: [colours, told]
tasks:
  - name: colours
    kind: classification
    title: Colours
    metric: top1
    items: 12
    sources: [{layout: webdataset, path: colours}]
    support: [{layout: webdataset, path: colours, split: train}]
    license: CC0-1.0
    get: paint some
  - name: told
    kind: retrieval
    title: Told
    metric: recall@1
    direction: text_to_image
    sources: [{layout: webdataset, path: told}]
    license: CC0-1.0
    get: tell some
  - name: asked
    kind: vqa
    title: Asked
    metric: soft_accuracy
    sources: [{layout: webdataset, path: asked}]
    license: CC0-1.0
    get: ask some
"""
ABSENT = """
  - name: absent
    kind: classification
    title: Absent
    metric: top1
    sources: [{layout: webdataset, path: nowhere}]
    license: CC0-1.0
    get: there is no way
"""


@pytest.fixture
def world(tmp_path, tiny_folder) -> dict[str, Any]:
    """Data of the suite's tasks, and the command that evaluates it."""
    data = tmp_path / "data"
    names = list(COLOURS)
    shots = [jpeg(image(names[index % 3], index)) for index in range(12)]
    for split in ("train", "test"):
        classes = [
            (f"{split}{i}", {"jpg": shot, "cls": str(i % 3)}) for i, shot in enumerate(shots)
        ]
        folder = data / ("colours" if split == "test" else "other")
        write_webdataset(folder, classes, split=split, class_names=names, templates=["a {c} thing"])
    (data / "other" / "train").rename(data / "colours" / "train")
    told = [
        (f"t{i}", {"jpg": shot, "txt": f"one {names[i % 3]}\ntwo {i}"})
        for i, shot in enumerate(shots)
    ]
    write_webdataset(data / "told", told, kind="retrieval")
    question = [
        {
            "question": "Is it red?",
            "kind": "yes/no",
            "answers": ["yes"],
            "candidates": ["yes", "no"],
        }
    ]
    asked = [
        (f"q{i}", {"jpg": shot, "json": questions_member(question)}) for i, shot in enumerate(shots)
    ]
    write_webdataset(data / "asked", asked, kind="vqa")
    suite = tmp_path / "mine.yaml"
    suite.write_text(SUITE, encoding="utf-8")
    command = ["--model", str(tiny_folder), "--tasks", str(suite), "--data", str(data)]
    command += ["--output", str(tmp_path / "out"), "--cache", str(tmp_path / "features")]
    command += ["--workers", "0", "--device", "cpu", "--shots", "1,2", "--seeds", "1"]
    return {"command": command, "data": data, "out": tmp_path / "out", "suite": suite}


def rows(world: dict[str, Any]) -> list[dict[str, Any]]:
    return json.loads((world["out"] / "results.json").read_text(encoding="utf-8"))


def test_a_run_measures_what_is_there_and_says_how_to_get_the_rest_with_status_1(world, capsys):
    fetched = ABSENT.replace("absent", "fetched") + "    fetch: {from: hub}\n"
    shipped = ABSENT.replace("absent", "shipped") + "    fetch: {from: repository}\n"
    world["suite"].write_text(SUITE + ABSENT + fetched + shipped, encoding="utf-8")
    assert cli.main(world["command"]) == 1
    found = rows(world)
    assert all(
        set(row) == {"task", "kind", "metric", "value", "low", "high", "n", "protocol"}
        for row in found
    )
    first: dict[str, Any] = {}
    for row in found:
        first.setdefault(row["task"], row)
    assert list(first) == ["colours", "told", "asked", "absent", "fetched", "shipped"]
    assert (
        first["absent"]["value"] is None
        and "there is no way" in first["absent"]["protocol"]["missing"]
    )
    for row in found:
        if row["kind"] == "few_shot":  # one draw of the shots: nothing is known of its luck
            assert row["low"] is None and row["protocol"]["few_shot"]["interval"].startswith(
                "none: fewer than 3"
            )
        elif row["value"] is not None:
            assert row["low"] <= row["value"] <= row["high"], row["metric"]
    assert {row["kind"] for row in found} == {"classification", "few_shot", "retrieval", "vqa"}
    said = capsys.readouterr().out
    assert "data not found: there is no way" in said and "3 of 6 tasks measured" in said
    last = said.splitlines()[-1]
    assert "open-diht bench-data --task fetched;" in last and last.endswith(
        "above: absent, shipped"
    )

    for name in ("results.md", "report.html", "few_shot/colours.json"):
        assert (world["out"] / name).is_file(), name
    average = (first["colours"]["value"] + first["told"]["value"]) / 2
    assert f"| mine | average of 2 | **{100 * average:.1f}** |" in (
        world["out"] / "results.md"
    ).read_text("utf-8")
    items = np.load(world["out"] / "items" / "colours.npz")
    assert set(items.files) >= {"keys", "hits", "clusters", "predicted", "label"}
    assert items["hits"].mean() == first["colours"]["value"]


def test_results_are_there_before_the_probes_and_survive_a_stop(world, monkeypatch, capsys):
    def stopped(*args: Any, **kwargs: Any) -> Any:
        assert "colours " in capsys.readouterr().out
        raise KeyboardInterrupt

    monkeypatch.setattr("open_diht.eval.run.evaluate_few_shot", stopped)
    assert cli.main(world["command"]) == 130
    assert rows(world)[0]["metric"] == "top1" and rows(world)[0]["value"] is not None


def test_run_again_it_gives_the_same_and_encodes_nothing(world, monkeypatch):
    assert cli.main(world["command"]) == 0
    before = rows(world)
    from open_diht.eval.models.model import Model

    def refuse(self: Any, given: Any) -> Any:
        if len(given) and not (isinstance(given, list) and given == ["width"]):
            raise AssertionError("encoded again")
        return np.zeros((1, 32), np.float32)

    monkeypatch.setattr(Model, "images", refuse)
    monkeypatch.setattr(Model, "texts", refuse)
    assert cli.main(world["command"]) == 0
    assert rows(world) == before


def part_of_suite(world: Any, name: str) -> list[str]:
    """The command for one of the suite's tasks."""
    head, *tasks = SUITE.replace("average: [colours, told]\n", "").split("  - name: ")
    world["suite"].write_text(
        f"{head}  - name: {next(task for task in tasks if task.startswith(name))}", "utf-8"
    )
    return [*world["command"], "--shots", "0"]


def test_results_of_another_model_are_not_replaced(world, tmp_path, capsys):
    command = part_of_suite(world, "told")
    assert cli.main(command) == 0
    left = {path: path.read_bytes() for path in world["out"].rglob("*") if path.is_file()}
    other = write_tiny(tmp_path / "other", seed=1)
    capsys.readouterr()
    assert cli.main([*command, "--model", str(other)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert (
        f"of another model, {command[1]} with weights" in said
        and f"this run is of {other} with" in said
    )
    assert "--output" in said
    assert {path: path.read_bytes() for path in world["out"].rglob("*") if path.is_file()} == left


def test_results_that_leave_the_table_are_named_and_come_back(world, capsys):
    assert cli.main(part_of_suite(world, "told")) == 0
    before = rows(world)
    capsys.readouterr()
    assert cli.main(part_of_suite(world, "asked")) == 0
    said = capsys.readouterr().out
    assert f"{world['out']}/results.json leaves out told, which this run does not name" in said
    assert said.index("leaves out told") < said.index("soft_accuracy")
    world["suite"].write_text(SUITE, encoding="utf-8")
    assert cli.main([*world["command"], "--shots", "0"]) == 0
    assert "leaves out" not in capsys.readouterr().out
    assert [
        row for row in rows(world) if row["task"] == "told"
    ] == before  # with its time: not measured again


RECORD = {
    "data": ("title", "split", "items", "images_sha256", "labels_sha256", "license"),
    "model": (
        *(
            "name",
            "weights_sha256",
            "activation",
            "tokenizer",
            "context_length",
            "logit_scale",
            "precision",
            "device",
        ),
    ),
    "preprocessing": ("size", "interpolation", "crop", "mean", "std"),
    "software": ("python", "torch", "open_clip_torch", "numpy", "commit"),
}
OWN = {
    "classification": ("class_names", "templates", "metric", "interval", "ties", "chance"),
    "few_shot": ("class_names", "templates", "few_shot", "support", "ties", "chance"),
    "retrieval": (
        "caption_template",
        "captions_per_image",
        "metric",
        "k",
        "ties",
        "interval",
        "direction",
        "chance",
    ),
    "vqa": ("protocol", "statements", "candidates", "metric", "ties", "interval", "chance"),
}


def test_every_number_carries_what_it_takes_to_measure_it_again(world):
    assert cli.main(world["command"]) == 0
    for row in rows(world):
        if row["value"] is None:
            continue
        record = row["protocol"]
        for part, fields in RECORD.items():
            assert [field for field in fields if field not in record[part]] == [], (
                row["metric"],
                part,
            )
        wanted = (*OWN[row["kind"]], "truncated_texts", "seconds", "ranks")
        assert [field for field in wanted if field not in record] == [], (
            row["kind"],
            row["metric"],
        )
    values = {
        (row["kind"], row["metric"]): row["value"]
        for row in rows(world)
        if row["task"] == "colours"
    }
    assert values["few_shot", "top1, zero-shot, 1 shots"] == values["classification", "top1"]


def test_two_models_are_compared_on_their_tasks_and_their_shots(world, tmp_path):
    command = [*world["command"], "--seeds", "3", "--shots", "2"]
    assert cli.main(command) == 0
    other = write_tiny(tmp_path / "other", seed=1)
    assert cli.main([*command, "--model", str(other), "--output", str(tmp_path / "out2")]) == 0
    assert compare.main([str(world["out"]), str(tmp_path / "out2")]) == 0
    found = json.loads((tmp_path / "out2" / "compare.json").read_text(encoding="utf-8"))
    assert [task["task"] for task in found["tasks"] if task["p"] is not None] == [
        "colours",
        "told",
        "asked",
    ]
    pairs = {(one["task"], one["method"], one["shots"]): one for one in found["few_shot"]}
    assert set(pairs) == {
        ("colours", method, k) for method in METHODS if method != "zero-shot" for k in (2,)
    }
    values = {row["metric"]: row["value"] for row in rows(world)}
    for (_, method, k), one in pairs.items():
        assert (
            one["a"] == pytest.approx(values[f"top1, {method}, {k} shots"])
            and one["p_holm"] >= one["p"]
        )
    assert "Few-shot, on the same shots" in (tmp_path / "out2" / "compare.md").read_text(
        encoding="utf-8"
    )


def test_what_was_deleted_or_torn_is_measured_again_and_nothing_is_a_traceback(world):
    command = [*world["command"], "--shots", "0"]
    assert cli.main(command) == 0
    out = world["out"]
    before = rows(world)
    whole = {path.name: path.read_bytes() for path in (out / "items").iterdir()}
    (out / "items" / "colours.npz").unlink()
    (out / "items" / "told.npz").write_bytes(whole["told.npz"][:-9])
    (out / "tasks" / "asked.json").write_text('{"key": "')
    for record in (out.parent / "features").rglob("*.json"):
        # Memories of hashes, records of features.
        record.write_text("{")
    assert cli.main(command) == 0
    after = rows(world)
    for row in (*before, *after):
        row["protocol"].pop("seconds", None)
    assert after == before
    for name in whole:
        assert (
            dict(np.load(out / "items" / name)).keys()
            == dict(np.load(io.BytesIO(whole[name]))).keys()
        )
    assert json.loads((out / "tasks" / "asked.json").read_text(encoding="utf-8"))["results"]


def test_other_data_is_measured_and_another_training_split_probed_anew(world):
    assert cli.main(world["command"]) == 0
    record = world["out"] / "few_shot" / "colours.json"
    before = json.loads(record.read_text(encoding="utf-8"))["shots"]
    names = list(COLOURS)
    classes = [
        (f"new{i}", {"jpg": jpeg(image(names[i % 3], 70 + i)), "cls": str(i % 3)})
        for i in range(12)
    ]
    write_webdataset(
        world["data"] / "new", classes, split="train", class_names=names, templates=["a {c} thing"]
    )
    shutil.rmtree(world["data"] / "colours" / "train")
    (world["data"] / "new" / "train").rename(world["data"] / "colours" / "train")
    shots = [(f"t{i}", {"jpg": jpeg(image("red", 50 + i)), "txt": f"new {i}"}) for i in range(7)]
    write_webdataset(world["data"] / "told", shots, kind="retrieval")
    assert cli.main(world["command"]) == 0
    assert json.loads(record.read_text(encoding="utf-8"))["shots"] != before
    assert next(row for row in rows(world) if row["task"] == "told")["n"] == 7


def test_a_task_is_measured_by_its_own_metric(world, capsys):
    samples = [(f"s{i}", {"jpg": jpeg(image("red", i)), "cls": "0"}) for i in range(4)]
    write_webdataset(
        world["data"] / "colours", samples, class_names=["red", "blue"], templates=["a {c} thing"]
    )
    suite = (
        SUITE.partition("  - name: told")[0]
        .replace("top1", "roc_auc")
        .replace("average: [colours, told]\n", "")
    )
    world["suite"].write_text(suite, encoding="utf-8")
    assert cli.main([*world["command"], "--shots", "0"]) == 1
    assert [row["metric"] for row in rows(world) if row["value"] is None] == ["roc_auc"]
    assert "0 of 1 tasks measured" in capsys.readouterr().out


def test_broken_data_is_a_row_and_status_1_and_the_other_tasks_are_measured(world, capsys):
    (world["data"] / "told" / "test" / "nshards.txt").write_text("3", encoding="utf-8")
    assert cli.main(world["command"]) == 1
    told = next(row for row in rows(world) if row["task"] == "told")
    assert told["value"] is None and "lacks 1.tar" in told["protocol"]["missing"]
    assert next(row for row in rows(world) if row["task"] == "asked")["value"] is not None


def test_cautions_and_another_size_than_the_published_one_stand_beside_the_number(world, capsys):
    suite = SUITE.replace("items: 12", "items: 99\n    caution: no test of painters")
    world["suite"].write_text(suite, encoding="utf-8")
    assert cli.main([*world["command"], "--shots", "0"]) == 0
    record = rows(world)[0]["protocol"]["data"]
    assert record["items_expected"] == 99 and record["caution"] == "no test of painters"
    said = "no test of painters; 12 items, but the split has 99"
    (shown,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("colours ")
    )
    assert said in shown
    assert f"| colours ({said}" in (world["out"] / "results.md").read_text(encoding="utf-8")
    assert said in (world["out"] / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--tasks", "diht92"], "did you mean 'diht29'"), (["--model", "ViT-B-23"], "did you mean"),
        (["--model", "ViT-B-32"], "needs weights: --pretrained"),
        (["--model", "ViT-B-32", "--pretrained", "laion2b"], "an evaluation downloads nothing"),
        (["--model", "."], "is not an exported model"),
        (["--precision", "fp8"], "precision 'fp8' is unknown"),
        (["--device", "tpu"], "device 'tpu' is unknown"),
        (["--device", "cuda:x"], "--device 'cuda:x' is no device of torch"),
        (["--device", "cuda:9"], "--device cuda:9: torch sees 2 GPUs"),
        (["--device", "cuda"], "process 2 of this machine has no GPU of its own"),
        (["--batch", "0"], "the value is 0; it must be at least 1"),
        (["--shots", "one"], "shots 'one'"), (["--taks", "demo"], "--taks"),
        (["--data", "/no/such/folder"], "--data /no/such/folder is not a folder"),
        (["--cache", f"{__file__}/cache"], "test_cli.py is a file"),
        (["--output", __file__], "test_cli.py is a file"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line_and_status_2_and_writes_nothing(
    world, capsys, change, message, monkeypatch
):
    if "--device" in change:  # a machine with two GPUs, and the third process of torchrun there
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        monkeypatch.setenv("LOCAL_RANK", "2")
    assert cli.main([*world["command"], *change]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said
    assert not world["out"].exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{layout: webdataset, path: x, options: {color: 1}}",
            "takes the options group, group_name and burst",
        ),
        (
            "{layout: torchvision, path: x, options: {name: Clothes}}",
            "torchvision has no data set 'Clothes'",
        ),
        (
            "{layout: torchvision, path: x, options: {name: MNIST, size: 3}}",
            "torchvision's MNIST takes no option size",
        ),
        (
            "{layout: manifest, path: x.txt, options: {image: a, label: b}}",
            "ends in .tsv, .csv, .jsonl or .json",
        ),
    ],
)
def test_a_wrong_option_of_the_last_task_is_found_before_the_first_is_measured(
    world, capsys, source, message
):
    last = ABSENT.replace("{layout: webdataset, path: nowhere}", source)
    world["suite"].write_text(SUITE + last, encoding="utf-8")
    assert cli.main(world["command"]) == 2
    assert message in capsys.readouterr().err and not world["out"].exists()


def test_the_options_of_the_shipped_suites_fit():
    for name in suite_names():
        check_options(load_suite(name).tasks)


def test_suites_and_tasks_can_be_listed(capsys):
    assert cli.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "diht29" in said and "imagenet1k" in said and "fashion_mnist" in said


def test_the_full_linear_probe_is_measured_on_request_and_kept(world):
    command = [*world["command"], "--linear-probe"]
    assert cli.main(command) == 0
    (probe,) = [row for row in rows(world) if row["metric"] == "top1, linear probe"]
    assert probe["kind"] == "classification" and probe["protocol"]["linear_probe"]["tried"]
    assert (
        "12 of 12 training images are also test images" in probe["protocol"]["support"]["warning"]
    )
    assert "top1, linear probe" in (world["out"] / "report.html").read_text(encoding="utf-8")
    before = rows(world)
    assert cli.main(command) == 0 and rows(world) == before


def test_models_are_looked_for_where_data_lies_by_default_whatever_data_says(
    world, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "default"))
    at = world["command"].index("--model") + 1
    command = [*world["command"][:at], "reference", *world["command"][at + 1 :]]
    assert cli.main(command) == 2
    assert f"not in {tmp_path / 'default' / 'reference'}" in capsys.readouterr().err
