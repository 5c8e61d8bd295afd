"""The data of one row that a report shows. `funnel.json` holds examples in this form, without their
images."""

from typing import NotRequired, TypedDict

Reasons = list[tuple[str, float]]
"""Features behind a candidate's score, in words, each with the log odds that it adds, the strongest
first."""


class Object(TypedDict):
    """An object of the caption; `start` and `end` are characters of the parsed text."""

    text: str
    start: int
    end: int


class Attribute(TypedDict):
    """A word that describes the object with this index."""

    object: int
    text: str
    kind: str
    score: float
    reasons: NotRequired[Reasons]


class Participant(TypedDict):
    """The role of an object in an action."""

    object: int
    role: str


class Action(TypedDict):
    """A verb candidate. `score`, 0 to 1, is the verifier's score, or the score after the second
    opinion."""

    verb: str
    start: int
    end: int
    score: float
    accepted: bool
    participants: list[Participant]
    reasons: NotRequired[Reasons]


class Relation(TypedDict):
    """Two objects and the words that connect them."""

    source: int
    target: int
    text: str
    score: float
    reasons: NotRequired[Reasons]


class Graph(TypedDict):
    objects: list[Object]
    attributes: list[Attribute]
    actions: list[Action]
    relations: list[Relation]


class Line(TypedDict):
    """A line of text read in the image; `box` has its corners (x, y) in pixels of the original."""

    text: str
    score: float
    box: list[tuple[float, float]]


class Example(Graph):
    """A row with the evidence for its decision."""

    uid: str
    caption: str
    parsed: str
    complexity: int | None
    image: bytes | None
    width: int | None
    height: int | None
    spotted: list[Line]
    overlap: int | None
    overlap_text: str
    overlap_span: tuple[int, int] | None
    measured: dict[str, float | str | None]
    """Scores, and other evidence of stages, by name."""
    message: str
