"""The funnel of a run, as its driver counts it."""

from typing import Any

from open_diht.pipelines.report.funnel import FunnelRecord


def funnel(**changes: Any) -> FunnelRecord:
    """Return a funnel that adds up, with some parts replaced."""
    found: dict[str, Any] = {
        "dataset": "sample", "preset": "paper", "stages": ["captions", "spotting"], "rows_in": 1298,
        "steps": [
            {"stage": "captions", "reason": "action", "rejected": 1000, "left": 294},
            {"stage": "spotting", "reason": "text_spotting", "rejected": 94, "left": 200},
        ],
        "rejected": {"action": 1000, "text_spotting": 94},
        "dead_letter": {"rows": 4, "units": 1, "by_error": {"truncated": 3, "empty": 1},
                        "first": None},
        "not_decided": {"rows": 0, "units": 0, "uncounted": 0}, "kept": 200,
        "keep_rate": 200 / 1298, "unparsed": 0, "moves": {},
        "histograms": {"complexity": {"0": 10, "2": 30}, "actions": {"0": 7},
                       "overlap": {"0": 50, "40": 3}},
        "columns": {}, "duplicates": {}, "left": {}, "set_aside": {}, "seconds": {"captions": 1.5},
    }  # fmt: skip
    return {**found, **changes}  # type: ignore[typeddict-item]
