"""The data of the `demo` suite: labelled images that come in Debian packages, brought into the layouts we read.

Fashion-MNIST (Xiao et al. 2017, MIT) as it is. Tux Paint's stamps (GPL-2) are cut-out photographs and drawings with a
line of description each: captions for retrieval, and the folder they are sorted into as class. From the stamps' own
labels questions are derived: whether it is of the kind that its folder says, and how many were placed on a sheet;
`open_diht.eval.fetch.compositions` derives captions to choose from and pairs.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from open_diht.eval.data import sample_indices
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.compositions import ROWS, write_pairs, write_selection
from open_diht.eval.fetch.packages import unpack_debian
from open_diht.eval.fetch.stamps import LONGEST, Stamp, find_stamps
from open_diht.eval.fetch.writing import Sample, jpeg, questions_member, write_webdataset

FASHION_FILES = tuple(f"{part}-{what}-ubyte" for part in ("t10k", "train") for what in ("images-idx3", "labels-idx1"))
FASHION_INSTALLED = Path("/usr/share/datasets/fashion-mnist")
STAMPS_INSTALLED = Path("/usr/share/tuxpaint/stamps")
# Folder of the stamps: the class's name, and a question that its members answer with yes.
KINDS = {
    "animals": ("animal", "Is this an animal?"),
    "clothes": ("piece of clothing", "Is this a piece of clothing?"),
    "food": ("food", "Is this food?"),
    "household": ("household object", "Is this a household object?"),
    "plants": ("plant", "Is this a plant?"),
    "sports": ("piece of sports equipment", "Is this a piece of sports equipment?"),
    "vehicles": ("vehicle", "Is this a vehicle?"),
}
COUNTED = {"animals": "animals", "vehicles": "vehicles", "food": "pieces of food"}
NUMBERS = ("1", "2", "3", "4")
SHEETS, ASKED = 120, 240
Say = Callable[[str], None]


def fetch_fashion(root: Path, say: Say, debs: Path | None) -> None:
    """`root`/FashionMNIST/raw, as torchvision reads it. Raises `FetchFailed`."""
    raw = root / "FashionMNIST" / "raw"
    if all((raw / name).is_file() for name in FASHION_FILES):
        say(f"Fashion-MNIST: at hand in {raw}")
        return
    raw.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack_debian("dataset-fashion-mnist", FASHION_INSTALLED, Path(scratch), debs)
        for name in FASHION_FILES:
            building = raw / f".tmp-{name}"
            with gzip.open(folder / f"{name}.gz", "rb") as packed, building.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
            building.replace(raw / name)
    say(f"Fashion-MNIST: 70,000 images in {raw}")


def fetch_stamps(root: Path, say: Say, debs: Path | None = None) -> None:
    """`root`/stamps (classes), stamps_captions, stamps_questions, stamps_selection and stamps_pairs. Raises
    `FetchFailed`."""
    targets = [root / f"stamps{what}" for what in ("", "_captions", "_questions", "_selection", "_pairs")]
    whole = [target / "test" / "nshards.txt" for target in targets[:3]] + [target / ROWS for target in targets[3:]]
    if all(file.is_file() for file in whole):
        say(f"Tux Paint stamps: at hand in {root}")
        return
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack_debian("tuxpaint-stamps-default", STAMPS_INSTALLED, Path(scratch), debs)
        stamps = find_stamps(folder)
        if not stamps:
            raise FetchFailed(f"no stamps with descriptions in {folder}; the package has changed")
        folders = list(KINDS)
        sorted_ones = [stamp for stamp in stamps if stamp.folder in KINDS]
        labelled = write_webdataset(
            targets[0],
            ((s.key, {"jpg": jpeg(s.image()), "cls": str(folders.index(s.folder))}) for s in sorted_ones),
            class_names=[name for name, _ in KINDS.values()],
            templates=["a photo of a {c}.", "an image of a {c}.", "a drawing of a {c}.", "a {c}."],
        )
        described = write_webdataset(
            targets[1], ((s.key, {"jpg": jpeg(s.image()), "txt": s.text}) for s in stamps), kind="retrieval"
        )
        asked = write_webdataset(targets[2], questions(sorted_ones), kind="vqa")
        selected, paired = write_selection(targets[3], stamps), write_pairs(targets[4], stamps)
    say(
        f"Tux Paint stamps: {labelled} with a class, {described} with a description, {asked} with questions, "
        f"{selected} captions to choose from, {paired} pairs in {root}"
    )


def questions(stamps: Sequence[Stamp]) -> Iterator[Sample]:
    """Samples of a vqa set: half of the yes/no questions are rightly answered with yes, numbers are evenly spread."""
    generator = np.random.default_rng(0)
    chosen = [stamps[index] for index in sample_indices([stamp.key for stamp in stamps], ASKED)]
    for stamp in chosen:
        others = [folder for folder in KINDS if folder != stamp.folder]
        denied = others[int(generator.integers(len(others)))]
        asked = [
            {"question": KINDS[folder][1], "kind": "yes/no", "answers": [answer], "candidates": ["yes", "no"]}
            for folder, answer in ((stamp.folder, "yes"), (denied, "no"))
        ]
        yield stamp.key, {"jpg": jpeg(stamp.image()), "json": questions_member(asked)}
    for index in range(SHEETS):
        folder = list(COUNTED)[index % len(COUNTED)]
        number = index // len(COUNTED) % len(NUMBERS) + 1
        own = [stamp for stamp in stamps if stamp.folder == folder]
        placed = [own[int(pick)] for pick in generator.choice(len(own), size=number, replace=False)]
        asked = [
            {
                "question": f"How many {COUNTED[folder]} are there?",
                "kind": "number",
                "answers": [str(number)],
                "candidates": list(NUMBERS),
            }
        ]
        yield f"sheet__{index:03d}", {"jpg": jpeg(_sheet(placed)), "json": questions_member(asked)}


def _sheet(stamps: Sequence[Stamp]) -> Image.Image:
    """Up to four stamps in the quarters of a white square."""
    sheet = Image.new("RGB", (LONGEST, LONGEST), "white")
    half = LONGEST // 2
    for index, stamp in enumerate(stamps):
        image = stamp.image()
        image.thumbnail((half - 16, half - 16), Image.Resampling.BICUBIC)
        left, top = (index % 2) * half, (index // 2) * half
        sheet.paste(image, (left + (half - image.width) // 2, top + (half - image.height) // 2))
    return sheet
