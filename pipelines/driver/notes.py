"""What to tell a person at the end of a run, beside the funnel."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.naming import counted
from open_diht.pipelines.driver.funnel import FunnelRecord
from open_diht.pipelines.manifests import FileInfo, check_consistent
from open_diht.pipelines.stages.cascade import NOT_AT_HAND
from open_diht.pipelines.stages.dedup.findings import UID
from open_diht.pipelines.stages.tar_indexes import OTHER_CAPTION, UNUSABLE


def all_notes(funnel: FunnelRecord) -> list[str]:
    """Those that apply."""
    notes = (unparsed_note, not_at_hand_note, duplicates_note, shared_uids_note, left_tars_note)
    return [text for note in notes if (text := note(funnel))]


def types_that_differ(infos: Sequence[FileInfo]) -> str | None:
    """What to tell a person whose manifests give a column several types; it shows in all results, so before the run."""
    differing = check_consistent(infos)
    if not differing:
        return None
    more = f" (and {len(differing) - 1:,} more)" if len(differing) > 1 else ""
    return (
        f"{differing[0]}{more}: the parts of kept/ and rejected/ have these types, too, and what reads a folder as one "
        "table may refuse that; give the column one type, or filter the files into separate OUTPUTs"
    )


def shared_uids_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose manifests give one uid to several different rows."""
    found = funnel.get("duplicates", {}).get(UID, {"found": 0})["found"]
    if not found:
        return None
    return (
        f"{counted(found, 'row')} with the uid of an earlier row and another url, image or caption; subset.npy leaves "
        "such uids out, since each would select all of its rows"
    )


def unparsed_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose captions were annotated by a lean run."""
    if not funnel["unparsed"]:
        return None
    return (
        f"lean run: not parsed were {counted(funnel['unparsed'], 'caption')} without a word that may be a verb. They "
        "are rejected by Action or a filter before it; their objects, attributes and complexity are not annotated "
        "(null), and rows that Complexity would have rejected first count under Action"
    )


def duplicates_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose survivors hold exact duplicates that stay."""
    called = {"pair": ("identical pair", "", "pairs"), "image": ("pair", " with the image of another", "images")}
    stay = [
        f"{counted(known['found'], called[kind][0])}{called[kind][1]} (dedup.{called[kind][2]})"
        for kind, known in funnel.get("duplicates", {}).items()
        if kind in called and known["found"] and not known["rejected"]
    ]
    if not stay:
        return None
    return f"found and kept: {', '.join(stay)}; stage dedup rejects them where the preset has that setting on"


def not_at_hand_note(funnel: FunnelRecord) -> str | None:
    """Return what to tell a person whose rows passed the captions but have no image here."""
    waiting = funnel["rejected"].get(NOT_AT_HAND, 0)
    if not waiting:
        return None
    return (
        f"{counted(waiting, 'row')} passed the caption filters and have no image here: they name none, or only a url. "
        f"They are in rejected/ with reason {NOT_AT_HAND}. STAGES with download fetches what a url names; "
        "STAGES=captions,export keeps the rows on their captions alone."
    )


def left_tars_note(funnel: FunnelRecord) -> str | None:
    """What to tell a person whose shards stay as they are."""
    left = funnel.get("left")
    if not left:
        return None
    lost = [f"{counted(count, 'row')} {_LEFT_OUT[why]}" for why, count in left["left_out"].items()]
    others = f". Kept, and not named there: {'; '.join(lost)}" if lost else ""
    return (
        f"the tars of INPUT ({left['shards']:,}) stay as they are; index/ names the {left['samples']:,} of their "
        f"samples that are kept, and `make train` reads these{others}"
    )


_LEFT_OUT = {
    UNUSABLE: "that a training cannot read (without image or .txt in their tar, or with a key met before)",
    OTHER_CAPTION: "whose .txt, which a training reads, is not the caption that was judged (--export shards "
    "writes that one)",
}
