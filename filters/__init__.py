"""Filters for captions and images, which need neither Beam nor torch.

Importing the package changes nothing in the process. Its arrays are small, so one thread of the
numeric libraries is enough: the commands of `pipelines`, and the workers that they start, set
`OMP_NUM_THREADS=1` unless the user has set it. On a cluster that you start yourself, and in your
own image or program, set it yourself.
"""
