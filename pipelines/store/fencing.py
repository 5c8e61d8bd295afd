"""The lock under which this process works in an output folder. All that publishes or removes files there first checks
that the lock is not lost.

A driver that was paused or cut off from an object store may have lost its lease to another run, and so have its workers
on this and other machines. Each process therefore knows the `Fence` of the run that it works for. A file lock cannot be
lost; its fence is only a token, which tells the records of one run, or of shards that work together, from all others.
"""

from __future__ import annotations

from open_diht.common.lease import Fence
from open_diht.pipelines.store.storage import StorePath, is_local

_fences: dict[str, Fence] = {}
"""Fences by output folder."""


def set_fence(root: StorePath, fence: Fence | None) -> None:
    """Set the fence of an output folder for this process; None: there is no lock, as for programs that only read."""
    if fence is None:
        _fences.pop(str(root), None)
    else:
        _fences[str(root)] = fence


def fence_of(root: StorePath) -> Fence | None:
    """Return the fence of an output folder."""
    return _fences.get(str(root))


def token_of(root: StorePath) -> int:
    """Return the fencing token of this process's run, 0 without a lock."""
    fence = fence_of(root)
    return fence.token if fence is not None else 0


def check_fence(path: StorePath) -> None:
    """Raise LeaseLost if a file is in an output folder in a store that another run has taken."""
    if is_local(path):
        return
    for root, fence in list(_fences.items()):  # another thread may begin to work in a folder meanwhile
        if str(path).startswith(f"{root.rstrip('/')}/"):
            fence.check()
