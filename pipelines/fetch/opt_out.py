"""Detect servers that ask not to use their images."""

from __future__ import annotations

from collections.abc import Iterable

DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""X-Robots-Tag directives that are obeyed. `none` means noindex and nofollow, and is obeyed too."""
# Directives with a value after a colon, so not names of robots.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def opts_out(headers: Iterable[tuple[str, str]], names: Iterable[str]) -> str | None:
    """Return the header that opts out, or None.

    `X-Robots-Tag: noai` addresses all robots, `X-Robots-Tag: diht: noai` the robot of that name, here one of the
    lower-case `names`. A name applies to the directives that follow it in the same header, also where a proxy has
    joined several headers with commas. `TDM-Reservation: 1` reserves text and data mining and also counts as an
    opt-out.
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
        # A name has no space; the rest of a date does, which the comma after its weekday has cut off.
        if colon and " " not in name.strip() and name.strip() not in _WITH_VALUE:
            addressed, directive = name.strip() in ours, rest.strip()
        if addressed and (directive in DIRECTIVES or directive == "none"):
            return True
    return False


def robot_names(user_agent: str) -> tuple[str, ...]:
    """Return the names by which a server may address us: our own and img2dataset's, lower case."""
    own = user_agent.split()[0].partition("/")[0].lower()
    return tuple(dict.fromkeys((own, "img2dataset")))
