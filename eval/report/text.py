"""What page and Markdown say in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.html import plain
from eval.results import cautions

CAUTION = (
    "An interval says how far the number could be off because these test items were drawn and not others. It does not "
    "hold what training again with another seed would change (about 0.2 points on ImageNet, according to DataComp), "
    "nor what another prompt, split or preprocessing would: these are in the protocol of each number."
)
AVERAGES = (
    "Averages are plain, over the measured tasks of a kind; tasks whose data is not at hand are not counted. They "
    "depend on the selection of tasks: compare single data sets with published ones, averages over the same tasks only."
)
ACROSS = (
    "Effective robustness is what a model is ahead of models trained on ImageNet alone, at its ImageNet accuracy, in "
    "points (curves of eval/robustness.yaml, taken as known); ahead by less than their spread is not ahead. An average "
    "of a suite is plain, over the tasks that it names."
)
FEW_SHOT = (
    "Shots are drawn by a hash of seed and key, nested over k. Radius, penalty and temperatures are chosen by "
    "cross-validation on the shots themselves (support_cv), or fixed where a class has one shot; test labels have no "
    "say. Points are means over seeds, bars one standard deviation; pointing at a number shows its interval over test "
    "images and draws of the shots."
)


def shots_said(record: Mapping[str, Any]) -> str:
    """How many of the shots are also test images, by the protocol record of a few-shot number, and what must be said
    beside it; empty for results of before, which did not count them."""
    support = record.get("support", {})
    if "also_test" not in support:
        return cautions(record)
    found = support["also_test"]
    if found is None:
        counted = "Whether shots are also test images is not known: they are not stored alike, or not one by one."
    else:
        counted = f"Shots that are also test images, byte for byte: {found:,} of {support['drawn']:,}."
    said = cautions(record)
    return f"{counted} Caution: {said}." if said else counted


def cell(text: str) -> str:
    """`text` for a cell of a Markdown table."""
    return plain(text, 400).replace("\\", "\\\\").replace("|", "\\|")


def percent(value: float | None, digits: int = 1) -> str:
    """A proportion in percent: "68.0"; a dash where there is none."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f}"
