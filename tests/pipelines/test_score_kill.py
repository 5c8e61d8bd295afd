"""Killed in every pass of stage score and started again, a run ends as if nothing had happened, with two workers as
with one."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.forks import Forks
from tests.pipelines.kills import killed_in_every_pass

for module in ("torch", "open_clip"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")

from tests.tiny_clip import write_tiny  # noqa: E402

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
PASSES = ("score", "score_rows", "score_batches", "neg_clip_loss", "score_thresholds")
PRESET = """
base: paper
score: {keep: 0.8, negatives: {keep: 0.7, batch_size: 10, batches: 3}}
"""


def _manifest(path: Path) -> Path:
    images = [file.read_bytes() for file in sorted(SAMPLE.glob("00[0-4]*.jpg"))]
    captions = [f"A brown dog runs on the beach {n}" for n in range(len(images))]
    urls = [f"https://example.org/{n}" for n in range(len(images))]
    table = {"n": range(len(images)), "url": urls, "caption": captions, "image": pa.array(images, pa.binary())}
    pq.write_table(pa.table(table), path, row_group_size=10)
    return path


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_every_pass_and_started_again_equals_undisturbed(tmp_path: Path, forks: Forks) -> None:
    manifest, model = _manifest(tmp_path / "a.parquet"), write_tiny(tmp_path / "tiny")
    (tmp_path / "mine.yaml").write_text(PRESET)
    asked = ("--preset", str(tmp_path / "mine.yaml"), "--stages", "score,dedup", "--score-device", "cpu")
    options = (*asked, "--score-model", f"local-dir:{model}", "--score-batch", "8")
    reasons = killed_in_every_pass(tmp_path, forks, manifest, options, PASSES, hits=3, calm=1)
    assert reasons == {"clip_score", "neg_clip_loss"}
