"""Whether a server asks that its images are not used."""

from __future__ import annotations

from collections.abc import Iterable

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of X-Robots-Tag that are obeyed; `none` stands for noindex and nofollow, and is obeyed too."""
# Directives that have a value after a colon, and so are no names of robots.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def opts_out(headers: Iterable[tuple[str, str]], names: Iterable[str]) -> str | None:
    """Returns the header that says no, None where none does.

    `X-Robots-Tag: noai` speaks to all, `X-Robots-Tag: diht: noai` to the robot of that name; a name holds for what
    follows it in the same header, also where a proxy has joined several headers with commas. `TDM-Reservation: 1`
    reserves text and data mining, and is a no as well.

    Args:
        headers: names and values as received.
        names: names by which we may be addressed, lower case.
    """
    ours = {"*", *names}
    for header, value in headers:
        if header.lower() == "tdm-reservation" and value.strip() == "1":
            return f"{header}: {value}"
        if header.lower() == "x-robots-tag" and _refuses(value, ours):
            return f"{header}: {value}"
    return None


def _refuses(value: str, ours: set[str]) -> bool:
    addressed = True
    for item in value.lower().split(","):
        directive = item.strip()
        name, colon, rest = directive.partition(":")
        if colon and name.strip() not in _WITH_VALUE:
            addressed, directive = name.strip() in ours, rest.strip()
        if addressed and (directive in DIRECTIVES or directive == "none"):
            return True
    return False


def robot_names(user_agent: str) -> tuple[str, ...]:
    """Names by which a server may address us: our own, and that of the tool that does the work."""
    own = user_agent.split()[0].partition("/")[0].lower()
    return tuple(dict.fromkeys((own, "img2dataset")))
