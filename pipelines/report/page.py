"""The report of a run: headline, funnel, reasons, histograms, and examples with their evidence."""

from collections.abc import Mapping, Sequence

from open_diht.common.html.charts import bin_counts, histogram
from open_diht.common.html.page import render_page
from open_diht.common.html.text import anchor
from open_diht.pipelines.report.card import draw_card
from open_diht.pipelines.report.example import Example, Graph
from open_diht.pipelines.report.funnel import FunnelRecord, reasons_of, unaccounted
from open_diht.pipelines.report.graph import draw_graph

MAX_EXAMPLES = 12
"""Maximum number of examples of a reason, which bounds the size of the page."""
MAX_GROUPS = 24
"""Maximum number of reasons with examples, which bounds the size of the page."""

_ENDS = {
    "kept": "Rows that passed every requested step.",
    "dead_letter": (
        "Rows that could not be decided because they, or their images, could not be read, or OCR"
        " failed. They are neither kept nor rejected; each is stored with its error."
    ),
    "not_decided": (
        "Rows of failed units, which the same command tries again, and rows after the point where a"
        " file is corrupt."
    ),
}
_UNKNOWN = "Rejected at this step."
_CHARTS = (
    (
        "complexity",
        "Complexity",
        "The highest number of attributes, actions and relations of one object.",
    ),
    ("actions", "Actions", "How many actions of the caption were accepted."),
    (
        "overlap",
        "Overlap",
        "Length in characters of the longest match between the caption and the text in the image.",
    ),
)
"""Histograms of the funnel: name, title, and the counted items."""

_LEGEND: Graph = {
    "objects": [{"text": text, "start": -1, "end": -1} for text in ("dog", "ball", "spring")],
    "attributes": [
        {"object": place, "text": text, "kind": "", "score": 1.0}
        for place, text in ((0, "small"), (0, "brown"), (1, "red"))
    ],
    "actions": [
        {
            "verb": "catching",
            "start": -1,
            "end": -1,
            "score": 0.98,
            "accepted": True,
            "participants": [{"object": 0, "role": "subject"}, {"object": 1, "role": "object"}],
        },
        {
            "verb": "spring",
            "start": -1,
            "end": -1,
            "score": 0.04,
            "accepted": False,
            "participants": [{"object": 2, "role": "subject"}],
        },
    ],
    "relations": [{"source": 1, "target": 2, "text": "in", "score": 1.0}],
}


def render_report(
    funnel: FunnelRecord, examples: Mapping[str, Sequence[Example]], *, notes: Sequence[str] = ()
) -> str:
    """Return the report as one HTML file that loads nothing. `examples` are by reason, `kept` or
    `dead_letter`."""
    explanations = {
        step["reason"]: step.get("explanation", _UNKNOWN) for step in funnel["steps"]
    } | _ENDS
    totals = {
        "kept": funnel["kept"],
        "dead_letter": funnel["dead_letter"]["rows"],
        **funnel["rejected"],
    }
    reasons = reasons_of(funnel)
    shown = [name for name in dict.fromkeys([*reasons, *_ENDS, *examples]) if examples.get(name)][
        :MAX_GROUPS
    ]
    groups: list[dict[str, object]] = [
        {
            "name": name,
            "rejected": name not in _ENDS,
            "text": explanations.get(name, _UNKNOWN),
            "total": totals.get(name),
            "cards": [draw_card(example) for example in examples[name][:MAX_EXAMPLES]],
        }
        for name in shown
    ]
    names = [
        name
        for name in (*reasons, *_ENDS)
        if name != "not_decided" or funnel["not_decided"]["rows"]
    ]
    return render_page(
        __package__,
        "report.html.j2",
        run=funnel,
        unaccounted=unaccounted(funnel),
        notes=notes,
        groups=groups,
        link=lambda reason: f"#{anchor(reason)}" if reason in shown else "",
        explanations=[(name, explanations.get(name, _UNKNOWN)) for name in names],
        histograms=draw_histograms(funnel),
        legend=draw_graph(_LEGEND),
    )


def draw_histograms(funnel: FunnelRecord) -> str:
    """Return the histograms of a run as HTML: of caption and image measures, and of numbers with
    conditions."""
    drawn = []
    for name, title, text in _CHARTS:
        counts = {int(value): count for value, count in funnel["histograms"].get(name, {}).items()}
        drawn.append(histogram(title, text, bin_counts(counts) if counts else []))
    for name, column in funnel["columns"].items():
        counted = funnel["histograms"].get(name, {})
        bins = list(column["labels"])
        marks = [bins.index(str(one)) for one in column["thresholds"] if str(one) in bins]
        text = "Requirements of the preset." + (" Lines are its thresholds." if marks else "")
        columns = [(label, counted.get(place, 0)) for place, label in column["labels"].items()]
        drawn.append(histogram(name.partition(":")[2], text, columns, marks))
    return "".join(drawn)
