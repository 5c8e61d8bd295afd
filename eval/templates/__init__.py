"""Published prompt templates and class names, by the name of their source (credits are in
NOTICE.txt).

Names are, for example, `clip_benchmark:cifar10` and `openai_clip:ucf101`. A template has one slot,
`{}` (openai/CLIP) or `{c}` (CLIP_benchmark and the webdataset template files).
"""

import functools
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Literal

from open_diht.common.naming import nearest
from open_diht.eval.errors import WrongUse

Texts = Literal["templates", "class_names"]
SOURCES = ("clip_benchmark", "openai_clip")


@functools.cache
def _table(source: str) -> dict[str, dict[str, list[str]]]:
    text = resources.files(__package__).joinpath(f"{source}.json").read_text(encoding="utf-8")
    return json.loads(text)


def known(kind: Texts) -> list[str]:
    """Return all names `source:set` that have this kind of texts."""
    return [
        f"{source}:{name}"
        for source in SOURCES
        for name, entry in _table(source).items()
        if kind in entry
    ]


def look_up(kind: Texts, name: str) -> list[str]:
    """Return the list that `source:set` names. Raises `WrongUse` for an unknown name."""
    source, _, key = name.partition(":")
    if source not in SOURCES or kind not in _table(source).get(key, {}):
        raise WrongUse(
            f"no {kind.replace('_', ' ')} under the name {name!r}{nearest(name, known(kind))}"
        )
    return list(_table(source)[key][kind])


def named(kind: Texts, value: str | Iterable[str]) -> list[str]:
    """Return the list itself, or the list that a name refers to. Raises the errors of `look_up`."""
    return look_up(kind, value) if isinstance(value, str) else list(value)


def fill(template: str, name: str) -> str:
    """Return the template with the name in its slot, literally even if the name has braces."""
    slot = slot_of(template)
    # No str.format: the name may contain braces.
    return template.replace(slot, name, 1)


def slot_of(template: str) -> str:
    """Return the template's slot, `{}` or `{c}`; raises `WrongUse` unless it has exactly one."""
    counts = {slot: template.count(slot) for slot in ("{}", "{c}")}
    if sum(counts.values()) != 1:
        raise WrongUse(f"template {template!r} needs exactly one slot {{}} or {{c}}")
    return next(slot for slot, count in counts.items() if count)


def check_templates(templates: Sequence[str], place: str) -> None:
    """Raise `WrongUse` if there is no template, or one does not have exactly one slot."""
    if not templates:
        raise WrongUse(f"{place}: no templates")
    for template in templates:
        try:
            slot_of(template)
        except WrongUse as error:
            raise WrongUse(f"{place}: {error}") from None
