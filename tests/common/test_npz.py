"""Stored arrays are opened by one thread at a time."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from open_diht.common import npz


def test_threads_open_arrays_one_after_the_other(monkeypatch):
    content = io.BytesIO()
    np.savez(content, a=np.arange(3), b=np.ones(2))
    within: list[int] = []
    most: list[int] = []
    load = np.load

    def counted(source):
        within.append(1)
        most.append(len(within))
        return load(source)

    monkeypatch.setattr(np, "load", counted)
    start = threading.Barrier(4)

    def read(_: int) -> int:
        start.wait()
        with npz.opened(io.BytesIO(content.getvalue())) as arrays:
            total = int(arrays["a"].sum() + arrays["b"].sum())
            within.pop()
        return total

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [5] * 4
    assert max(most) == 1
