"""What a caption or an image says: pure functions and small classes, free of Beam and torch.

Importing the package changes nothing in the process. Its arrays are small: one thread of the numeric libraries is
enough (`OMP_NUM_THREADS=1`), and the commands and workers of `pipelines`, whose parallelism is worker processes, set
that.
"""
