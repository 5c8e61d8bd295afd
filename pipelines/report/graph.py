"""Draw a caption graph as inline SVG.

There are three columns: actions on the left, objects in reading order in the middle with their
attributes below, and relations as brackets on the right. So no node covers another, however many
there are.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from open_diht.common.html.text import attribute, plain, text_width
from open_diht.pipelines.report.example import Action, Graph, Relation

# Larger graphs are hard to read. Not measured.
_MAX_OBJECTS = 14
_MAX_ACTIONS = 12
_MAX_RELATIONS = 16
_MAX_PILLS = 8
# Sizes in pixels.
_FONT = 13.0
_SMALL = 11.0
_EDGE = 8.0  # free space around everything
_ROLE_GAP = 116.0  # between actions and objects: space for the curve and its role
_PORT = 17.0  # between two arrows that end at the same object
_ELLIPSE = 40.0
_ELLIPSE_PITCH = 50.0
_BOX = 28.0
_BOX_GAP = 20.0
_PILL = 20.0
_PILL_GAP = 5.0
_PILLS_WIDE = 230.0


@dataclass(frozen=True, slots=True)
class _Pill:
    x: float
    y: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class _Block:
    """An object's box with its attributes (the pills) below it."""

    text: str
    x: float
    y: float
    width: float
    height: float
    pills: Sequence[_Pill]

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def right(self) -> float:
        return max([self.x + self.width, *(pill.x + pill.width for pill in self.pills)])

    @property
    def bottom(self) -> float:
        return max([self.y + self.height, *(pill.y + _PILL for pill in self.pills)])

    def port(self, number: int, of: int) -> float:
        """Return the y coordinate at which arrow `number` of `of` arrows meets the box."""
        return self.middle + (number - (of - 1) / 2) * _PORT


def draw_graph(graph: Graph) -> str:
    """Return the graph as an `<svg>` element, or "" if there is nothing to draw."""
    if not graph["objects"] and not graph["actions"]:
        return ""
    actions = graph["actions"][:_MAX_ACTIONS]
    drawn = range(min(len(graph["objects"]), _MAX_OBJECTS))
    relations = [
        relation
        for relation in graph["relations"]
        if relation["source"] in drawn
        and relation["target"] in drawn
        and relation["source"] != relation["target"]
    ][:_MAX_RELATIONS]
    roles = [
        (place, part["object"], part["role"])
        for place, action in enumerate(actions)
        for part in action["participants"]
        if part["object"] in drawn
    ]
    column = max(map(_ellipse_width, actions), default=0.0)
    left = _EDGE + column + (_ROLE_GAP if actions and drawn else 0.0)
    blocks = _place_blocks(graph, drawn, left, relations, [place for _, place, _ in roles])
    heights = _place_actions(
        [
            [blocks[place].middle for action, place, _ in roles if action == number]
            for number in range(len(actions))
        ],
        max([block.bottom for block in blocks], default=0.0),
    )
    brackets, right = _draw_relations(relations, blocks)
    parts = [
        *_draw_roles(actions, heights, roles, blocks, _EDGE + column / 2),
        *brackets,
        *map(_draw_block, blocks),
        *(
            _draw_action(action, _EDGE + column / 2, y)
            for action, y in zip(actions, heights, strict=True)
        ),
    ]
    width = max(right, left, _EDGE + column) + _EDGE
    height = max([block.bottom for block in blocks] + [y + _ELLIPSE / 2 for y in heights]) + _EDGE
    more = [
        f"{count:,} more {noun}"
        for count, noun in (
            (len(graph["objects"]) - len(drawn), "objects"),
            (len(graph["actions"]) - len(actions), "actions"),
        )
        if count
    ]
    if more:
        parts.append(
            f'<text class="g-small" x="{_EDGE}" y="{height + 8:.0f}">not drawn:'
            f" {', '.join(more)}</text>"
        )
        height += 16
    return (
        f'<svg class="graph" role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" aria-label="{attribute(_in_words(graph))}">{"".join(parts)}</svg>'
    )


def _in_words(graph: Graph) -> str:
    said = defaultdict(list)
    for one in graph["attributes"]:
        said[one["object"]].append(one["text"])
    objects = ", ".join(
        " ".join([*said[place], one["text"]]) for place, one in enumerate(graph["objects"])
    )
    actions = ", ".join(
        f"{one['verb']} ({'accepted' if one['accepted'] else 'not accepted'})"
        for one in graph["actions"]
    )
    return f"Objects: {objects or 'none'}. Actions: {actions or 'none'}."


def _place_blocks(
    graph: Graph, drawn: range, x: float, relations: Sequence[Relation], participants: Sequence[int]
) -> list[_Block]:
    blocks: list[_Block] = []
    y = _EDGE
    for index in drawn:
        text = graph["objects"][index]["text"]
        arrows = max(
            participants.count(index),
            sum(index in (one["source"], one["target"]) for one in relations),
        )
        width = max(56.0, text_width(plain(text, 28), _FONT) + 22)
        height = max(_BOX, arrows * _PORT + 6)  # room for the arrows on one side
        said = [one["text"] for one in graph["attributes"] if one["object"] == index]
        if len(said) > _MAX_PILLS:
            said[_MAX_PILLS:] = [f"+{len(said) - _MAX_PILLS}"]
        pills: list[_Pill] = []
        left = x + 10
        top = y + height + 6
        for one in said:
            wide = text_width(plain(one, 24), _SMALL) + 16
            if left > x + 10 and left + wide > x + _PILLS_WIDE:
                left, top = x + 10, top + _PILL + _PILL_GAP
            pills.append(_Pill(left, top, wide, one))
            left += wide + _PILL_GAP
        blocks.append(_Block(text, x, y, width, height, pills))
        y = blocks[-1].bottom + _BOX_GAP
    return blocks


def _place_actions(participants: Sequence[Sequence[float]], bottom: float) -> list[float]:
    """Return the y coordinate of each action, near the mean of its participants'; actions without
    any come last."""
    wishes = [sum(one) / len(one) if one else math.inf for one in participants]
    order = sorted(range(len(wishes)), key=lambda index: (wishes[index], index))
    heights = [0.0] * len(wishes)
    y = _EDGE + _ELLIPSE / 2 - _ELLIPSE_PITCH
    for index in order:
        y = max(y + _ELLIPSE_PITCH, wishes[index] if math.isfinite(wishes[index]) else 0.0)
        heights[index] = y
    # Actions pushed below the objects move back up as far as there is room.
    limit = max(bottom - _ELLIPSE / 2, _EDGE + _ELLIPSE / 2 + (len(wishes) - 1) * _ELLIPSE_PITCH)
    for index in reversed(order):
        heights[index] = min(heights[index], limit)
        limit = heights[index] - _ELLIPSE_PITCH
    return heights


def _draw_roles(
    actions: Sequence[Action],
    heights: Sequence[float],
    roles: Sequence[tuple[int, int, str]],
    blocks: Sequence[_Block],
    x: float,
) -> list[str]:
    lines = []
    labels = []
    for index, block in enumerate(blocks):
        arriving = sorted(
            (heights[action], action, role) for action, target, role in roles if target == index
        )
        for number, (y, action, role) in enumerate(arriving):
            end = block.port(number, len(arriving))
            start = x + _ellipse_width(actions[action]) / 2
            bend = (start + block.x - 30) / 2  # both control points halfway, for a smooth S
            css = "g-role" if actions[action]["accepted"] else "g-role off"
            lines.append(
                f'<path class="{css}" d="M{start:.1f} {y:.1f}C{bend:.1f} {y:.1f} {bend:.1f}'
                f' {end:.1f} {block.x - 30:.1f} {end:.1f}H{block.x - 6:.1f}"/><path class="{css}'
                f' tip" d="M{block.x - 1:.1f} {end:.1f}l-8 -4v8z"/>'
            )
            labels.append(
                f'<text class="g-label {css}" x="{block.x - 14:.1f}" y="{end + 3.5:.1f}"'
                f' text-anchor="end">{attribute(role, 10)}</text>'
            )
    return lines + labels  # labels last, so that no later line runs through them


def _draw_relations(
    relations: Sequence[Relation], blocks: Sequence[_Block]
) -> tuple[list[str], float]:
    """Return the brackets to the right of the objects, the shortest innermost, and the x coordinate
    of their end."""
    right = max((block.right for block in blocks), default=0.0)
    lanes = _lanes(relations)
    ports = _ports(relations, lanes, blocks)
    lines = []
    labels = []
    x = right + 20
    for lane in range(max(lanes, default=-1) + 1):
        widest = 0.0
        for number, relation in enumerate(relations):
            if lanes[number] != lane:
                continue
            (x1, y1), (x2, y2) = ports[number, True], ports[number, False]
            down = 6.0 if y2 > y1 else -6.0
            lines.append(
                f'<path class="g-relation" d="M{x1:.1f} {y1:.1f}H{x - 6:.1f}Q{x:.1f} {y1:.1f}'
                f" {x:.1f} {y1 + down:.1f}V{y2 - down:.1f}Q{x:.1f} {y2:.1f} {x - 6:.1f}"
                f' {y2:.1f}H{x2 + 6:.1f}"/><path class="g-relation tip" d="M{x2 + 1:.1f} {y2:.1f}l8'
                ' -4v8z"/>'
            )
            labels.append(
                f'<text class="g-label g-relation" x="{x + 6:.1f}" y="{(y1 + y2) / 2 + 3.5:.1f}">'
                f"{attribute(relation['text'], 16)}</text>"
            )
            widest = max(widest, text_width(plain(relation["text"], 16), _SMALL))
        x += 6 + widest + 12
        right = x - 6
    return lines + labels, right


def _lanes(relations: Sequence[Relation]) -> list[int]:
    """Return the lane of each relation, so that no two relations in a lane overlap."""
    taken: list[list[tuple[int, int]]] = []
    lanes = [0] * len(relations)
    spans = [
        (min(link["source"], link["target"]), max(link["source"], link["target"]))
        for link in relations
    ]
    # Shortest first, so that they get the inner lanes.
    for index in sorted(range(len(relations)), key=lambda index: spans[index][1] - spans[index][0]):
        low, high = spans[index]
        free = (
            number
            for number, lane in enumerate(taken)
            if all(high <= a or b <= low for a, b in lane)
        )
        lanes[index] = next(free, len(taken))
        if lanes[index] == len(taken):
            taken.append([])
        taken[lanes[index]].append((low, high))
    return lanes


def _ports(
    relations: Sequence[Relation], lanes: Sequence[int], blocks: Sequence[_Block]
) -> dict[tuple[int, bool], tuple[float, float]]:
    """Return where each relation leaves (True) and arrives (False), ordered so that nested brackets
    do not cross."""
    meeting: dict[int, list[tuple[bool, int, int, bool]]] = defaultdict(list)
    for index, link in enumerate(relations):
        for here, there, leaves in (
            (link["source"], link["target"], True),
            (link["target"], link["source"], False),
        ):
            downward = there > here
            # At its upper node an outer bracket ends above inner ones, at its lower node below
            # them.
            meeting[here].append(
                (downward, -lanes[index] if downward else lanes[index], index, leaves)
            )
    return {
        (index, leaves): (blocks[here].x + blocks[here].width, blocks[here].port(number, len(ends)))
        for here, ends in meeting.items()
        for number, (_, _, index, leaves) in enumerate(sorted(ends))
    }


def _draw_block(block: _Block) -> str:
    parts = [
        f"<g><title>{attribute(block.text)}</title>"
        f'<rect class="g-object" x="{block.x:.1f}" y="{block.y:.1f}" width="{block.width:.1f}" '
        f'height="{block.height:.1f}" rx="4"/>'
        f'<text class="g-text" x="{block.x + block.width / 2:.1f}" y="{block.middle + 4.5:.1f}" '
        f'text-anchor="middle">{attribute(block.text, 28)}</text></g>'
    ]
    if block.pills:
        stem = block.x + 4
        top = block.y + block.height
        last = block.pills[-1]
        parts.append(f'<path class="g-stem" d="M{stem:.1f} {top:.1f}V{last.y + _PILL / 2:.1f}"/>')
        rows = sorted({pill.y + _PILL / 2 for pill in block.pills})
        parts.extend(f'<path class="g-stem" d="M{stem:.1f} {y:.1f}h6"/>' for y in rows)
    for pill in block.pills:
        parts.append(
            f"<g><title>{attribute(pill.text)}</title>"
            f'<rect class="g-pill" x="{pill.x:.1f}" y="{pill.y:.1f}" width="{pill.width:.1f}"'
            f' height="{_PILL}" '
            f'rx="{_PILL / 2}"/>'
            f'<text class="g-small" x="{pill.x + pill.width / 2:.1f}" y="{pill.y + 14:.1f}"'
            ' text-anchor="middle">'
            f"{attribute(pill.text, 24)}</text></g>"
        )
    return "".join(parts)


def _draw_action(action: Action, x: float, y: float) -> str:
    css, verdict = (
        ("g-action", "accepted") if action["accepted"] else ("g-action off", "not accepted")
    )
    return (
        f'<g class="{css}"><title>{attribute(action["verb"])}: {verdict}</title><ellipse'
        f' cx="{x:.1f}" cy="{y:.1f}" rx="{_ellipse_width(action) / 2:.1f}"'
        f' ry="{_ELLIPSE / 2}"/><text class="g-text" x="{x:.1f}" y="{y + 0.5:.1f}"'
        f' text-anchor="middle">{attribute(action["verb"], 20)}</text><text class="g-score"'
        f' x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle">{action["score"]:.2f}</text></g>'
    )


def _ellipse_width(action: Action) -> float:
    # An ellipse is narrower above its middle, where the text stands, hence the extra width.
    return max(76.0, text_width(plain(action["verb"], 20), _FONT) * 1.12 + 28)
