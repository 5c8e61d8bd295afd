"""Remarks for the end of a run, printed next to the funnel."""

from collections.abc import Sequence

from open_diht.common.naming import counted
from open_diht.common.spelling import spelled, spelled_option
from open_diht.filters.cascade import NOT_AT_HAND
from open_diht.pipelines.manifests import FileInfo, check_consistent
from open_diht.pipelines.report.funnel import FunnelRecord, checked_in_words, earlier_in_words
from open_diht.pipelines.stages.dedup.findings import UID
from open_diht.pipelines.stages.tar_indexes import OTHER_CAPTION, UNUSABLE

_STAYING = {
    "pair": ("identical pair", "(dedup.pairs)"),
    "image": ("pair", "that share an image with another pair (dedup.images)"),
}
_LEFT_OUT = {
    UNUSABLE: "that training cannot read (no image or .txt in their tar, or a repeated key)",
    OTHER_CAPTION: (
        "whose .txt, which training reads, is not the filtered caption (--export shards writes that"
        " one)"
    ),
}


def all_notes(funnel: FunnelRecord) -> list[str]:
    """Return the remarks that apply to a run."""
    notes: list[str] = []
    if funnel["unparsed"]:
        notes.append(
            f"lean run: {counted(funnel['unparsed'], 'caption')} without a possible verb were not"
            " parsed. Action or an earlier filter rejects them; their objects, attributes and"
            " complexity are null, and rows that Complexity would have rejected first count under"
            " Action"
        )
    if captions := funnel.get("captions"):
        ends = {"passed": captions["passed"], "in dead-letter rows": captions["dead_letter"]}
        ends |= {"not decided": captions["not_decided"]}
        parts = [f"{number:,} {end}" for end, number in ends.items() if number or end == "passed"]
        parts += [
            f"{number:,} rejected ({reason})" for reason, number in captions["rejected"].items()
        ]
        notes.append(
            f"rows have several captions, {captions['captions_in']:,} in all: {', '.join(parts)}. A"
            " row is kept if one of its captions passes"
        )
    if (moves := funnel.get("moves")) and (candidates := int(moves["raised"] + moves["lowered"])):
        notes.append(
            f"second opinion: asked about {counted(int(moves['asked']), 'caption')}; it raised the"
            f" scores of {int(moves['raised']):,} candidates and lowered those of"
            f" {int(moves['lowered']):,}, by {moves['total'] / candidates:.2f} on average. The"
            " examples show which, and the words that it went by"
        )
    if waiting := funnel["rejected"].get(NOT_AT_HAND, 0):
        notes.append(
            f"{counted(waiting, 'row')} passed the caption filters but have no image here; they are"
            f" in rejected/ with reason {NOT_AT_HAND}. If the manifest has urls and no images, add"
            f" download to {spelled_option('stages')} to fetch them; or use"
            f" {spelled_option('stages', 'captions,export')} to keep rows by their captions alone."
        )
    if checked := funnel.get("checked"):
        notes.append(f"checked against {checked_in_words(checked)}")
    if earlier := funnel.get("earlier"):
        notes.append(f"compared with {earlier_in_words(earlier)}")
    duplicates = funnel.get("duplicates", {})
    stay = [
        f"{counted(duplicates[kind]['found'], noun)} {where}"
        for kind, (noun, where) in _STAYING.items()
        if kind in duplicates and duplicates[kind]["found"] and not duplicates[kind]["rejected"]
    ]
    if stay:
        how = "set that setting in the preset to reject them in stage dedup"
        if "dedup" not in funnel["stages"]:
            how = (
                f"to reject them, add dedup to {spelled_option('stages')}, with that setting in the"
                " preset"
            )
        notes.append(f"duplicates kept: {', '.join(stay)}; {how}")
    if (same := duplicates.get(UID)) and (shared := same["found"]):
        notes.append(
            f"{counted(shared, 'row')} with the uid of an earlier row and another url, image or"
            " caption, or without a url and with an image that this run did not read, so that the"
            " pairs cannot be compared; subset.npy omits these uids because each would select all"
            " of its rows"
        )
    if index := funnel.get("left"):
        lost = [
            f"{counted(count, 'row')} {_LEFT_OUT[why]}" for why, count in index["left_out"].items()
        ]
        others = f". Kept but not in index/: {'; '.join(lost)}" if lost else ""
        notes.append(
            f"the tars of INPUT ({index['shards']:,}) are unchanged; index/ lists their"
            f" {index['samples']:,} kept samples, which `{spelled('train')}` reads{others}"
        )
    return notes


def types_that_differ(infos: Sequence[FileInfo]) -> str | None:
    """Return a warning if a column has different types in different manifests, and so in different
    results."""
    differing = check_consistent(infos)
    if not differing:
        return None
    more = f" (and {len(differing) - 1:,} more)" if len(differing) > 1 else ""
    return (
        f"{differing[0]}{more}: the parts of kept/ and rejected/ have these types too, and readers"
        " of a folder as one table may fail; give the column one type, or filter the files into"
        " separate OUTPUTs"
    )
