"""Two models on the same items: paired, corrected for several tasks, and silent about nothing."""

import html
import json
import re
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval import estimates
from open_diht.eval.compare import main
from open_diht.eval.comparison import NOT_SEED_NOISE, compare, finding
from open_diht.eval.errors import DataBroken, WrongUse
from open_diht.eval.metrics.classification import mean_per_class
from open_diht.eval.results import Items, Result, estimate_of, read_items
from open_diht.eval.statistics import mcnemar

Rows = list[dict[str, Any]]


def items(
    hits: Any, clusters: Any = None, keys: Any = None, label: Any = None, **extra: Any
) -> Items:
    hits = np.asarray(hits, dtype=float)
    return Items(
        keys=np.array([f"k{number:04}" for number in range(len(hits))] if keys is None else keys),
        hits=hits,
        clusters=np.arange(len(hits)) if clusters is None else np.asarray(clusters),
        predicted=np.nan_to_num(hits, posinf=0, neginf=0).astype(int),
        label=np.zeros(len(hits), dtype=int) if label is None else np.asarray(label),
        extra=extra,
    )


def row(
    task: str, metric: str, value: float | None, kind: str = "classification", **protocol: Any
) -> dict[str, Any]:
    base = {"data": {"images_sha256": "p", "labels_sha256": "l"}, "model": {"name": "x"}}
    return asdict(
        Result(
            task=task,
            kind=kind,
            metric=metric,
            value=value,
            low=None,
            high=None,
            n=0,
            protocol={**base, **protocol},
        )
    )


def write(folder: Path, rows: Rows, kept: dict[str, Items]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(rows))
    for task, of_task in kept.items():
        of_task.write(folder / "items" / f"{task}.npz")
    return folder


def top1(hits: np.ndarray, task: str = "cats", **protocol: Any) -> dict[str, Any]:
    return row(task, "top1", float(hits.mean()), **protocol)


@pytest.fixture
def hits() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    a = generator.integers(0, 2, size=600)
    return a, np.where((a == 0) & (generator.random(600) < 0.1), 1, a)


def test_the_better_model_is_found_whatever_the_order_of_items(tmp_path, hits):
    a, b = hits
    order = np.random.default_rng(1).permutation(600)
    shuffled = items(b[order], keys=[f"k{number:04}" for number in order], clusters=order)
    one = write(tmp_path / "a", [top1(a)], {"cats": items(a)})
    other = write(tmp_path / "b", [top1(b)], {"cats": shuffled})
    (found,) = compare(one, other).tasks
    assert found.difference is not None and found.difference == pytest.approx(b.mean() - a.mean())
    assert found.low is not None and found.low > 0
    assert found.p == found.p_holm == mcnemar(a, b) and found.test == "mcnemar" and found.n == 600
    (back,) = compare(other, one).tasks
    assert back.difference == pytest.approx(-found.difference) and back.p == found.p


def test_captions_are_compared_by_image(tmp_path, hits):
    a, b = hits
    images = np.arange(600) // 5
    folders = [
        write(
            tmp_path / name,
            [row("flickr", "recall@1", float(x.mean()), "retrieval")],
            {"flickr": items(x, images)},
        )
        for name, x in (("a", a), ("b", b))
    ]
    (found,) = compare(*folders).tasks
    assert found.test == "paired t" and found.difference == pytest.approx(b.mean() - a.mean())


@pytest.mark.parametrize("metric", ["mean_per_class", "roc_auc", "map"])
def test_metrics_that_are_no_means(tmp_path, metric):
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1], [40, 160])
    weak = generator.normal(label, 1.0)
    strong = weak + 1.5 * (label - 0.5)
    folders = []
    for name, scores in (("a", weak), ("b", strong)):
        right = ((scores > 0.5) == label).astype(float)
        extra: dict[str, Any] = {"scores": scores}
        if metric == "map":
            extra = {
                "scores": np.stack([-scores, scores], 1),
                "labels": np.stack([label == 0, label == 1], 1),
            }
        kept = items(right, label=label, **extra)
        of = estimate_of(kept, metric)
        assert of is not None
        folders.append(write(tmp_path / name, [row("t", metric, of.value)], {"t": kept}))
    (found,) = compare(*folders).tasks
    assert found.test == "paired t" and found.low is not None and found.low > 0
    assert (
        found.a is not None
        and found.b is not None
        and found.difference == pytest.approx(found.b - found.a)
    )


def test_a_roc_auc_without_one_of_its_classes_is_not_compared(tmp_path, hits):
    kept = {"t": items(hits[0], scores=hits[0]), "cats": items(hits[0])}
    rows = [row("t", "roc_auc", 0.5), top1(hits[0])]
    broken, tested = compare(*(write(tmp_path / name, rows, kept) for name in "ab")).tasks
    assert (broken.p, broken.difference, tested.difference) == (
        None,
        None,
        0,
    ) and "class" in broken.note


def test_several_tasks_are_corrected_and_averaged(tmp_path, hits):
    a, b = hits
    same = np.tile([0, 1, 1], 100)
    one = write(
        tmp_path / "a",
        [top1(a), top1(same, "dogs"), row("cats", "top5", 1.0)],
        {"cats": items(a), "dogs": items(same)},
    )
    other = write(
        tmp_path / "b", [top1(b), top1(same, "dogs")], {"cats": items(b), "dogs": items(same)}
    )
    comparison = compare(one, other)
    cats, dogs = comparison.tasks
    assert cats.p is not None and cats.p_holm == pytest.approx(2 * cats.p)
    assert (dogs.difference, dogs.p, dogs.p_holm) == (0, 1, 1)
    average = comparison.average
    assert average is not None and average.tasks == 2
    assert average.difference == pytest.approx((b.mean() - a.mean()) / 2)
    assert average.low is not None and average.low < average.difference < (average.high or 0)


def test_tasks_on_the_same_images_share_their_luck_in_the_average(tmp_path, hits):
    a, b = hits
    widths = {}
    for kind, other_images in (("shared", "p"), ("apart", "q")):
        folders = []
        for name, of in (("a", a), ("b", b)):
            data = {"images_sha256": other_images, "labels_sha256": "l"}
            rows = [top1(of), row("again", "top1", float(of.mean()), data=data)]
            folders.append(
                write(tmp_path / kind / name, rows, {"cats": items(of), "again": items(of)})
            )
        average = compare(*folders).average
        assert average is not None and average.low is not None and average.high is not None
        widths[kind] = average.high - average.low
    assert widths["shared"] == pytest.approx(np.sqrt(2) * widths["apart"], rel=0.01)


ONES = np.ones(20)
HALF = np.tile([0, 1], 10)
OTHER = {"images_sha256": "q", "labels_sha256": "l"}


@pytest.mark.parametrize(
    ("row_b", "items_b", "note"),
    [
        (top1(np.ones(19)), items(np.ones(19)), "^not the same items: 1 only in A, 0 only in B$"),
        (top1(ONES, data=OTHER), items(ONES), "images_sha256"),
        (top1(ONES), items(ONES, label=np.ones(20, dtype=int)), "other labels"),
        (
            top1(HALF, rules=3),
            items(HALF),
            r"^measured by other rules \(A: 1, B: 3\); run `open-diht bench` for A again$",
        ),
        (
            row("cats", "top1", 0.95),
            items(HALF),
            (
                r"^the items of B are of another run than its number \(0.5000, 0.9500\); run"
                r" `open-diht bench`"
            ),
        ),
        (row("cats", "top5", 1.0), items(ONES), "^A has top1, B has top5$"),
        (
            row("cats", "top1", None, missing="data not found: open-diht bench-data --task cats"),
            None,
            "data not found",
        ),
        (top1(ONES), None, "B has no items"),
        (None, None, "^not evaluated by B$"),
        (top1(ONES), items(ONES, keys=["k"] * 20), "repeated"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, row_b, items_b, note):
    one = write(tmp_path / "a", [top1(HALF)], {"cats": items(HALF)})
    other = write(tmp_path / "b", [row_b] if row_b else [], {"cats": items_b} if items_b else {})
    (found,) = compare(one, other).tasks
    assert found.p is None and found.difference is None and re.search(note, found.note)


@pytest.mark.parametrize("caution", ["", "training images of A"])
def test_protocols_that_differ_are_named_and_cautions_stand_beside_them(tmp_path, caution):
    data = {"images_sha256": "1", "labels_sha256": "2", **({"caution": caution} if caution else {})}
    for name in "ab":
        found = top1(HALF, data=data, templates={"sha256": name}, model={"name": name})
        write(tmp_path / name, [found], {"cats": items(HALF)})
    note = "; ".join(filter(None, ["the protocols differ in templates", caution]))
    assert compare(tmp_path / "a", tmp_path / "b").tasks[0].note == note


class TestCommand:
    def test_writes_json_and_markdown(self, tmp_path, hits, capsys):
        a, b = hits
        one = write(tmp_path / "a", [top1(a)], {"cats": items(a)})
        other = write(tmp_path / "b", [top1(b), top1(b, "dogs")], {"cats": items(b)})
        assert main([str(one), str(other)]) == 0
        text = (other / "compare.md").read_text()
        assert capsys.readouterr().out.strip() == text.strip()
        assert (
            NOT_SEED_NOISE in text
            and "| cats, top1 |" in text
            and "not compared: not evaluated by A" in text
        )
        written = json.loads((other / "compare.json").read_text())
        assert written["tasks"][0]["difference"] == pytest.approx(b.mean() - a.mean())
        assert written["average"] is None

    def test_wrong_use_is_one_line_and_writes_nothing(self, tmp_path, capsys):
        folder = write(tmp_path / "a", [], {})
        for words in (
            [str(folder)],
            [str(folder), str(tmp_path / "no")],
            [str(folder), str(folder)],
            ["", str(folder)],
        ):
            assert main(words) == 2
            assert capsys.readouterr().err.startswith("error: ")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "results.json"]

    def test_the_current_folder_is_a_folder(self, tmp_path, monkeypatch):
        one, other = (
            write(tmp_path / name, [top1(np.ones(4))], {"cats": items(np.ones(4))}) for name in "ab"
        )
        monkeypatch.chdir(one)
        assert main([".", str(other)]) == 0
        assert json.loads((other / "compare.json").read_text())["a"] == "."

    def test_an_output_that_cannot_be_written_is_one_line(self, tmp_path, capsys):
        one, other = (
            write(tmp_path / name, [top1(np.ones(4))], {"cats": items(np.ones(4))}) for name in "ab"
        )
        (tmp_path / "file").touch()
        assert main([str(one), str(other), "--output", str(tmp_path / "file" / "c")]) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and f"{tmp_path}/file" in said
        assert "check --output" in said

    def test_nothing_comparable_is_a_failure_and_a_folder_without_results_says_what_to_name(
        self, tmp_path
    ):
        one = write(tmp_path / "a", [row("cats", "top1", 0.5)], {})
        other = write(tmp_path / "b", [row("dogs", "top1", 0.5)], {})
        assert main([str(one), str(other)]) == 1
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "file"):
            with pytest.raises(WrongUse, match="open-diht bench"):
                compare(path, path)

    def test_torn_files_are_one_line_that_names_them(self, tmp_path, capsys):
        one = write(tmp_path / "a", [top1(np.ones(4))], {"cats": items(np.ones(4))})
        other = write(tmp_path / "b", [top1(np.ones(4))], {"cats": items(np.ones(4))})
        of_list = json.dumps([{**top1(np.ones(4)), "protocol": []}])
        for content in ('[{"task": "ca', "{}", '[{"task": "cats"}]', "[1]", of_list):
            (other / "results.json").write_text(content)
            assert main([str(one), str(other)]) == 1
            said = capsys.readouterr().err
            assert said.startswith("error: ") and said.count("\n") == 1 and "results.json" in said


class TestItems:
    def test_round_trip(self, tmp_path):
        kept = items([0, 1, 0.5], scores=np.array([0.1, 0.2, 0.3]))
        kept.write(tmp_path / "t.npz")
        read = read_items(tmp_path / "t.npz")
        assert read.keys.tolist() == kept.keys.tolist() and read.extra["scores"].tolist() == [
            0.1,
            0.2,
            0.3,
        ]

    def test_anything_else_is_refused(self, tmp_path):
        path = tmp_path / "t.npz"
        path.write_bytes(b"PK\x03\x04 no zip at all")
        with pytest.raises(DataBroken, match=r"t\.npz"):
            read_items(path)
        np.savez_compressed(path, keys=np.arange(99))
        damaged = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as packed:
            header = packed.infolist()[0].header_offset
        names = sum(struct.unpack_from("<HH", damaged, header + 26))
        damaged[header + 30 + names] = 0xFF  # no kind of block begins so
        path.write_bytes(damaged)
        with pytest.raises(DataBroken, match=r"t\.npz does not hold arrays"):
            read_items(path)
        np.savez(path, keys=np.array(["a"]))
        with pytest.raises(DataBroken, match="lacks hits, clusters"):
            read_items(path)

    def test_the_estimate_is_of_the_metric(self):
        label = np.repeat([0, 1], [10, 90])
        kept = items(np.tile([0.0, 1.0], 50), label=label, scores=np.linspace(0, 1, 100))
        for metric, value in (
            ("top1", 0.5),
            ("recall@1 (a photo of {}.)", 0.5),
            ("mean_per_class", mean_per_class(kept.hits, label)),
            ("roc_auc", estimates.roc_auc(kept.extra["scores"], label).value),
        ):
            found = estimate_of(kept, metric)
            assert found is not None and found.value == pytest.approx(value)
        assert estimate_of(kept, "map") is None


@pytest.mark.parametrize(
    ("value", "hits", "says"),
    [
        (
            float("nan"),
            [1.0, 0.0],
            r"the value of result 0 \(cats\) is nan, not a number; run `open-diht bench`",
        ),
        (float("inf"), [1.0, 0.0], "is inf, not a number"),
        ("high", [1.0, 0.0], "is 'high', not a number"),
        (
            0.5,
            [1.0, float("nan")],
            r"cats.npz holds no items, or hits that are not finite; remove it and run",
        ),
        (0.5, [], "cats.npz holds no items"),
    ],
)
def test_results_that_are_no_numbers_are_one_line(value, hits, says, tmp_path, capsys):
    good = write(tmp_path / "good", [row("cats", "top1", 0.5)], {"cats": items([1, 0])})
    bad = write(tmp_path / "bad", [row("cats", "top1", value)], {"cats": items(hits)})
    for pair in ((good, bad), (bad, good)):
        assert main([*map(str, pair)]) == 1
        assert re.fullmatch(f"error: .*{says}.*\n", capsys.readouterr().err)


def test_items_of_other_images_are_not_tested(tmp_path, capsys):
    a, b = (
        write(
            tmp_path / name, [row("cats", "top1", 0.5)], {"cats": items([1, 0], clusters=clusters)}
        )
        for name, clusters in (("a", [0, 1]), ("b", [0, 0]))
    )
    assert main([str(a), str(b)]) == 1
    assert "the items of A and B belong to different images" in capsys.readouterr().out


def test_the_page_shows_what_the_tables_show_and_loads_nothing(tmp_path):
    hits = np.random.default_rng(0).random(200) < 0.6
    a = write(tmp_path / "a", [top1(hits), top1(hits, task="<b>only</b>")], {"cats": items(hits)})
    b = write(tmp_path / "b", [top1(~hits)], {"cats": items(~hits)})
    assert main([str(a), str(b)]) == 0
    page, text = ((b / f"compare.{end}").read_text(encoding="utf-8") for end in ("html", "md"))
    for cells in (
        line.strip("|").split("|") for line in text.splitlines() if line.startswith("| cats")
    ):
        assert all(html.escape(one.strip()) in page for one in cells)
    assert (
        "not evaluated by B" in page
        and html.escape("<b>only</b>") in page
        and "<b>only" not in page
    )
    assert "default-src 'none'" in page and "http" not in page.replace("http-equiv", "")


def test_it_begins_with_what_it_found(tmp_path, hits, capsys):
    a, b = hits
    one = write(tmp_path / "a", [top1(a)], {"cats": items(a)})
    other = write(tmp_path / "b", [top1(b)], {"cats": items(b)})
    few = np.where(np.arange(600) < 9, 1 - a, a)
    third = write(tmp_path / "c", [top1(few)], {"cats": items(few)})
    for folders, shown, said in (
        ((one, other), "a", r"\d+\.\d\d to \d+\.\d\d points better"),
        ((other, one), "a", r"\d+\.\d\d to \d+\.\d\d points worse"),
        ((one, third), "no", r"between \d+\.\d\d points worse and \d+\.\d\d better"),
    ):
        assert main([*map(str, folders)]) == 0
        (task,) = json.loads((folders[1] / "compare.json").read_text())["tasks"]
        sentence = f"These items show {shown} difference: B is {said}\\."
        page = (folders[1] / "compare.html").read_text()
        assert re.search(rf'class="headline">{sentence}</p>', page)
        assert re.search(f"\n{sentence}\n", capsys.readouterr().out)
        numbers = [abs(float(end)) for end in re.findall(r"\d+\.\d\d", sentence_of(page))]
        assert sorted(numbers) == pytest.approx(
            sorted(100 * abs(task[end]) for end in ("low", "high")), abs=0.006
        )


def sentence_of(page: str) -> str:
    return re.search(r'class="headline">(.*)</p>', page)[1]  # type: ignore[index]


def test_several_tasks_are_found_on_average(tmp_path, hits):
    a, b = hits
    folders = [
        write(
            tmp_path / name,
            [top1(of), top1(a, "dogs", data={"images_sha256": "q", "labels_sha256": "l"})],
            {"cats": items(of), "dogs": items(a)},
        )
        for name, of in (("a", a), ("b", b))
    ]
    found = finding(compare(*folders))
    assert found[0].startswith("On average over 2 tasks, these items show a difference: B is ")
    assert found[1:] == ["Tasks that differ after Holm's correction: 1 of 2."]


def test_items_on_which_models_differ_are_listed(tmp_path):
    a = np.array([1] * 60 + [0] * 40)
    b = np.array([0] * 6 + [1] * 94)
    folders = [write(tmp_path / n, [top1(x)], {"cats": items(x)}) for n, x in (("a", a), ("b", b))]
    (task,) = compare(*folders).tasks
    assert (task.better_a, task.better_b) == (6, 40)
    assert [one.key for one in task.differing] == [
        *("k0000", "k0001", "k0003", "k0005"),
        *("k0060", "k0073", "k0086", "k0099"),
    ]
    assert (task.differing[0].a, task.differing[0].b) == ("right, class 1", "wrong, class 0")
    assert main([*map(str, folders)]) == 0
    page = (folders[1] / "compare.html").read_text()
    assert "A is better on 6, B on 40 of 100." in page and "k0073" in page
    assert page.count('class="track"') == 1 and 'title="no difference"' in page


DEGENERATE: dict[str, tuple[Any, Any]] = {
    "one item": ([1.0], [0.0]), "no item": ([], []), "all equal": ([1.0] * 50, [1.0] * 50),
    "all opposite": ([1.0] * 50, [0.0] * 50), "not a number": ([np.nan] * 50, [1.0] * 50),
    "infinite": ([np.inf] * 50, [1.0] * 50),
}  # fmt: skip


@pytest.mark.parametrize("what", DEGENERATE)
def test_degenerate_results_are_compared_or_the_reason_is_given(what, tmp_path, capsys):
    folders = []
    for name, hits in zip("ab", DEGENERATE[what], strict=True):
        value = float(np.mean(hits)) if hits else 0.0
        folders.append(write(tmp_path / name, [row("cats", "top1", value)], {"cats": items(hits)}))
    status = main([str(folder) for folder in folders])
    said = capsys.readouterr()
    assert status in (0, 1) and "nan" not in said.out.lower()
    if (folders[1] / "compare.json").exists():
        (found,) = json.loads((folders[1] / "compare.json").read_text())["tasks"]
        assert (found["difference"] is None) == bool(found["note"]) or status == 0
        assert (folders[1] / "compare.html").exists()
    else:
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
