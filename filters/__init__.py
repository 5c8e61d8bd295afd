"""What a caption or a picture says: pure functions and small classes, free of Beam and torch.

Importing the package asks the numeric libraries for one thread each, unless the environment says otherwise: parallelism
comes from worker processes, and threads of one process cost more than they bring. It has an effect only before NumPy is
first imported, so import this first.
"""

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
