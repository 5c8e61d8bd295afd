"""Draw a row with its evidence: the image and the text read in it, the caption and its
annotations."""

import base64
from collections.abc import Iterator

from open_diht.common.html.page import render_page
from open_diht.common.html.text import TextSpan, marked
from open_diht.filters.score import TEXT_AREA
from open_diht.pipelines.report.example import Example, Line, Reasons
from open_diht.pipelines.report.graph import draw_graph
from open_diht.pipelines.report.thumbnail import ImageNotShown, shrink

# More boxes would hide the image; the card says how many are left out.
_MAX_BOXES = 40
_MAX_REASONS = 16
"""Maximum number of candidates of an example whose scores are explained."""
# Choose a color for people; they decide nothing.
_GOOD = 0.8
_FAIR = 0.5


def draw_card(example: Example) -> str:
    """Return an example as HTML: image with boxes, marked caption, graph, and the features behind
    the scores."""
    photo = None
    missing = ""
    if example["image"] is not None:
        try:
            photo = shrink(example["image"])
        except ImageNotShown as why:
            missing = str(why)
    spotted = example["spotted"][:_MAX_BOXES]
    more = len(example["spotted"][_MAX_BOXES:])
    # Boxes are in pixels of the original; the download may have reduced the image.
    width = example["width"] or (photo.original_width if photo else 1)
    height = example["height"] or (photo.original_height if photo else 1)
    unit = width / photo.width if photo else 1.0  # original pixels per pixel of the page
    masked = None
    if photo and example["image"] is not None and example["measured"].get(TEXT_AREA):
        masked = shrink(
            example["image"], [line["box"] for line in example["spotted"]], (width, height)
        )
    caption, parsed = _captions(example)
    return render_page(
        __package__,
        "card.html.j2",
        example=example,
        photo=photo,
        missing=missing,
        jpeg=base64.b64encode(photo.data).decode() if photo else "",
        masked=masked,
        masked_jpeg=base64.b64encode(masked.data).decode() if masked else "",
        width=width,
        height=height,
        unit=unit,
        lines=[
            _line(number, line, 8 * unit, width, height) for number, line in enumerate(spotted, 1)
        ],
        more_lines=more,
        caption=caption,
        parsed=parsed,
        graph=draw_graph(example),
        reasons=list(_reasons(example))[:_MAX_REASONS],
    )


def _line(number: int, line: Line, chip: float, width: int, height: int) -> dict[str, object]:
    """Return the template's variables for a line of text and the chip with its number."""
    box = line["box"] if len(line["box"]) >= 3 else []
    return {
        **line,
        "number": number,
        "grade": "good" if line["score"] >= _GOOD else "fair" if line["score"] >= _FAIR else "poor",
        "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in box),
        "x": min(max(min((x for x, _ in box), default=0), chip), width - chip),
        "y": min(max(min((y for _, y in box), default=0), chip), height - chip),
    }


def _captions(example: Example) -> tuple[str, str]:
    """Return two HTML texts: the caption with its overlap marked, and the parsed text with its
    words marked. The second is empty if both texts are the same (all marks are then in the first),
    or if a text is missing.
    """
    caption = example["caption"]
    parsed = example["parsed"]
    span = example["overlap_span"]
    overlap = [TextSpan(*span, "overlap")] if span else []
    words = [TextSpan(one["start"], one["end"], "t-object") for one in example["objects"]]
    words += [
        TextSpan(one["start"], one["end"], "t-action" if one["accepted"] else "t-off")
        for one in example["actions"]
    ]
    if not caption or not parsed:
        return (marked(caption, overlap) if caption else "", "")
    if parsed == caption:  # then all spans refer to the same text
        return marked(caption, [*overlap, *words]), ""
    return marked(caption, overlap), marked(parsed, words)


def _reasons(example: Example) -> Iterator[tuple[str, float, Reasons]]:
    """Yield (candidate's words, score, reasons) for each candidate whose score is explained."""
    names = dict(enumerate(one["text"] for one in example["objects"]))
    for action in example["actions"]:
        if reasons := action.get("reasons"):
            yield action["verb"], action["score"], reasons
    for attribute in example["attributes"]:
        if reasons := attribute.get("reasons"):
            yield (
                f"{attribute['text']}, of {names.get(attribute['object'], '')}",
                attribute["score"],
                reasons,
            )
    for relation in example["relations"]:
        if reasons := relation.get("reasons"):
            source = names.get(relation["source"], "")
            target = names.get(relation["target"], "")
            yield f"{source} {relation['text']} {target}", relation["score"], reasons
