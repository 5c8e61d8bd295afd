"""What a row shows of itself, and what it does not."""

from pathlib import Path
from typing import Any

from open_diht.pipelines.output import Output
from open_diht.pipelines.view.evidence import evidence_of
from open_diht.pipelines.view.query import Place


def test_what_an_earlier_run_read_in_an_image_is_not_shown(
    manifest: Path, copied: Path, filtering: Any
) -> None:
    place = Place(Output(copied).plan.units[0].name, "kept", 0)
    before = evidence_of(Output(copied), place)
    assert before is not None and before["width"] and before["overlap"] is not None
    filtering(manifest, copied, preset="captions: {min_complexity: 99}\n")
    for row in range(10):
        shown = evidence_of(Output(copied), Place(place.unit, "rejected", row))
        assert shown is not None and (shown["width"], shown["overlap"]) == (None, None)
        assert not shown["spotted"]
