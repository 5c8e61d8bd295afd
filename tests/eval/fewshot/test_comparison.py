"""Few-shot numbers of two models: paired by image and seed where the shots are the same, and
refused elsewhere."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval.compare import main
from open_diht.eval.errors import DataBroken
from open_diht.eval.fewshot.comparison import FewShotComparison, compare_few_shot
from open_diht.eval.fewshot.predictions import Predictions, read_predictions

N = 300
CLASSES = 3
LABEL = np.arange(N) % CLASSES
KEYS = np.array([f"t{number:03}" for number in range(N)])
SHOTS = {
    str(seed): [[f"s{seed}/{label}/{place}" for place in range(4)] for label in range(CLASSES)]
    for seed in (0, 1, 2)
}
ROW: dict[str, Any] = {
    "kind": "few_shot",
    "value": 0.5,
    "protocol": {
        "data": {"images_sha256": "p", "labels_sha256": "l"},
        "support": {"images_sha256": "s"},
    },
}


def predictions(share: float, seed: int = 0, **changes: Any) -> Predictions:
    """Right in about `share` of the images, whatever the method."""
    generator = np.random.default_rng(seed)
    right = generator.random((2, 2, 3, N)) < share
    arrays: dict[str, Any] = {
        "keys": KEYS, "label": LABEL, "methods": np.array(["zero-shot", "probe"]),
        "shots": np.array([1, 4]), "seeds": np.array([0, 1, 2]),
        "predicted": np.where(right, LABEL, (LABEL + 1) % CLASSES).astype(np.int32),
    }  # fmt: skip
    return Predictions(**{**arrays, **changes})


def write(folder: Path, kept: Predictions | None, shots: Any = None, metric: str = "top1") -> Path:
    (folder / "few_shot").mkdir(parents=True)
    record = {"settings": {"metric": metric}, "shots": SHOTS if shots is None else shots}
    (folder / "few_shot" / "cats.json").write_text(json.dumps(record))
    if kept is not None:
        kept.write(folder / "few_shot" / "cats.npz")
    return folder


def compared(a: Path, b: Path, rows: Any = None) -> list[FewShotComparison]:
    return compare_few_shot("cats", a, b, [ROW], [ROW] if rows is None else rows)


def test_methods_are_paired_by_image_and_seed_whatever_the_order_of_images(tmp_path):
    one = predictions(0.5)
    other = predictions(0.7, seed=1)
    order = np.random.default_rng(2).permutation(N)
    shuffled = predictions(
        0, keys=KEYS[order], label=LABEL[order], predicted=other.predicted[..., order]
    )
    a = write(tmp_path / "a", one)
    b = write(tmp_path / "b", shuffled)
    found = compared(a, b)
    # Text alone is the task's row.
    assert [(row.method, row.shots) for row in found] == [
        ("probe", 1),
        ("probe", 4),
    ]
    for row, place in zip(found, (0, 1), strict=True):
        change = [(one.predicted[1, place, seed] == LABEL).mean() for seed in (0, 1, 2)]
        of_b = [(other.predicted[1, place, seed] == LABEL).mean() for seed in (0, 1, 2)]
        assert row.a == pytest.approx(np.mean(change)) and row.b == pytest.approx(np.mean(of_b))
        assert row.per_seed == pytest.approx(np.subtract(of_b, change))
        assert (
            row.difference == pytest.approx(np.mean(row.per_seed))
            and row.seeds == (0, 1, 2)
            and row.n == N
        )
        assert row.low is not None and row.difference is not None and 0 < row.low < row.difference
        assert row.p is not None and row.p < 0.05
    back = compared(b, a)
    assert [row.difference for row in back] == pytest.approx(
        [-(row.difference or 0) for row in found]
    )


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"shots": SHOTS},
        {"settings": {}, "shots": SHOTS},
        {"settings": {"metric": "top1"}, "shots": {"a": []}},
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, record):
    a, b = (write(tmp_path / name, predictions(0.5)) for name in "ab")
    (b / "few_shot" / "cats.json").write_text(json.dumps(record))
    with pytest.raises(
        DataBroken, match=r"b/few_shot/cats\.json is corrupt .* run the evaluation again"
    ):
        compared(a, b)


def test_a_model_is_not_better_than_itself(tmp_path):
    a, b = (write(tmp_path / name, predictions(0.5)) for name in "ab")
    for row in compared(a, b):
        assert (
            (row.difference, row.p) == (0, 1)
            and row.low is not None
            and row.low < 0 < (row.high or 0)
        )


def test_protocols_that_differ_and_cautions_are_told_once_a_task(tmp_path, capsys):
    warning = "5 of 6 shots are also test images, which makes the number too high"
    for name, drawn in (
        ("a", 6),
        ("b", 9),
    ):
        # Other shots drawn, for other k, are no difference of those compared.
        protocol = {
            "data": {**ROW["protocol"]["data"], "caution": "training images of A"},
            "support": {"images_sha256": "s", "drawn": drawn, "warning": warning},
            "templates": {"sha256": name},
            "few_shot": {"choices": [name]},
        }
        row = {
            "task": "cats",
            "metric": "top1",
            "low": None,
            "high": None,
            "n": N,
            **ROW,
            "protocol": protocol,
        }
        write(tmp_path / name, predictions(0.5))
        (tmp_path / name / "results.json").write_text(json.dumps([row]))
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    note = f"the protocols differ in templates; training images of A; {warning}"
    found = json.loads((tmp_path / "b" / "compare.json").read_text())["few_shot"]
    assert [one["note"] for one in found] == [note, note]
    said = capsys.readouterr().out
    assert said.count(note) == 1 and f"\n\n- cats: {note}\n\n" in said
    assert said.index("| task | method | shots | n | seeds") < said.index(note)


def test_two_seeds_are_too_few_for_a_test_and_say_so(tmp_path):
    shots = {seed: SHOTS[seed] for seed in ("0", "1")}
    a = write(tmp_path / "a", predictions(0.5))
    b = write(tmp_path / "b", predictions(0.7, 1), shots)
    for row in compared(a, b):
        assert (
            row.p is None
            and row.low is None
            and row.difference is not None
            and "too few for a test" in row.note
        )


def test_only_seeds_with_the_same_shots_are_compared_and_only_as_many_shots_as_both_have(tmp_path):
    other = {seed: [list(keys) for keys in by_class] for seed, by_class in SHOTS.items()}
    other["1"][2][3] = "another"  # the fourth shot of a class: k = 1 is not touched by it
    a = write(tmp_path / "a", predictions(0.5))
    b = write(tmp_path / "b", predictions(0.6, 1), other)
    assert [(row.shots, row.seeds) for row in compared(a, b)] == [(1, (0, 1, 2)), (4, (0, 2))]


def test_a_mean_per_class_task_is_compared_per_class(tmp_path):
    keep = np.concatenate([np.flatnonzero(LABEL == 0), np.flatnonzero(LABEL != 0)[:30]])
    kept = [
        predictions(0, keys=KEYS[keep], label=LABEL[keep], predicted=one.predicted[..., keep])
        for one in (predictions(0.5), predictions(0.6, 1))
    ]
    a, b = (
        write(tmp_path / name, one, metric="mean_per_class")
        for name, one in zip("ab", kept, strict=True)
    )
    right = [(one.predicted[1, 0, 0] == one.label) for one in kept]
    means = [np.mean([of[LABEL[keep] == label].mean() for label in range(CLASSES)]) for of in right]
    assert compared(a, b)[0].per_seed[0] == pytest.approx(means[1] - means[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: write(path, None), "B keeps no predictions"),
        (
            lambda path: write(path, predictions(0.5, keys=np.array([f"u{i}" for i in range(N)]))),
            "same test images",
        ),
        (lambda path: write(path, predictions(0.5, label=(LABEL + 1) % CLASSES)), "other labels"),
        (
            lambda path: write(path, predictions(0.5), {"0": [["x"]] * 3, "7": SHOTS["1"]}),
            "no seed drew the same shots",
        ),
        (
            lambda path: write(path, predictions(0.5), metric="mean_per_class"),
            "A has top1, B has mean_per_class",
        ),
        (lambda path: write(path, predictions(0.5, shots=np.array([2, 8]))), "no number of shots"),
    ],
)
def test_what_cannot_be_paired_is_one_row_that_says_why(tmp_path, change, message):
    (row,) = compared(write(tmp_path / "a", predictions(0.5)), change(tmp_path / "b"))
    assert row.p is None and message in row.note


def test_rows_that_are_missing_or_of_other_data_are_not_compared(tmp_path):
    a, b = (write(tmp_path / name, predictions(0.5)) for name in "ab")
    for rows, message in (
        ([], "no few-shot numbers in B"),
        (
            [{**ROW, "value": None, "protocol": {"missing": "training split: buy it"}}],
            "training split: buy it",
        ),
        (
            [{**ROW, "protocol": {**ROW["protocol"], "support": {"images_sha256": "t"}}}],
            "support.images_sha256",
        ),
        (
            [{**ROW, "protocol": {**ROW["protocol"], "data": {}}}],
            "data.images_sha256, data.labels_sha256",
        ),
    ):
        (row,) = compared(a, b, rows)
        assert row.p is None and message in row.note


def test_predictions_come_back_as_they_were_and_anything_else_is_refused(tmp_path):
    kept = predictions(0.5)
    kept.write(tmp_path / "a.npz")
    found = read_predictions(tmp_path / "a.npz")
    for (m, method), (k, shots) in itertools.product(
        enumerate(["zero-shot", "probe"]), enumerate([1, 4])
    ):
        assert (found.of(method, shots, [2, 1, 0]) == kept.predicted[m, k, ::-1]).all()
    with pytest.raises(KeyError):
        found.of("probe", 2, [0])
    (tmp_path / "b.npz").write_bytes(b"PK no")
    with pytest.raises(DataBroken, match=r"b\.npz"):
        read_predictions(tmp_path / "b.npz")
    predictions(0.5, seeds=np.array([0])).write(tmp_path / "c.npz")
    with pytest.raises(DataBroken, match="shape"):
        read_predictions(tmp_path / "c.npz")
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "d.npz")
