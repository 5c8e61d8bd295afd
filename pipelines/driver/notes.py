"""Remarks for the end of a run, printed next to the funnel."""

from __future__ import annotations

from collections.abc import Sequence

from open_diht.common.naming import counted
from open_diht.pipelines.manifests import FileInfo, check_consistent
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.stages.cascade import NOT_AT_HAND
from open_diht.pipelines.stages.dedup.findings import UID
from open_diht.pipelines.stages.tar_indexes import OTHER_CAPTION, UNUSABLE

_STAYING = {"pair": ("identical pair", "(dedup.pairs)"), "image": ("pair", "with the image of another (dedup.images)")}
_LEFT_OUT = {
    UNUSABLE: "that a training cannot read (without image or .txt in their tar, or with a key met before)",
    OTHER_CAPTION: "whose .txt, which a training reads, is not the caption that was judged (--export shards "
    "writes that one)",
}


def all_notes(funnel: FunnelRecord) -> list[str]:
    """Return the remarks that apply to a run."""
    notes: list[str] = []
    if funnel["unparsed"]:
        notes.append(
            f"lean run: not parsed were {counted(funnel['unparsed'], 'caption')} without a word that may be a verb. "
            "They are rejected by Action or a filter before it; their objects, attributes and complexity are not "
            "annotated (null), and rows that Complexity would have rejected first count under Action"
        )
    if (moves := funnel.get("moves")) and (candidates := int(moves["raised"] + moves["lowered"])):
        notes.append(
            f"second opinion: asked about {counted(int(moves['asked']), 'caption')}; it raised the scores of "
            f"{int(moves['raised']):,} candidates and lowered those of {int(moves['lowered']):,}, by "
            f"{moves['total'] / candidates:.2f} on average. The examples show which, and the words that it went by"
        )
    if waiting := funnel["rejected"].get(NOT_AT_HAND, 0):
        notes.append(
            f"{counted(waiting, 'row')} passed the caption filters and have no image here: they name none, or only a "
            f"url. They are in rejected/ with reason {NOT_AT_HAND}. STAGES with download fetches what a url names; "
            "STAGES=captions,export keeps the rows on their captions alone."
        )
    duplicates = funnel.get("duplicates", {})
    stay = [
        f"{counted(duplicates[kind]['found'], noun)} {where}"
        for kind, (noun, where) in _STAYING.items()
        if kind in duplicates and duplicates[kind]["found"] and not duplicates[kind]["rejected"]
    ]
    if stay:
        notes.append(
            f"found and kept: {', '.join(stay)}; stage dedup rejects them where the preset has that setting on"
        )
    if shared := duplicates.get(UID, {"found": 0})["found"]:
        notes.append(
            f"{counted(shared, 'row')} with the uid of an earlier row and another url, image or caption; subset.npy "
            "leaves such uids out, since each would select all of its rows"
        )
    if left := funnel.get("left"):
        lost = [f"{counted(count, 'row')} {_LEFT_OUT[why]}" for why, count in left["left_out"].items()]
        others = f". Kept, and not named there: {'; '.join(lost)}" if lost else ""
        notes.append(
            f"the tars of INPUT ({left['shards']:,}) stay as they are; index/ names the {left['samples']:,} of their "
            f"samples that are kept, and `make train` reads these{others}"
        )
    return notes


def types_that_differ(infos: Sequence[FileInfo]) -> str | None:
    """Return a warning if manifests give a column different types, else None. It is printed before the run, because
    the results will have these types too."""
    differing = check_consistent(infos)
    if not differing:
        return None
    more = f" (and {len(differing) - 1:,} more)" if len(differing) > 1 else ""
    return (
        f"{differing[0]}{more}: the parts of kept/ and rejected/ have these types, too, and what reads a folder as one "
        "table may refuse that; give the column one type, or filter the files into separate OUTPUTs"
    )
