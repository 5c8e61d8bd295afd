"""A caption graph drawn as inline SVG.

Three columns: actions left, objects in reading order in the middle with their attributes below, relations as brackets
right. So nothing can lie on top of anything else, however many nodes there are, and the drawing grows downwards only.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from open_diht.common.html import attribute, plain, text_width
from open_diht.pipelines.report.data import Action, Graph, Relation, Thing

_MAX_THINGS, _MAX_ACTIONS, _MAX_RELATIONS, _MAX_PILLS = 14, 12, 16, 8
_FONT, _SMALL = 13.0, 11.0
_EDGE = 8.0  # free space around everything
_ROLE_GAP = 116.0  # between actions and objects: room for the curve and its role
_PORT = 17.0  # between two arrows that end at the same object
_ELLIPSE, _ELLIPSE_PITCH = 40.0, 50.0
_BOX, _BOX_GAP = 28.0, 20.0
_PILL, _PILL_GAP, _PILLS_WIDE = 20.0, 5.0, 230.0


@dataclass(frozen=True, slots=True)
class _Pill:
    x: float
    y: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class _Block:
    """An object's box with the pills below it."""

    thing: Thing
    x: float
    y: float
    width: float
    height: float
    pills: tuple[_Pill, ...]

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def right(self) -> float:
        return max([self.x + self.width, *(pill.x + pill.width for pill in self.pills)])

    @property
    def bottom(self) -> float:
        return max([self.y + self.height, *(pill.y + _PILL for pill in self.pills)])


def draw_graph(graph: Graph) -> str:
    """The graph as an `<svg>` element; an empty string where there is nothing to draw."""
    if not graph:
        return ""
    actions = graph.actions[:_MAX_ACTIONS]
    count = min(len(graph.things), _MAX_THINGS)
    relations = [item for item in graph.relations if item.source < count and item.target < count][:_MAX_RELATIONS]
    column = max((_ellipse_width(action) for action in actions), default=0.0)
    x = _EDGE + column + (_ROLE_GAP if actions and count else 0.0)
    blocks = _place_blocks(graph.things[:count], x, _ends(actions, relations))
    centres = _place_actions(actions, blocks)
    relation_parts, right = _draw_relations(relations, blocks)
    parts = [
        *_draw_roles(actions, centres, blocks, _EDGE + column / 2),
        *relation_parts,
        *(_draw_block(block) for block in blocks),
        *(_draw_action(action, _EDGE + column / 2, y) for action, y in zip(actions, centres, strict=True)),
    ]
    width = max(right, x, _EDGE + column) + _EDGE
    height = max([block.bottom for block in blocks] + [y + _ELLIPSE / 2 for y in centres]) + _EDGE
    left_out = _left_out(graph, len(actions), count)
    if left_out:
        parts.append(f'<text class="g-small" x="{_EDGE}" y="{height + 8:.0f}">{left_out}</text>')
        height += 16
    return (
        f'<svg class="graph" role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" aria-label="{attribute(_sentence(graph))}">{"".join(parts)}</svg>'
    )


def _ends(actions: tuple[Action, ...], relations: list[Relation]) -> dict[int, int]:
    """How many arrows meet an object on its busier side."""
    left: dict[int, int] = defaultdict(int)
    right: dict[int, int] = defaultdict(int)
    for action in actions:
        for part in action.participants:
            left[part.thing] += 1
    for relation in relations:
        right[relation.source] += 1
        right[relation.target] += 1
    return {place: max(left[place], right[place]) for place in {*left, *right}}


def _place_blocks(things: tuple[Thing, ...], x: float, ends: dict[int, int]) -> list[_Block]:
    blocks = []
    y = _EDGE
    for index, thing in enumerate(things):
        width = max(56.0, text_width(plain(thing.text, 28), _FONT) + 22)
        height = max(_BOX, ends.get(index, 0) * _PORT + 6)
        block = _Block(thing, x, y, width, height, _place_pills(thing, x, y + height + 6))
        blocks.append(block)
        y = block.bottom + _BOX_GAP
    return blocks


def _place_pills(thing: Thing, x: float, y: float) -> tuple[_Pill, ...]:
    texts = list(thing.attributes[:_MAX_PILLS])
    if len(thing.attributes) > _MAX_PILLS:
        texts.append(f"+{len(thing.attributes) - _MAX_PILLS}")
    pills = []
    left = x + 10
    for text in texts:
        width = text_width(plain(text, 24), _SMALL) + 16
        if left > x + 10 and left + width > x + _PILLS_WIDE:
            left, y = x + 10, y + _PILL + _PILL_GAP
        pills.append(_Pill(left, y, width, text))
        left += width + _PILL_GAP
    return tuple(pills)


def _place_actions(actions: tuple[Action, ...], blocks: list[_Block]) -> list[float]:
    """The height of each action: as near to its participants as the others allow."""

    def wish(action: Action) -> float:
        heights = [blocks[part.thing].middle for part in action.participants if part.thing < len(blocks)]
        return sum(heights) / len(heights) if heights else float("inf")

    order = sorted(range(len(actions)), key=lambda place: (wish(actions[place]), place))
    lowest = max([block.bottom for block in blocks], default=0.0) - _ELLIPSE / 2
    heights: dict[int, float] = {}
    y = _EDGE + _ELLIPSE / 2 - _ELLIPSE_PITCH
    for place in order:
        wanted = wish(actions[place])
        y = max(y + _ELLIPSE_PITCH, wanted if wanted != float("inf") else 0.0)
        heights[place] = y
    # Pushed below the objects: move back up as far as there is room.
    limit = max(lowest, _EDGE + _ELLIPSE / 2 + (len(actions) - 1) * _ELLIPSE_PITCH)
    for place in reversed(order):
        heights[place] = min(heights[place], limit)
        limit = heights[place] - _ELLIPSE_PITCH
    return [heights[place] for place in range(len(actions))]


def _draw_roles(actions: tuple[Action, ...], centres: list[float], blocks: list[_Block], x: float) -> list[str]:
    arriving: dict[int, list[tuple[float, int, str]]] = defaultdict(list)
    for place, action in enumerate(actions):
        for part in action.participants:
            if part.thing < len(blocks):
                arriving[part.thing].append((centres[place], place, part.role))
    lines, labels = [], []
    for thing, arrivals in arriving.items():
        block = blocks[thing]
        for port, (y, place, role) in enumerate(sorted(arrivals)):
            end = block.middle + (port - (len(arrivals) - 1) / 2) * _PORT
            start = x + _ellipse_width(actions[place]) / 2
            bend = (start + block.x - 30) / 2  # both control points half way: a smooth S
            css = "g-role" if actions[place].accepted else "g-role off"
            lines.append(
                f'<path class="{css}" d="M{start:.1f} {y:.1f}C{bend:.1f} {y:.1f} {bend:.1f} {end:.1f} '
                f'{block.x - 30:.1f} {end:.1f}H{block.x - 6:.1f}"/>'
                f'<path class="{css} tip" d="M{block.x - 1:.1f} {end:.1f}l-8 -4v8z"/>'
            )
            labels.append(
                f'<text class="g-label {css}" x="{block.x - 14:.1f}" y="{end + 3.5:.1f}" text-anchor="end">'
                f"{attribute(role, 10)}</text>"
            )
    return lines + labels  # labels last, so that no later line runs through them


def _draw_relations(relations: list[Relation], blocks: list[_Block]) -> tuple[list[str], float]:
    """Brackets right of the objects, the shortest innermost; returns the parts and how far right they reach."""
    right = max((block.right for block in blocks), default=0.0)
    lanes = _lanes(relations)
    ports = _right_ports(relations, lanes, blocks)
    lines, labels = [], []
    x = right + 20
    for lane in range(max(lanes, default=-1) + 1):
        widest = 0.0
        for index, relation in enumerate(relations):
            if lanes[index] != lane:
                continue
            (x1, y1), (x2, y2) = ports[index, True], ports[index, False]
            down = 6.0 if y2 > y1 else -6.0
            lines.append(
                f'<path class="g-relation" d="M{x1:.1f} {y1:.1f}H{x - 6:.1f}Q{x:.1f} {y1:.1f} {x:.1f} {y1 + down:.1f}'
                f'V{y2 - down:.1f}Q{x:.1f} {y2:.1f} {x - 6:.1f} {y2:.1f}H{x2 + 6:.1f}"/>'
                f'<path class="g-relation tip" d="M{x2 + 1:.1f} {y2:.1f}l8 -4v8z"/>'
            )
            labels.append(
                f'<text class="g-label g-relation" x="{x + 6:.1f}" y="{(y1 + y2) / 2 + 3.5:.1f}">'
                f"{attribute(relation.text, 16)}</text>"
            )
            widest = max(widest, text_width(plain(relation.text, 16), _SMALL))
        x += 6 + widest + 12
        right = x - 6
    return lines + labels, right


def _lanes(relations: list[Relation]) -> list[int]:
    """The lane of each relation, so that no two of a lane share a stretch."""
    taken: list[list[tuple[int, int]]] = []
    lanes = [0] * len(relations)
    spans_of = [(min(item.source, item.target), max(item.source, item.target)) for item in relations]
    for place in sorted(range(len(relations)), key=lambda place: spans_of[place][1] - spans_of[place][0]):
        low, high = spans_of[place]
        lane = next(
            (number for number, spans in enumerate(taken) if all(high <= a or b <= low for a, b in spans)), len(taken)
        )
        if lane == len(taken):
            taken.append([])
        taken[lane].append((low, high))
        lanes[place] = lane
    return lanes


def _right_ports(
    relations: list[Relation], lanes: list[int], blocks: list[_Block]
) -> dict[tuple[int, bool], tuple[float, float]]:
    """Where each relation leaves (True) and arrives (False), ordered so that nested brackets do not cross."""
    meeting: dict[int, list[tuple[bool, int, int, bool]]] = defaultdict(list)
    for place, relation in enumerate(relations):
        source, target = relation.source, relation.target
        for here, there, leaves in ((source, target, True), (target, source, False)):
            downward = there > here
            meeting[here].append((downward, -lanes[place] if downward else lanes[place], place, leaves))
    ports = {}
    for thing, ends in meeting.items():
        block = blocks[thing]
        for port, (_, _, place, leaves) in enumerate(sorted(ends)):
            ports[place, leaves] = (block.x + block.width, block.middle + (port - (len(ends) - 1) / 2) * _PORT)
    return ports


def _draw_block(block: _Block) -> str:
    parts = [
        f"<g><title>{attribute(block.thing.text)}</title>"
        f'<rect class="g-object" x="{block.x:.1f}" y="{block.y:.1f}" width="{block.width:.1f}" '
        f'height="{block.height:.1f}" rx="4"/>'
        f'<text class="g-text" x="{block.x + block.width / 2:.1f}" y="{block.middle + 4.5:.1f}" '
        f'text-anchor="middle">{attribute(block.thing.text, 28)}</text></g>'
    ]
    if block.pills:
        stem, top, last = block.x + 4, block.y + block.height, block.pills[-1]
        rows = sorted({pill.y + _PILL / 2 for pill in block.pills})
        parts.append(f'<path class="g-stem" d="M{stem:.1f} {top:.1f}V{last.y + _PILL / 2:.1f}"/>')
        parts.extend(f'<path class="g-stem" d="M{stem:.1f} {y:.1f}h6"/>' for y in rows)
    for pill in block.pills:
        parts.append(
            f"<g><title>{attribute(pill.text)}</title>"
            f'<rect class="g-pill" x="{pill.x:.1f}" y="{pill.y:.1f}" width="{pill.width:.1f}" height="{_PILL}" '
            f'rx="{_PILL / 2}"/>'
            f'<text class="g-small" x="{pill.x + pill.width / 2:.1f}" y="{pill.y + 14:.1f}" text-anchor="middle">'
            f"{attribute(pill.text, 24)}</text></g>"
        )
    return "".join(parts)


def _draw_action(action: Action, x: float, y: float) -> str:
    css = "g-action" if action.accepted else "g-action off"
    score = "" if action.score is None else f"{action.score:.2f}"
    verdict = "accepted" if action.accepted else "not accepted"
    lift = 0.5 if score else 4.5
    number = f'<text class="g-score" x="{x:.1f}" y="{y + 13:.1f}" text-anchor="middle">{score}</text>' if score else ""
    return (
        f'<g class="{css}"><title>{attribute(action.verb)}: {verdict}</title>'
        f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{_ellipse_width(action) / 2:.1f}" ry="{_ELLIPSE / 2}"/>'
        f'<text class="g-text" x="{x:.1f}" y="{y + lift:.1f}" text-anchor="middle">{attribute(action.verb, 20)}</text>'
        f"{number}</g>"
    )


def _ellipse_width(action: Action) -> float:
    # An ellipse is narrow where the text stands high, hence the extra room.
    return max(76.0, text_width(plain(action.verb, 20), _FONT) * 1.12 + 28)


def _left_out(graph: Graph, actions: int, things: int) -> str:
    parts = []
    if len(graph.things) > things:
        parts.append(f"{len(graph.things) - things} more objects")
    if len(graph.actions) > actions:
        parts.append(f"{len(graph.actions) - actions} more actions")
    return f"not drawn: {', '.join(parts)}" if parts else ""


def _sentence(graph: Graph) -> str:
    """The graph in words, for those who cannot see the drawing."""
    things = ", ".join(" ".join([*thing.attributes, thing.text]) for thing in graph.things)
    actions = ", ".join(
        f"{action.verb} ({'accepted' if action.accepted else 'not accepted'})" for action in graph.actions
    )
    return f"Objects: {things or 'none'}. Actions: {actions or 'none'}."
