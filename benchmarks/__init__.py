"""Measured comparisons, peers included. Run as modules: `python -m benchmarks.captions`."""

import logging

import filters  # noqa: F401  (first: it asks for one thread per process)

logging.basicConfig(level=logging.ERROR)  # before Beam is imported: it warns about clouds that nobody asked for
