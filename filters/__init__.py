"""What a caption or an image says: pure functions and small classes, free of Beam and torch.

Importing the package changes nothing in the process. Its arrays are small: one thread of the numeric libraries is
enough (`OMP_NUM_THREADS=1`), and `pipelines`, whose parallelism is worker processes, asks for it.
"""
