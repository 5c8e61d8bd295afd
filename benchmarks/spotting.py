"""Pictures per core-second of our text spotter against PaddleOCR with its default settings, at equal decisions.

    python benchmarks/spotting.py [--pictures DIR] [--repeats 3]

Both sides read the same files on one core with PaddleOCR 3.7, ONNX Runtime and PP-OCRv6 weights. The defaults: full
resolution (`min`, 64), recognition in batches of 6, the small models (the largest at hand). The orientation and
unwarping models are off on both sides: their weights are in no package, and the defaults would be slower with them.

Each run is a process of its own, the sides take turns, and the table has the median. CPU time counts the decoding of
the files and the reading, of all processes and threads of a side; the loading of the models is left out. A decision is
whether the picture's caption overlaps its text. Captions come from `manifest.tsv` beside the folder (columns
image_path, caption); a picture without one is compared with what the defaults read in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rendered_text import photographs, render_onto_photo  # noqa: E402
from common.image_formats import EXTENSIONS  # noqa: E402
from filters.spotting.overlap import PAPER, TOLERANT, OverlapRule, SpottedText, overlap  # noqa: E402
from filters.spotting.spotter import SpotterSettings, Spotting, TextSpotter  # noqa: E402
from filters.spotting.weights import ModelSize, find_models  # noqa: E402

SAMPLE = ROOT / "data" / "sample" / "pictures"
WORDS = "Carlsberg brewery, Wivenhoe Park, no parking at any time, Las Vegas 1998, keep calm, summer sale, Wartburg 353"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Strings = list[list[SpottedText]]


def read_with_defaults(files: Sequence[Path], size: ModelSize) -> dict[str, Any]:
    """PaddleOCR as its documentation starts it, but with local weights and one thread."""
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
    ocr.predict(str(files[0]))  # the first call allocates
    strings: Strings = []
    start = time.process_time()
    for file in files:
        (result,) = ocr.predict(str(file))
        strings.append(list(zip(result["rec_texts"], map(float, result["rec_scores"]), strict=True)))
    return {
        "cpu_s": time.process_time() - start,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "strings": strings,
    }


def read_with_ours(files: Sequence[Path], settings: SpotterSettings) -> dict[str, Any]:
    """TextSpotter as a pipeline uses it: this process, the pipe and the OCR process."""
    with TextSpotter(settings) as spotter:
        list(spotter.spot([files[0].read_bytes()]))
        pid = spotter.pid
        assert pid is not None
        start = time.process_time() + cpu_seconds(pid)
        results = list(spotter.spot(file.read_bytes() for file in files))
        cpu = time.process_time() + cpu_seconds(pid) - start
        if spotter.pid != pid:
            raise RuntimeError("the OCR process was replaced during the run; its CPU time is lost: give fewer pictures")
        peak = peak_rss_mib(pid) + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    strings = [
        [(line.text, line.score) for line in result.spotted] if isinstance(result, Spotting) else []
        for result in results
    ]
    return {"cpu_s": cpu, "rss_mib": peak, "strings": strings}


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mib(pid: int) -> float:
    """Peak resident memory of a running process (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


SIDES = {
    "PaddleOCR defaults, small": lambda files: read_with_defaults(files, "small"),
    "PaddleOCR defaults, tiny": lambda files: read_with_defaults(files, "tiny"),
    "ours": lambda files: read_with_ours(files, SpotterSettings()),
    "ours, tiny only": lambda files: read_with_ours(files, SpotterSettings(reread=None)),
    "ours, small only": lambda files: read_with_ours(files, SpotterSettings(model="small")),
}
REFERENCE = "PaddleOCR defaults, small"


def run_side(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, __file__, "--side", name]
    done = subprocess.run(
        command,
        input="\n".join(map(str, files)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **ONE_THREAD, "PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True"},
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # PaddleX prints before it
    return answer


def readable(folder: Path) -> list[Path]:
    """The picture files that OpenCV, and so PaddleOCR by itself, can read."""
    import cv2

    files = sorted(path for path in folder.iterdir() if path.suffix.lower().removeprefix(".") in EXTENSIONS)
    return [path for path in files if path.stat().st_size and cv2.imread(str(path)) is not None]


def made_pictures(folder: Path) -> list[Path]:
    """Where there is no folder of pictures: photographs without text, and as many with a rendered line."""
    rng = random.Random(3)
    photos = photographs()
    texts = WORDS.split(", ")
    for number in range(40):
        text = texts[number % len(texts)] if number % 2 else ""
        picture = render_onto_photo(text, rng.choice((16, 24, 40)), rng.choice((512, 640, 1000)), rng, photos)
        if picture:
            (folder / f"{number:03}.jpg").write_bytes(picture.data)
    return sorted(folder.iterdir())


def captions_of(files: Sequence[Path]) -> dict[str, list[str]]:
    """File name -> its captions, by the manifest beside the folder; nothing where there is none."""
    manifest = files[0].parent.parent / "manifest.tsv"
    captions: dict[str, list[str]] = {}
    if manifest.is_file():
        with manifest.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                captions.setdefault(Path(row["image_path"]).name, []).append(row["caption"])
    return captions


def decisions(files: Sequence[Path], strings: Strings, reference: Strings, rule: OverlapRule) -> list[bool]:
    """Whether each (picture, caption) would be dropped."""
    captions = captions_of(files)
    dropped = []
    for file, found, known in zip(files, strings, reference, strict=True):
        own = [" ".join(text for text, score in known if score >= rule.min_score)]
        for caption in captions.get(file.name, own):
            pairs = [(text, score) for text, score in found]
            dropped.append(overlap(caption, pairs, rule).length >= rule.min_chars)
    return dropped


def report(files: Sequence[Path], runs: dict[str, list[dict[str, Any]]]) -> None:
    reference = runs[REFERENCE][0]["strings"]
    cost = {name: statistics.median(run["cpu_s"] for run in side) for name, side in runs.items()}
    print(
        f"\n{len(files)} pictures, {len(runs[REFERENCE])} runs a side, one core, CPU time without loading the models\n"
    )
    print("| side | pictures per core-second | ratio | equal, plain rule | equal, our rule | peak RSS |")
    print("|---|---|---|---|---|---|")
    for name, side in runs.items():
        equal = []
        for rule in (PAPER, TOLERANT):
            expected, given = (
                decisions(files, strings, reference, rule) for strings in (reference, side[0]["strings"])
            )
            same = sum(a == b for a, b in zip(expected, given, strict=True))
            equal.append(f"{same} of {len(expected)} ({sum(given)} dropped)")
        memory = max(run["rss_mib"] for run in side)
        ratio = cost[REFERENCE] / cost[name]
        print(f"| {name} | {len(files) / cost[name]:.1f} | {ratio:.2f} | {equal[0]} | {equal[1]} | {memory:.0f} MiB |")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictures", type=Path, help="folder of pictures (default: data/sample/pictures, else made ones)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=[REFERENCE, "ours"], choices=SIDES, help="what to compare")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        files = [Path(line) for line in sys.stdin.read().splitlines()]
        print(json.dumps(SIDES[options.side](files)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.pictures or SAMPLE.is_dir():
            files = readable(options.pictures or SAMPLE)
        else:
            files = made_pictures(Path(folder))
        if not files:
            print(f"no readable pictures in {options.pictures}", file=sys.stderr)
            return 2
        names = list(dict.fromkeys([REFERENCE, *options.sides]))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(options.repeats):
            for name in names:
                runs[name].append(run_side(name, files))
        report(files, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
