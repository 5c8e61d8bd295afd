"""What can go wrong, by whose fault. Every message names the value, the place and the remedy."""

from __future__ import annotations

from open_diht.common.command_line import WrongUse

__all__ = ["DataBroken", "DataMissing", "EvalError", "FetchFailed", "ModelError", "WrongUse"]


class EvalError(Exception):
    """Base of the errors that the command line prints as one line and ends with status 1."""


class ModelError(EvalError):
    """The model cannot be loaded, or gives features that are no numbers."""


class DataMissing(EvalError):
    """The data set of a task is not at hand; becomes a row of the results, never a failure of the run."""


class DataBroken(EvalError):
    """The data set is at hand and not what its layout promises: a shard, a label or an image."""


class FetchFailed(EvalError):
    """A download did not work; what was complete stays, and the same command goes on from there."""
