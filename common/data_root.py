"""Where data lies that is fetched once for all runs: the evaluation's sets, and the reference encoder."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "DIHT_BENCH_DATA"
REFERENCE = "reference"
"""The offline reference encoder, as people name it; also its folder there."""
REFERENCE_IMAGES = "efficientnet-lite0-57934424.pth"
"""The weights of its image tower, in that folder."""
REFERENCE_TEXTS = "minilm"
"""The folder of its text tower, in that folder."""


def data_root(folder: Path | str | None = None) -> Path:
    """Where evaluation data lies: `folder`, else $DIHT_BENCH_DATA, else `~/.cache/diht/bench`."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(folder or os.environ.get(VARIABLE) or Path(cache) / "diht" / "bench").expanduser()
