"""Images per core-second of our text spotter, PaddleOCR and faster-paddle, and their decisions.

All sides read the same files of the sample, half of them with text and half without, as they are,
enlarged to 1,000 to 1,600 pixels and reduced to 256, with one thread in each process. CPU time
counts the decoding of the files and the reading, in all processes of a side; models are loaded and
some images of each size read before. Images with text are those in which the reference reads a line
of three letters or more with a score of 0.8 or more.

PaddleOCR's defaults are full resolution (`min`, 64) and recognition in batches of 6; it gets its
largest models that a package has, or the tiny ones, and ONNX Runtime. Its orientation and unwarping
models are off: no package has their weights, and the defaults would be slower with them. With "our
sizes" its pipeline has our sizes and thresholds and our decoding, without our second look and
reading. A decision is whether the image's caption overlaps its text; captions come from the
sample's manifest, and an image without one is compared with what the reference reads in it.
"""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import (
    PROGRAMS,
    ROOT,
    Entrant,
    Process,
    locked,
    peer_python,
    sides_of,
    take_turns,
)
from benchmarks.measuring import memory_mib
from open_diht.common.cpu_time import cpu_seconds
from open_diht.common.image_formats import EXTENSIONS
from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.filters.spotting.overlap import TOLERANT, SpottedText, overlap
from open_diht.filters.spotting.settings import EFFORTS, SpotterSettings, Spotting
from open_diht.filters.spotting.weights import ModelSize, find_models

MINUTES = 6
PEERS = "ocr"
SAMPLE = ROOT / "data" / "sample" / "images"
REFERENCE = "PaddleOCR, defaults, small"
OURS = "ours, medium"
SIZES = {"as-is": None, "enlarged": (1000, 1600), "reduced": (256, 256)}
NOTE = (
    "A user of PaddleOCR sets engine, models, text_det_limit_side_len and the thresholds as"
    " arguments of PaddleOCR(...); the reduction while decoding has to be written around it."
)
Strings = list[list[SpottedText]]
Read = Callable[[Sequence[str]], Strings]


def paddle_defaults(size: ModelSize) -> Read:
    """Return PaddleOCR as its documentation starts it, but with local weights, ONNX Runtime and one
    thread."""
    os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"
    import cv2
    from paddleocr import PaddleOCR

    cv2.setNumThreads(1)
    models = find_models(size)
    ocr = PaddleOCR(
        engine="onnxruntime",
        engine_config={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        device="cpu",
        text_detection_model_name=models.detection_name,
        text_detection_model_dir=str(models.detection),
        text_recognition_model_name=models.recognition_name,
        text_recognition_model_dir=str(models.recognition),
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        use_textline_orientation=False,
    )

    def read(files: Sequence[str]) -> Strings:
        found = [ocr.predict(file)[0] for file in files]
        return [
            list(zip(one["rec_texts"], map(float, one["rec_scores"]), strict=True)) for one in found
        ]

    return read


def paddle_our_sizes() -> Read:
    os.environ["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"
    from open_diht.filters.spotting.ocr.paddle import PaddleEngine

    engine = PaddleEngine(SpotterSettings())

    def read_one(file: str) -> list[SpottedText]:
        try:
            image = decode_image(Path(file).read_bytes(), DecodeLimits())
        except UnreadableImage:
            return []
        ((*lines,),) = engine.read([engine.find(image)])
        return [(line.text, line.score) for line in lines]

    return lambda files: list(map(read_one, files))


def spotter(**settings: Any) -> tuple[Read, Callable[[], float], Callable[[], float]]:
    """Return the TextSpotter as a pipeline uses it: this process, the pipe and the OCR process."""
    from open_diht.filters.spotting.spotter import TextSpotter

    running = TextSpotter(SpotterSettings(**settings)).__enter__()
    pid = running.pid
    assert pid is not None

    def read(files: Sequence[str]) -> Strings:
        results = list(running.spot(Path(file).read_bytes() for file in files))
        if running.pid != pid:
            raise RuntimeError("the OCR process was replaced, and its CPU time is lost")
        return [
            (
                [(line.text, line.score) for line in result.spotted]
                if isinstance(result, Spotting)
                else []
            )
            for result in results
        ]

    return read, lambda: cpu_seconds([pid]), lambda: memory_mib(process=pid) + memory_mib()


def entrants(peer: Path | None) -> dict[str, Entrant]:
    """Return the sides. `peer` is the interpreter of faster-paddle's environment, or None to leave
    it out."""
    paddle = version("paddleocr")
    own = partial(Process, __name__)
    common = {"threads": 1, "engine": f"onnxruntime {version('onnxruntime')}"}
    sizes = SpotterSettings()
    ours = {"limit_side": sizes.limit_side, "pixel_threshold": sizes.pixel_threshold}
    settings: dict[str, dict[str, Any]] = {
        "defaults": {},
        "our sizes": {"det_min_side": 0, "det_max_side": sizes.limit_side},
    }
    rust = {
        f"faster-paddle, {name}": Entrant(
            locked(PEERS, "faster-paddle"),
            {"threads": 1, "models": "tiny", **given},
            partial(Process, PROGRAMS / "ocr.py", "engine", python=peer or "", **given),
        )
        for name, given in settings.items()
    }
    return {
        **{
            f"PaddleOCR, defaults, {size}": Entrant(
                paddle, {**common, "models": size}, partial(own, "paddle_defaults", size=size)
            )
            for size in ("small", "tiny")
        },
        "PaddleOCR, our sizes": Entrant(
            paddle, {**common, "models": sizes.model, **ours}, partial(own, "paddle_our_sizes")
        ),
        **(rust if peer else {}),
        **{
            f"ours, {effort}": Entrant(
                "", {**common, **EFFORTS[effort]}, partial(own, "spotter", effort=effort)
            )
            for effort in EFFORTS
        },
    }


def readable(folder: Path) -> list[Path]:
    """Return the image files that OpenCV, and so PaddleOCR by itself, can read."""
    import cv2

    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower().removeprefix(".") in EXTENSIONS
    )
    return [path for path in files if path.stat().st_size and cv2.imread(str(path)) is not None]


def split(files: Sequence[Path], reference: Entrant, count: int) -> dict[str, list[Path]]:
    """Return `count` random files without text and `count` with text, as one side reads them, the
    same ones each time."""
    groups: dict[str, list[Path]] = {"without text": [], "with text": []}
    drawn = random.Random(7).sample(files, len(files))
    with reference.start() as process:
        for first in range(0, len(drawn), 8):
            some = drawn[first : first + 8]
            for file, lines in zip(some, process.ask(some).value, strict=True):
                says = any(
                    score >= 0.8 and sum(map(str.isalpha, text)) >= 3 for text, score in lines
                )
                groups["with text" if says else "without text"].append(file)
            if min(map(len, groups.values())) >= count:
                break
    return {name: found[:count] for name, found in groups.items()}


def resized(file: Path, folder: Path, sides: tuple[int, int]) -> Path:
    """Write an image with a longest side of a random length between `sides`, and return its
    path."""
    image = Image.open(file).convert("RGB")
    scale = random.Random(file.stem).randint(*sides) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    folder.mkdir(parents=True, exist_ok=True)
    image.resize(size, Image.Resampling.LANCZOS).save(
        folder / f"{file.stem}.jpg", "JPEG", quality=85
    )
    return folder / f"{file.stem}.jpg"


def overlapping(files: Sequence[Path], strings: Strings, reference: Strings) -> list[bool]:
    """Return whether each pair of an image and a caption would be dropped. The `reference` strings
    serve as the caption of an image without one."""
    captions: dict[str, list[str]] = {}
    with (SAMPLE.parent / "manifest.tsv").open(encoding="utf-8", newline="") as manifest:
        for row in csv.DictReader(manifest, delimiter="\t", quoting=csv.QUOTE_NONE):
            captions.setdefault(Path(row["image_path"]).stem, []).append(row["caption"])
    dropped = []
    for file, found, known in zip(files, strings, reference, strict=True):
        own = [" ".join(text for text, score in known if score >= TOLERANT.min_score)]
        for caption in captions.get(file.stem, own):
            pairs = [(text, score) for text, score in found]
            dropped.append(overlap(caption, pairs, TOLERANT).length >= TOLERANT.min_chars)
    return dropped


def measure(quick: bool, work: Path) -> list[Figure]:
    known = entrants(peer_python(PEERS))
    if quick:
        known = {name: known[name] for name in (REFERENCE, OURS)}
    count, rounds, warm = (1, 1, 1) if quick else (20, 3, 4)
    groups = split(readable(SAMPLE), known[REFERENCE], count)
    files = {
        (size, group): [resized(file, work / size, sides) if sides else file for file in some]
        for size, sides in SIZES.items()
        for group, some in groups.items()
    }
    turns = [(number, *each) for number in range(rounds) for each in files]
    warming = [file for some in files.values() for file in some[:warm]]
    asked = take_turns(known, [warming, *(files[size, group] for _, size, group in turns)])
    # The first answer is the warm-up's.
    answers = {name: dict(zip(turns, given[1:], strict=True)) for name, given in asked.items()}
    figures = []
    agree = dict.fromkeys(known, 0)
    pairs = 0
    for size in SIZES:
        rates = {
            name: [
                2 * count / sum(given[number, size, group].cpu_s for group in groups)
                for number in range(rounds)
            ]
            for name, given in answers.items()
        }
        what = f"{count} images without text and {count} with text of data/sample, {size}"
        unit = "images per core-second"
        figures.append(Figure(f"ocr-{size}", unit, what, sides_of(known, rates), REFERENCE, NOTE))
        for group in groups:
            some = files[size, group]
            reference = answers[REFERENCE][0, size, group].value
            expected = overlapping(some, reference, reference)
            pairs += len(expected)
            for name, given in answers.items():
                dropped = overlapping(some, given[0, size, group].value, reference)
                agree[name] += sum(a == b for a, b in zip(expected, dropped, strict=True))
    what = f"decisions on {pairs} pairs, the three sizes together"
    counts = sides_of(known, {name: [number] for name, number in agree.items()})
    memory = sides_of(known, {name: [given[-1].mib] for name, given in asked.items()})
    return [
        *figures,
        Figure("ocr-decisions", f"equal to those of {REFERENCE}", what, counts, REFERENCE),
        Figure("ocr-memory", "MiB, peak", "all of these images", memory, REFERENCE),
    ]
