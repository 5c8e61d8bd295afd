"""Measurements. Those next to peers are parts of `benchmarks.figures`; run the others as modules:
`python -m benchmarks.people`."""

import logging
import os

from open_diht.common.run_command import ONE_THREAD

for _variable, _value in ONE_THREAD.items():  # before NumPy is imported
    os.environ.setdefault(_variable, _value)
# Before Beam is imported: it warns about clouds that are not used.
logging.basicConfig(level=logging.ERROR)
