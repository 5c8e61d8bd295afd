"""Texts that the page and the Markdown report share."""

from collections.abc import Mapping
from typing import Any

from open_diht.common.html.text import plain
from open_diht.eval.results import cautions

CAUTION = (
    "An interval covers only the choice of the test items, and in few-shot of the shots. It"
    " excludes what training with another seed would change (about 0.2 points on ImageNet,"
    " according to DataComp) and what another prompt, split or preprocessing would change; each"
    " number's protocol states the latter."
)
AVERAGES = (
    "Averages are plain, over the measured tasks of a kind; tasks without a number are not counted."
    " They depend on the selection of tasks: compare single data sets with published ones, averages"
    " over the same tasks only."
)
ACROSS = (
    "Effective robustness is a model's lead in points over models that were trained on ImageNet"
    " alone and have its ImageNet accuracy (curves of eval/robustness.yaml, taken as known); a lead"
    " within their spread does not count. A suite's average is the plain mean over the measured"
    " ones of its tasks, those that it lists together (such as both directions of a set) as one."
)
FEW_SHOT = (
    "Shots are drawn by a hash of seed and key, nested over k. Radius and penalty are fixed at one"
    " shot per class and else chosen by cross-validation on the shots themselves (support_cv), at"
    " least as free as at one shot; no run uses test labels for a choice. Numbers are means over"
    " seeds \u00b1 one standard deviation. In report.html, pointing at a number shows its interval"
    " over test images and draws of the shots, if there is one."
)


def shots_said(record: Mapping[str, Any], short: Mapping[int, int]) -> str:
    """Return the notes on the shots: overlap with test images, classes with too few images, and
    cautions. Older results do not state the overlap. `short` maps k to the number of classes with
    fewer images."""
    parts = []
    support = record.get("support", {})
    if "also_test" in support:
        found = support["also_test"]
        parts.append(
            "It is unknown whether shots are also test images: they are stored differently, or not"
            " one by one."
            if found is None
            else (
                f"Shots that are also test images, byte for byte: {found:,} of"
                f" {support['drawn']:,}."
            )
        )
    if short:
        counts = ", ".join(f"{count:,} at k = {k}" for k, count in short.items())
        parts.append(f"Classes with fewer images than shots use all they have: {counts}.")
    if said := cautions(record):
        parts.append(f"Caution: {said}.")
    return " ".join(parts)


def cell(text: str) -> str:
    """Return `text`, shortened to 400 characters, escaped for a cell of a Markdown table."""
    return plain(text, 400).replace("\\", "\\\\").replace("|", "\\|")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction in percent, such as "68.0". Return a dash for None."""
    return "\u2013" if value is None else f"{100 * value:.{digits}f}"


def ends(low: float | None, high: float | None) -> str:
    """Return both ends of an interval in percent, or an empty string without an interval."""
    return "" if low is None or high is None else f"{percent(low)} \u2013 {percent(high)}"
