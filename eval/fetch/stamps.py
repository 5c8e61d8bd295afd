"""Tux Paint's stamps: cut-out photographs and drawings with a line of description each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

LONGEST = 384


@dataclass(frozen=True)
class Stamp:
    """A stamp: where it is, its first folder, and its description."""

    path: Path
    key: str
    folder: str
    text: str

    def image(self) -> Image.Image:
        """RGB on white, at most 384 pixels on the longer edge."""
        with Image.open(self.path) as found:
            cut = found.convert("RGBA")
        cut.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
        sheet = Image.new("RGBA", cut.size, "white")
        sheet.alpha_composite(cut)
        return sheet.convert("RGB")


def find_stamps(folder: Path) -> list[Stamp]:
    """All stamps below `folder` that are images of something and have a description, in order of path. Letters,
    signs and the like (`symbols`) are left out."""
    found = []
    for path in sorted(folder.rglob("*.png")):
        text, place = path.with_suffix(".txt"), path.relative_to(folder)
        if place.parts[0] == "symbols" or not text.is_file():
            continue
        described = text.read_text(encoding="utf-8").splitlines()
        if described and described[0].strip():
            key = "__".join(place.with_suffix("").parts).replace(".", "-")
            found.append(Stamp(path, key, place.parts[0], described[0].strip()))
    return found
