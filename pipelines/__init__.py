"""Who is asked, where, and what is kept: Beam over manifests. Asks `filters`; only `concepts` needs torch, and nothing
imports the trainer."""

import os

# Parallelism comes from worker processes, which inherit this; threads of one process cost more than they bring. It has
# an effect only before NumPy is imported, so it stands here.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
