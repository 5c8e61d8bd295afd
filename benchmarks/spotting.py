"""Images per core-second of our text spotter against PaddleOCR and faster-paddle with their
defaults, and their decisions.

    python -m benchmarks.spotting [--images DIR] [--count 40] [--repeats 3] [--sides ...]

All sides read the same files, with one thread in each process. PaddleOCR's defaults are full
resolution (`min`, 64) and recognition in batches of 6; it gets the small models (the largest
available) or the tiny ones, and ONNX Runtime. Its orientation and unwarping models are off: no
package has their weights, and the defaults would be slower with them. `PaddleOCR, our sizes` is
PaddleOCR's pipeline with our sizes and thresholds, without our second look and reading; images are
reduced less while decoding. Our spotter used that pipeline before version 2 of its processing.

Each run is a separate process and the sides take turns; the tables have median times, and ratios
are those of runs of the same round: to PaddleOCR's defaults, and to its pipeline with our sizes.
CPU time counts the decoding of the files and the reading, in all processes and threads of a side;
the loading of the models and a first pass over some or all images are excluded. Images with text
are those in which the reference reads a line of three letters or more with a score of 0.8 or more;
the mix has as many with as without. A second table has the same images at 1,000 to 1,600 pixels. A
decision is whether the image's caption overlaps its text. Captions come from `manifest.tsv` next to
the folder (columns image_path, caption); an image without a caption is compared with what the
reference reads in it. A third table has the images reduced to 256 pixels.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.measuring import apart, memory_mib, parser_of, print_table, processor, ratios
from open_diht.common.cpu_time import cpu_seconds
from open_diht.common.image_formats import EXTENSIONS
from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.filters.spotting.overlap import PAPER, TOLERANT, OverlapRule, SpottedText, overlap
from open_diht.filters.spotting.settings import EFFORTS
from open_diht.filters.spotting.spotter import SpotterSettings, Spotting, TextSpotter
from open_diht.filters.spotting.weights import ModelSize, find_models

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample" / "images"
Strings = list[list[SpottedText]]


@dataclass(frozen=True)
class Side:
    read: Callable[[Sequence[Path]], Strings]
    clock: Callable[[], float] = time.process_time
    """Return the CPU seconds of all of its processes."""
    peak: Callable[[], float] = memory_mib
    """Return the peak resident memory of all of its processes, in MiB."""
    warm: int | None = 8
    """Number of images read before the measurement. None means all: for a side that compiles shapes
    as they occur."""


@contextmanager
def paddle_defaults(size: ModelSize) -> Iterator[Side]:
    """Yield PaddleOCR as its documentation starts it, but with local weights, ONNX Runtime and one
    thread."""
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

    def read(files: Sequence[Path]) -> Strings:
        results = [ocr.predict(str(file))[0] for file in files]
        return [
            list(zip(one["rec_texts"], map(float, one["rec_scores"]), strict=True))
            for one in results
        ]

    yield Side(read)


@contextmanager
def paddle_our_sizes() -> Iterator[Side]:
    from open_diht.filters.spotting.ocr.paddle import PaddleEngine

    engine = PaddleEngine(SpotterSettings())

    def read_one(file: Path) -> list[SpottedText]:
        try:
            image = decode_image(file.read_bytes(), DecodeLimits())
        except UnreadableImage:
            return []
        ((*lines,),) = engine.read([engine.find(image)])
        return [(line.text, line.score) for line in lines]

    def read(files: Sequence[Path]) -> Strings:
        return [read_one(file) for file in files]

    yield Side(read)


@contextmanager
def faster_paddle() -> Iterator[Side]:
    import faster_paddle as peer

    engine = peer.OcrEngine(model_size="tiny", threads=1)

    def read(files: Sequence[Path]) -> Strings:
        results = engine.ocr_batch([file.read_bytes() for file in files])
        return [
            [(line["text"], line["confidence"]) for line in one["bounds"].values()]
            for one in results
        ]

    yield Side(read)


@contextmanager
def ours(settings: SpotterSettings) -> Iterator[Side]:
    """Yield TextSpotter as a pipeline uses it: this process, the pipe and the OCR process."""
    with TextSpotter(settings) as spotter:
        pid = spotter.pid
        assert pid is not None

        def read(files: Sequence[Path]) -> Strings:
            results = list(spotter.spot(file.read_bytes() for file in files))
            if spotter.pid != pid:
                raise RuntimeError(
                    "the OCR process was replaced, its CPU time is lost: give fewer images"
                )
            return [
                (
                    [(line.text, line.score) for line in result.spotted]
                    if isinstance(result, Spotting)
                    else []
                )
                for result in results
            ]

        def peak() -> float:
            return memory_mib(process=pid) + memory_mib()

        yield Side(
            read,
            lambda: cpu_seconds([pid]),
            peak,
            None if spotter.settings.engine == "openvino" else 8,
        )


SIDES: dict[str, Callable[[], AbstractContextManager[Side]]] = {
    "PaddleOCR defaults, small": lambda: paddle_defaults("small"),
    "PaddleOCR defaults, tiny": lambda: paddle_defaults("tiny"),
    "PaddleOCR, our sizes": paddle_our_sizes,
    "faster-paddle, tiny": faster_paddle,
    "ours": lambda: ours(SpotterSettings()),
    "ours, OpenVINO": lambda: ours(SpotterSettings(engine="openvino")),
    "ours, OpenVINO f32": lambda: ours(SpotterSettings(engine="openvino", precision="f32")),
    "ours, one look": lambda: ours(SpotterSettings(enlarge_faint=1)),
    "ours, tiny only": lambda: ours(SpotterSettings(reread=None)),
    "ours, small only": lambda: ours(SpotterSettings(model="small")),
    **{f"ours, {effort}": partial(ours, SpotterSettings(effort=effort)) for effort in EFFORTS},
}
REFERENCE = "PaddleOCR defaults, small"
SETTINGS = "PaddleOCR, our sizes"


def measure(name: str, groups: dict[str, list[str]]) -> dict[str, Any]:
    """Run one side of `SIDES` over each group of files. `groups` maps names to paths."""
    cost = {}
    strings = {}
    with SIDES[name]() as side:
        for group, names in groups.items():
            files = [Path(file) for file in names]
            side.read(files[: side.warm])  # the warm-up, before the clock starts
            start = side.clock()  # CPU time of all processes of the side
            strings[group] = side.read(files)
            cost[group] = side.clock() - start
        return {"cpu_s": cost, "rss_mib": side.peak(), "strings": strings}


def run_side(name: str, groups: dict[str, list[Path]]) -> dict[str, Any]:
    """Run `measure` in its own process."""
    said = apart(
        "-m",
        "benchmarks.spotting",
        "--side",
        name,
        given=json.dumps(groups, default=str),
        PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK="True",
    )
    answer: dict[str, Any] = json.loads(said.splitlines()[-1])  # PaddleX prints other lines before
    return answer


def readable(folder: Path) -> list[Path]:
    """Return the image files that OpenCV, and so PaddleOCR by itself, can read."""
    import cv2

    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower().removeprefix(".") in EXTENSIONS
    )
    return [path for path in files if path.stat().st_size and cv2.imread(str(path)) is not None]


def captions_of(files: Sequence[Path]) -> dict[str, list[str]]:
    """Return the captions of each file by its stem, from the manifest next to the folder, or {}
    without a manifest."""
    manifest = files[0].parent.parent / "manifest.tsv"
    captions: dict[str, list[str]] = {}
    if manifest.is_file():
        with manifest.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                captions.setdefault(Path(row["image_path"]).stem, []).append(row["caption"])
    return captions


def decisions(
    files: Sequence[Path], strings: Strings, reference: Strings, rule: OverlapRule
) -> list[bool]:
    """Return whether each (image, caption) would be dropped. `strings` were read in the images. For
    an image without a caption, the `reference` strings serve as the caption."""
    captions = captions_of(files)
    dropped = []
    for file, found, known in zip(files, strings, reference, strict=True):
        own = [" ".join(text for text, score in known if score >= rule.min_score)]
        for caption in captions.get(file.stem, own):
            pairs = [(text, score) for text, score in found]
            dropped.append(overlap(caption, pairs, rule).length >= rule.min_chars)
    return dropped


def report(groups: dict[str, list[Path]], runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table of some groups of the runs. `groups` maps names to files, and `runs` maps a
    side to its runs."""
    files = [file for some in groups.values() for file in some]
    reference = joined(runs[REFERENCE][0]["strings"], groups)
    mixed = {name: [mix_ms(run, groups) for run in side] for name, side in runs.items()}

    def cells(name: str) -> list[str]:
        side = runs[name]
        cost = [
            f"{1e3 * statistics.median(run['cpu_s'][group] for run in side) / len(some):.1f}"
            for group, some in groups.items()
        ]
        equal = []
        for rule in (PAPER, TOLERANT):
            given = decisions(files, joined(side[0]["strings"], groups), reference, rule)
            expected = decisions(files, reference, reference, rule)
            equal.append(
                f"{sum(a == b for a, b in zip(expected, given, strict=True))} of {len(expected)}"
            )
        low, middle, high = ratios(mixed[REFERENCE], mixed[name])
        rate = 1e3 / statistics.median(mixed[name])
        speed = [f"{rate:.1f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        if SETTINGS in runs:
            low, middle, high = ratios(mixed[SETTINGS], mixed[name])
            speed.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        return [name, *cost, *speed, *equal, f"{max(run['rss_mib'] for run in side):.0f}"]

    print(f"\n{', '.join(f'{len(some)} {group}' for group, some in groups.items())}\n")
    costs = (f"ms, {group}" for group in groups)
    ratio = ["ratio", *(["ratio to our sizes"] if SETTINGS in runs else [])]
    head = [
        "side",
        *costs,
        "images/CPU-s of the mix",
        *ratio,
        "equal, plain rule",
        "equal, our rule",
        "MiB",
    ]
    print_table(head, map(cells, runs))


def mix_ms(run: dict[str, Any], groups: dict[str, list[Path]]) -> float:
    """Return the milliseconds per image of one run of a side, if all groups are equally
    frequent."""
    return statistics.mean(1e3 * run["cpu_s"][group] / len(some) for group, some in groups.items())


def joined(strings: dict[str, Strings], groups: dict[str, list[Path]]) -> Strings:
    return [one for group in groups for one in strings[group]]


def split(files: Sequence[Path], side: str = REFERENCE) -> dict[str, list[Path]]:
    """Return the files without and with text, as one side reads it."""
    (strings,) = run_side(side, {"all": list(files)})["strings"].values()
    groups: dict[str, list[Path]] = {"without text": [], "with text": []}
    for file, lines in zip(files, strings, strict=True):
        says = any(score >= 0.8 and sum(map(str.isalpha, text)) >= 3 for text, score in lines)
        groups["with text" if says else "without text"].append(file)
    return groups


def drawn(files: list[Path], count: int) -> list[Path]:
    """Return a random sample of at most `count` files, the same one each time."""
    return sorted(random.Random(7).sample(files, min(count, len(files))))


def resized(files: Sequence[Path], folder: Path, sides: tuple[int, int]) -> list[Path]:
    """Write the images at another size, as `<stem>.jpg`, and return the paths. The longest side of
    each image, in pixels, lies between the two `sides`."""
    rng = random.Random(5)
    written = []
    for file in files:
        image = Image.open(file).convert("RGB")
        scale = rng.randint(*sides) / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        written.append(folder / "images" / f"{file.stem}.jpg")
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        image.resize(size, Image.Resampling.LANCZOS).save(written[-1], "JPEG", quality=85)
    manifest = files[0].parent.parent / "manifest.tsv"
    if manifest.is_file():
        shutil.copy(manifest, folder)
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or the JSON of one side."""
    parser = parser_of("benchmarks.spotting", __doc__)
    parser.add_argument(
        "--images", type=Path, default=SAMPLE, help="folder of images (default: data/sample/images)"
    )
    parser.add_argument(
        "--count", type=int, default=40, help="most images without text, and most with text"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sides", nargs="+", default=installed(), choices=SIDES, help="what to compare"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(measure(options.side, json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory() as folder:
        groups = {
            name: drawn(some, options.count)
            for name, some in split(readable(options.images)).items()
        }
        if not all(groups.values()):
            parser.error(f"{options.images} must hold images with text and images without")
        large, small = (
            {
                f"{name}, {word}": resized(some, Path(folder) / word, sides)
                for name, some in groups.items()
            }
            for word, sides in (("enlarged", (1000, 1600)), ("reduced", (256, 256)))
        )
        runs: dict[str, list[dict[str, Any]]] = {
            name: [] for name in dict.fromkeys([REFERENCE, *options.sides])
        }
        for _ in range(options.repeats):
            for name, done in runs.items():
                done.append(run_side(name, {**groups, **large, **small}))
        precision = SpotterSettings(engine="openvino").resolved().precision
        print(
            f"{options.repeats} runs a side, one thread each, CPU time without loading the"
            f" models\n{processor()}"
        )
        print(f"ONNX Runtime and PaddleOCR in f32, OpenVINO in {precision} unless said otherwise")
        report(groups, runs)
        report(large, runs)
        report(small, runs)


def installed() -> list[str]:
    """Return the sides that are compared by default: PaddleOCR, ours, and faster-paddle and
    OpenVINO if installed."""
    needs = {"faster-paddle, tiny": "faster_paddle", "ours, OpenVINO": "openvino"}
    known = [
        SETTINGS,
        *(name for name, module in needs.items() if find_spec(module)),
        "ours",
        "ours, one look",
    ]
    return [REFERENCE, *known]


if __name__ == "__main__":
    main()
