"""What to tell a person at the end of a run, beside the funnel."""

from __future__ import annotations

from pipelines.driver.funnel import FunnelRecord
from pipelines.stages.decisions import NOT_AT_HAND
from pipelines.stages.dedup.findings import UID


def shared_uids_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose manifests give one uid to several different rows."""
    found = funnel.get("duplicates", {}).get(UID, {"found": 0})["found"]
    if not found:
        return None
    return (
        f"{found:,} rows have the uid of an earlier row with another url, image or caption; subset.npy leaves such "
        "uids out, since each would select all of its rows"
    )


def unparsed_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose captions were annotated by a lean run."""
    if not funnel["unparsed"]:
        return None
    return (
        f"lean run: {funnel['unparsed']:,} captions without a word that may be a verb were not parsed. They are "
        "rejected by Action or a filter before it; their objects, attributes and complexity are not annotated (null), "
        "and rows that "
        "Complexity would have rejected first count under Action"
    )


def duplicates_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose survivors hold exact duplicates that stay."""
    called = {"pair": ("identical pairs", "pairs"), "image": ("pairs with the image of another", "images")}
    stay = [
        f"{known['found']:,} {called[kind][0]} (dedup.{called[kind][1]})"
        for kind, known in funnel.get("duplicates", {}).items()
        if kind in called and known["found"] and not known["rejected"]
    ]
    if not stay:
        return None
    return f"found and kept: {', '.join(stay)}; stage dedup rejects them where the preset has that setting on"


def not_at_hand_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose rows passed the captions but have no image here."""
    waiting = funnel["rejected"].get(NOT_AT_HAND, 0)
    if not waiting:
        return None
    return (
        f"{waiting:,} rows passed the caption filters, but their images are not at hand "
        "(urls only): they are kept apart, in rejected/ with "
        f"reason {NOT_AT_HAND}. STAGES with download fetches them; STAGES=captions,export keeps the rows on their "
        "captions alone."
    )
