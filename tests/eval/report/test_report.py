"""The report: every number once with its interval, self-contained, and safe whatever captions and
keys say."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from open_diht.eval.examples import Answered, Confusion, FoundImages, FoundTexts
from open_diht.eval.report import write_report
from open_diht.eval.report.data import group_few_shot, group_tasks
from open_diht.eval.report.page import draw_curves
from open_diht.eval.report.references import _raw, few_shot_references, references
from open_diht.eval.results import Items, Result
from open_diht.eval.tasks import load_suite
from tests.common.html_tags import HOSTILE, Tags


def row(
    task: str,
    metric: str = "top1",
    value: float | None = 0.5,
    kind: str = "classification",
    **protocol: Any,
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "data": {"title": f"The {task} set"},
        "model": {"name": "tiny"},
        "software": {"numpy": "2"},
    }
    record |= {"metric": metric, "chance": 0.1, **protocol}
    low, high, n = (
        (None, None, 0) if value is None else (max(0.0, value - 0.05), min(1.0, value + 0.05), 400)
    )
    return asdict(
        Result(
            task=task,
            kind=kind,
            metric=metric,
            value=value,
            low=low,
            high=high,
            n=n,
            protocol=record,
        )
    )


def few_shot_rows(
    task: str = "cats", methods: tuple[str, ...] = ("zero-shot", "probe")
) -> list[dict[str, Any]]:
    rows = []
    for number, method in enumerate(methods):
        for k in (1, 4, 16):
            cell = {"method": method, "shots": k}
            choice = {**cell, "seed": 0, "chosen": {"delta": 0.25 * number}, "converged": True}
            choice["selected_on"] = "support_cv"
            own = {
                **cell,
                "metric": "top1",
                "std_over_seeds": 0.02,
                "choices": [choice],
                "seeds": [0, 1, 2],
            }
            rows.append(
                row(
                    task,
                    f"top1, {method}, {k} shots",
                    0.4 + 0.02 * k * number,
                    "few_shot",
                    few_shot=own,
                )
            )
    return rows


def image() -> Image.Image:
    return Image.new("RGB", (300, 200), (40, 90, 120))


def written(folder: Path, rows: list[dict[str, Any]], **more: Any) -> tuple[Tags, str]:
    write_report(rows, folder, **more)
    page = (folder / "report.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert not tags.open
    return tags, page


class TestPage:
    def test_every_task_once_with_value_interval_and_n(self, tmp_path):
        rows = [
            row("cats", value=0.612),
            row("cats", "mean_per_class", 0.587),
            row("dogs", value=0.25),
        ]
        tags, page = written(tmp_path, rows)
        for task in ("cats", "dogs"):
            assert len(re.findall(rf'<span class="key"><bdi dir="auto">{task}</bdi>', page)) == 1
        for shown in ("61.2", "58.7", "56.2 \u2013 66.2", "400", "mean_per_class"):
            assert shown in tags.text
        bars = [attrs["aria-label"] for tag, attrs in tags.tags if attrs.get("class") == "track"]
        assert "61.2 %, 95 % interval 56.2 to 66.2" in bars

    def test_loads_nothing(self, tmp_path):
        examples = {
            "cats": [Confusion(image=image(), key="k", label="cat", predicted="dog", share=0.5)]
        }
        tags, page = written(tmp_path, [row("imagenet1k"), *few_shot_rows()], examples=examples)
        assert "http" not in re.sub(r"http-equiv", "", page)
        policy = next(attrs["content"] for tag, attrs in tags.tags if "http-equiv" in attrs)
        assert policy is not None and policy.startswith("default-src 'none'; img-src data:")
        assert not {tag for tag, _ in tags.tags} & {"script", "link", "iframe", "object", "form"}
        for _, attrs in tags.tags:
            assert (attrs.get("src") or "data:").startswith("data:") and str(
                attrs.get("href", "#")
            ).startswith("#")

    def test_text_of_strangers_is_text(self, tmp_path):
        examples = {
            "t": [
                Confusion(image=image(), key=HOSTILE, label=HOSTILE, predicted=HOSTILE, share=0.5),
                FoundTexts(image=image(), key=HOSTILE, texts=[(HOSTILE, 0.3, True)], rank=1),
                FoundImages(text=HOSTILE, images=[(image(), 0.3, False)], rank=7),
                Answered(
                    image=image(),
                    key=HOSTILE,
                    question=HOSTILE,
                    predicted=HOSTILE,
                    right=HOSTILE,
                    score=0.0,
                ),
            ]
        }
        hostile = row(
            "t",
            metric=HOSTILE,
            data={"title": HOSTILE, HOSTILE: [HOSTILE]},
            model={"name": HOSTILE},
        )
        lost = row("u", value=None, missing=HOSTILE)
        tags, page = written(tmp_path, [hostile, lost], examples=examples)
        assert not [tag for tag, attrs in tags.tags if tag == "script" or "onerror" in attrs]
        assert "\u202e" not in page and "\x00" not in page and "[U+202E]" in page
        assert sum(tag == "img" for tag, _ in tags.tags) == 4
        assert json.loads((tmp_path / "results.json").read_text())[0]["metric"] == HOSTILE

    def test_a_command_is_shown_as_code_and_every_image_has_a_text(self, tmp_path):
        lost = row(
            "u",
            value=None,
            missing="data not found: fetch it with `make bench-data TASK=u` <b>`x`</b>",
        )
        hits = [(image(), 0.3, True), (image(), 0.2, False)]
        tags, page = written(
            tmp_path, [lost], examples={"t": [FoundImages(text="a", images=hits, rank=1)]}
        )
        assert (
            "<code>make bench-data TASK=u</code>" in page
            and "&lt;b&gt;<code>x</code>&lt;/b&gt;" in page
        )
        alts = [attrs["alt"] for tag, attrs in tags.tags if tag == "img"]
        assert alts == ["a right image", "another image"]

    def test_the_protocol_of_every_number_can_be_read(self, tmp_path):
        rows = [
            row("cats", "recall@1", kind="retrieval", caption_template="{}"),
            row(
                "cats",
                "recall@1 (a photo of {}.)",
                kind="retrieval",
                caption_template="a photo of {}.",
            ),
        ]
        tags, _ = written(tmp_path, rows)
        assert "data.title" in tags.text and "model.name" in tags.text
        assert tags.text.count("caption_template") == 2 and tags.text.count("model.name") == 1

    def test_data_not_at_hand_is_a_row_and_in_no_average(self, tmp_path):
        rows = [
            row("a", value=0.4),
            row("b", value=0.6),
            row("c", value=None, missing="data not found: buy it"),
        ]
        tags, _ = written(tmp_path, rows)
        assert "data not found: buy it" in tags.text
        assert (
            "Average of 2 tasks" in tags.text
            and "1 without a number left out" in tags.text
            and "50.0" in tags.text
        )
        assert "2 tasks measured, 1 without a number" in tags.text

    def test_averages_have_intervals_where_items_are_kept(self, tmp_path):
        generator = np.random.default_rng(0)
        rows = []
        for name in ("a", "b"):
            hits = generator.integers(0, 2, size=400).astype(float)
            zeros = np.zeros(400, dtype=int)
            Items(
                keys=np.arange(400).astype(str),
                hits=hits,
                clusters=np.arange(400),
                predicted=zeros,
                label=zeros,
            ).write(tmp_path / "items" / f"{name}.npz")
            rows.append(row(name, value=float(hits.mean())))
        written(tmp_path, rows)
        line = next(
            line
            for line in (tmp_path / "results.md").read_text().splitlines()
            if "average of 2" in line
        )
        low, high = (float(end) for end in line.split("|")[4].split("\u2013"))
        assert low < 50 < high and high - low == pytest.approx(
            100 * 2 * 1.96 * np.sqrt(0.25 / 800), rel=0.15
        )

    def test_published_numbers_stand_beside_ours_with_what_differs(self, tmp_path):
        rows = [
            row("imagenet1k", value=0.66),
            row("coco_t2i", "recall@1 (a photo of {}.)", 0.4, "retrieval"),
        ]
        tags, _ = written(tmp_path, rows)
        assert "DiHT B/32" in tags.text and "68.0" in tags.text and "-2.0" in tags.text
        assert "a photo of {}.', to be compared" in tags.text

    def test_tasks_without_published_numbers_say_so(self, tmp_path):
        tags, _ = written(tmp_path, [row("cats")])
        assert "None of these tasks has published numbers" in tags.text

    def test_an_empty_run_is_a_page(self, tmp_path):
        tags, _ = written(tmp_path, [])
        assert "no zero-shot tasks" in tags.text
        assert json.loads((tmp_path / "results.json").read_text()) == []


class TestFewShot:
    def test_curves_table_and_choices(self, tmp_path):
        tags, _ = written(tmp_path, [row("cats"), *few_shot_rows()])
        assert sum(tag == "svg" for tag, _ in tags.tags) == 1
        assert (
            "72.0 \u00b1 2.0" in tags.text
            and "delta 0.25" in tags.text
            and "support_cv" in tags.text
        )
        assert sum(tag == "circle" for tag, _ in tags.tags) == 6

    def test_points_lie_where_their_values_are(self):
        (table,), _ = group_few_shot(few_shot_rows())
        dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="3"><title>probe', draw_curves(table))
        xs = [float(x) for x, _ in dots]
        ys = [float(y) for _, y in dots]
        # 1, 4, 16 on a logarithmic axis.
        assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
        assert ys == sorted(ys, reverse=True)
        assert (ys[0] - ys[1]) / (ys[1] - ys[2]) == pytest.approx(0.06 / 0.24, abs=0.02)

    def test_pointing_at_a_number_shows_its_interval_or_why_it_has_none(self, tmp_path):
        rows = few_shot_rows()
        rows[0]["low"] = rows[0]["high"] = None
        rows[0]["protocol"]["few_shot"]["interval"] = "none: too few items to say"
        _, page = written(tmp_path, [row("cats"), *rows])
        assert 'title="95 % interval: none: too few items to say, n = 400"' in page
        assert 'title="95 % interval 35.0 to 45.0, n = 400"' in page

    def test_shots_that_cannot_be_drawn_are_said(self, tmp_path):
        lost = row("cats", "few-shot", None, "few_shot", missing="training split: data not found")
        tags, _ = written(tmp_path, [row("cats"), lost])
        assert "training split: data not found" in tags.text
        assert "training split" in (tmp_path / "results.md").read_text()

    @pytest.mark.parametrize(
        ("support", "said"),
        [
            ({"drawn": 1200, "also_test": 0}, "byte for byte: 0 of 1,200."),
            (
                {"drawn": 6, "also_test": 2, "warning": "so high"},
                "byte for byte: 2 of 6. Caution: so high.",
            ),
            ({"drawn": 6, "also_test": None}, "It is unknown whether shots are also test images"),
        ],
    )
    def test_shots_that_are_also_test_images_are_said(self, tmp_path, support, said):
        rows = few_shot_rows()
        for one in rows:
            one["protocol"]["support"] = support
        tags, _ = written(tmp_path, [row("cats"), *rows])
        assert said in tags.text and said in (tmp_path / "results.md").read_text()

    def test_classes_that_had_fewer_images_than_shots_are_said(self, tmp_path):
        rows = few_shot_rows()
        for one in rows:
            own = one["protocol"]["few_shot"]
            own["classes_with_fewer_shots"] = {4: [7], 16: [2, 7]}.get(own["shots"], [])
        tags, _ = written(tmp_path, [row("cats"), *rows])
        said = "fewer images than shots use all they have: 1 at k = 4, 2 at k = 16."
        assert said in tags.text and said in (tmp_path / "results.md").read_text()


class TestFiles:
    def test_results_json_is_the_contract(self, tmp_path):
        rows = [row("cats"), *few_shot_rows()]
        write_report(rows, tmp_path)
        assert json.loads((tmp_path / "results.json").read_text()) == rows

    def test_markdown_has_every_number(self, tmp_path):
        write_report(
            [row("cats", value=0.612), row("a|b\\", value=0.25), *few_shot_rows()], tmp_path
        )
        text = (tmp_path / "results.md").read_text()
        assert (
            "| cats | top1 | **61.2** | 56.2 \u2013 66.2 | 400 |" in text
            and "| a\\|b\\\\ |" in text
        )
        assert "| probe | 42.0 \u00b1 2.0 | 48.0 \u00b1 2.0 | 72.0 \u00b1 2.0 |" in text

    def test_a_row_without_a_column_is_refused_and_nothing_written(self, tmp_path):
        with pytest.raises(ValueError, match=r"result 0 .* lacks low, high"):
            write_report(
                [{name: value for name, value in row("a").items() if name not in ("low", "high")}],
                tmp_path,
            )
        assert list(tmp_path.iterdir()) == []


class TestReferences:
    def test_every_key_is_a_task_and_metric_of_the_suite(self):
        tasks = {task.name: task for task in load_suite("diht29").tasks}
        for entry in _raw()["models"]:
            for task, numbers in entry["numbers"].items():
                for metric, value in numbers.items():
                    name, _, template = metric.partition(" (")
                    assert name == tasks[task].metric, f"{entry['model']}, {task}"
                    assert (
                        not template or template.removesuffix(")") in tasks[task].caption_templates
                    )
                    assert 0 < value < 100
            assert entry["source"] in _raw()["sources"]
        for entry in _raw()["few_shot"]:
            assert entry["task"] in tasks and entry["source"] in _raw()["sources"]

    def test_every_source_says_how_it_differs_and_the_authors_numbers_are_theirs(self):
        zero_shot = references("imagenet1k", "classification", "top1")
        few_shot = few_shot_references("imagenet1k")
        assert (
            len(zero_shot) == 14
            and len(few_shot) == 14
            and all(one.source and one.differs for one in zero_shot)
        )
        assert all(one.source and one.differs for one in few_shot)
        found = {one.model: one.value for one in references("imagenet1k", "classification", "top1")}
        assert [found[f"DiHT {size}"] for size in ("B/32", "B/16", "L/14", "L/14@336")] == [
            68.0,
            72.2,
            77.0,
            77.9,
        ]

    def test_every_number_says_whether_it_was_read_in_its_source(self):
        marks = {"read in the source", "from notes on the source", "unverified"}
        assert {source["provenance"] for source in _raw()["sources"].values()} == marks
        shown = references("imagenet1k", "classification", "top1") + references(
            "coco_t2i", "retrieval", "recall@1 (a photo of {}.)"
        )
        sources = [one.source for one in shown] + [
            one.source for one in few_shot_references("imagenet1k")
        ]
        assert all(source.endswith(tuple(f"({mark})" for mark in marks)) for source in sources)
        unsure = {
            one.method
            for one in few_shot_references("imagenet1k")
            if one.source.endswith("(unverified)")
        }
        assert {"LP++", "CLAP", "CLIP-LoRA", "ProLIP"} <= unsure


def test_grouping_keeps_the_order_of_the_run():
    rows = [row("b"), row("b", "top5"), row("a"), *few_shot_rows("a")]
    assert [(task.task, len(task.rows)) for task in group_tasks(rows)] == [("b", 2), ("a", 1)]
