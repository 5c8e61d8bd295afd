"""Compare few-shot numbers of two models on the same shots and test images.

Only seeds that drew the same shots for both models are used, so their numbers are paired over
images and over seeds. Images and shots are both random samples, so both contribute to the error
(two-way random effects). Three seeds tell little about the variation between shots; Student's t
with few degrees of freedom accounts for that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from open_diht.common.spelling import spelled
from open_diht.eval.errors import DataBroken
from open_diht.eval.fewshot.curves import estimate
from open_diht.eval.fewshot.predictions import Predictions, read_predictions
from open_diht.eval.records import read_written
from open_diht.eval.results import AGAIN, Compared, note_of, numbers, why_not_comparable
from open_diht.eval.statistics import FEWEST, crossed_difference

TEXT_ALONE = "zero-shot"
"""The method without shots. Its numbers are compared elsewhere."""


@dataclass(frozen=True, kw_only=True)
class FewShotComparison(Compared):
    """A comparison of B with A for one method and k: means over the common seeds, on `n` test
    images."""

    method: str = ""
    shots: int = 0
    seeds: tuple[int, ...] = ()
    per_seed: tuple[float, ...] = ()
    """B minus A with the shots of each seed."""


def compare_few_shot(
    task: str,
    a: Path,
    b: Path,
    rows_a: Sequence[Mapping[str, Any]],
    rows_b: Sequence[Mapping[str, Any]],
) -> list[FewShotComparison]:
    """Return a comparison for each method, except zero-shot, and each k that both result folders
    have for a task. If the numbers cannot be paired, return a single entry with a note. Raises
    `DataBroken` for a corrupt file in few_shot/."""
    try:
        return _paired(task, a, b, rows_a, rows_b)
    except _NotPaired as error:
        return [FewShotComparison(task=task, note=str(error))]


class _NotPaired(Exception):
    """The few-shot numbers of A and B cannot be paired."""


def _paired(
    task: str,
    a: Path,
    b: Path,
    rows_a: Sequence[Mapping[str, Any]],
    rows_b: Sequence[Mapping[str, Any]],
) -> list[FewShotComparison]:
    records = []
    kept = []
    for name, folder, rows in (("A", a, rows_a), ("B", b, rows_b)):
        if not rows:
            raise _NotPaired(f"no few-shot numbers in {name}")
        lost = next(
            (row["protocol"].get("missing", "no number") for row in rows if row["value"] is None),
            "",
        )
        if lost:
            raise _NotPaired(f"no few-shot numbers in {name}: {lost}")
        record = _record(folder / "few_shot" / f"{task}.json")
        try:
            kept.append(read_predictions(folder / "few_shot" / f"{task}.npz"))
        except FileNotFoundError:
            record = None
        if record is None:
            raise _NotPaired(
                f"{name} keeps no predictions of its probes; run `{spelled('bench')}` for it again"
            )
        records.append(record)
    if reason := why_not_comparable(rows_a[0]["protocol"], rows_b[0]["protocol"]):
        raise _NotPaired(reason)
    metrics, shots = zip(*records, strict=True)
    if metrics[0] != metrics[1]:
        raise _NotPaired(f"A has {metrics[0]}, B has {metrics[1]}")
    first, second = kept
    try:
        second = second.ordered(first.keys)
    except KeyError as error:
        raise _NotPaired(f"not the same test images: {error.args[0]}") from None
    if not np.array_equal(first.label, second.label):
        raise _NotPaired("the same images have other labels in A and B")
    found = []
    for k in sorted(set(first.shots.tolist()) & set(second.shots.tolist())):
        # The seeds whose k shots of every class are the same in both records.
        seeds = [
            seed
            for seed in sorted(set(shots[0]) & set(shots[1]))
            if [keys[:k] for keys in shots[0][seed]] == [keys[:k] for keys in shots[1][seed]]
        ]
        if not seeds:
            raise _NotPaired(f"no seed drew the same shots in A and B, at {k} per class")
        for method in first.methods.tolist():
            if method in second.methods and method != TEXT_ALONE:
                tested = _tested(task, metrics[0], method, k, seeds, first, second)
                # The records of all points are equal but for `few_shot`.
                note = note_of(tested.note, rows_a[0]["protocol"], rows_b[0]["protocol"])
                found.append(replace(tested, note=note))
    if not found:
        raise _NotPaired(
            f"A and B have no method but {TEXT_ALONE}, or no number of shots, in common"
        )
    return found


_Shots = Mapping[int, Sequence[Sequence[str]]]
"""Maps a seed to the keys of each class's shots."""


def _record(path: Path) -> tuple[str, _Shots] | None:
    """Return the metric and shots of a record. Return None if it is absent. Raises `DataBroken` if
    it is corrupt."""
    record = read_written(path)
    if record is None:
        return None
    try:
        shots = {
            int(seed): [list(keys) for keys in classes] for seed, classes in record["shots"].items()
        }
        return str(record["settings"]["metric"]), shots
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataBroken(f"{path} is corrupt ({error!r}); {AGAIN}") from None


def _tested(
    task: str, metric: str, method: str, k: int, seeds: list[int], a: Predictions, b: Predictions
) -> FewShotComparison:
    try:
        hits = [(one.of(method, k, seeds) == one.label).astype(np.float64) for one in (a, b)]
    except KeyError as error:
        raise DataBroken(
            f"{task}: predictions lack {method} at {k} shots, seed {error.args[0]}"
        ) from None
    of_a, of_b = ([estimate(row, a.label, metric) for row in right] for right in hits)
    found = crossed_difference(of_a, of_b)
    return FewShotComparison(
        task=task,
        metric=metric,
        method=method,
        shots=k,
        a=float(np.mean([one.value for one in of_a])),
        b=float(np.mean([one.value for one in of_b])),
        **numbers(found),
        n=len(a.label),
        seeds=tuple(seeds),
        per_seed=tuple(two.value - one.value for one, two in zip(of_a, of_b, strict=True)),
        note=(
            ""
            if len(seeds) >= FEWEST
            else f"fewer than {FEWEST} draws of the shots: too few for a test"
        ),
    )
