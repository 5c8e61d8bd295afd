"""Errors of the evaluation, by cause. Every message names the value, the place and the remedy."""

from __future__ import annotations

from open_diht.common.command_line import WrongUse

__all__ = ["DataBroken", "DataMissing", "EvalError", "FetchFailed", "ModelError", "WrongUse"]


class EvalError(Exception):
    """Base of the errors that the command line prints as one line and ends with status 1."""


class ModelError(EvalError):
    """The model cannot be loaded, or its features contain NaN or infinity."""


class DataMissing(EvalError):
    """The data set of a task is not available. The task gets a row without a number; the run does not fail."""


class DataBroken(EvalError):
    """The data set is available but violates its layout: a shard, a label or an image is unusable."""


class FetchFailed(EvalError):
    """A download failed. Complete files are kept; run the same command to resume."""
