"""Measured comparisons, peers included. Run as modules: `python -m benchmarks.captions`."""

import filters  # noqa: F401  (first: it asks for one thread per process)
