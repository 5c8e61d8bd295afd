"""Getting evaluation data and weights: the only part of the evaluation that talks to a network."""

import os

# `open_diht.eval.models` forbids the hub's client any download; here it is the purpose. The client reads this when
# imported.
os.environ.setdefault("HF_HUB_OFFLINE", "0")
