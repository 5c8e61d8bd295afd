"""The folder of data that is downloaded once for all runs: evaluation sets, weights and the
reference encoder."""

import os
from pathlib import Path

VARIABLE = "DIHT_BENCH_DATA"
REFERENCE = "reference"
"""Name of the offline reference encoder, and of its folder in the data root."""
REFERENCE_IMAGES = "efficientnet-lite0-57934424.pth"
"""File name of the image tower's weights in the folder `REFERENCE`."""
REFERENCE_TEXTS = "minilm"
"""Name of the text tower's folder in the folder `REFERENCE`."""


def data_root(folder: Path | str | None = None) -> Path:
    """Return `folder` if given. Otherwise return the folder of evaluation data: $DIHT_BENCH_DATA,
    or `diht/bench` in $XDG_CACHE_HOME, or `diht/bench` in `~/.cache`. An empty variable counts as
    unset."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(folder or os.environ.get(VARIABLE) or Path(cache) / "diht" / "bench").expanduser()
