"""Errors of the evaluation, by cause. A message names the value and the place, and often the
remedy."""

from open_diht.common.command_line import WrongUse

__all__ = ["DataBroken", "DataMissing", "EvalError", "FetchFailed", "ModelError", "WrongUse"]


class EvalError(Exception):
    """Base of the evaluation's errors. The command line prints one that it does not handle, with
    exit status 1."""


class ModelError(EvalError):
    """The model cannot be loaded, or its features are unusable, such as NaN."""


class DataMissing(EvalError):
    """The data set of a task is not available. The task gets a row without a number; the run
    continues."""


class DataBroken(EvalError):
    """Data is available but unusable: a shard, label or image of a data set, or a stored result."""


class FetchFailed(EvalError):
    """Data could not be downloaded, unpacked or converted. Complete files in the data folder are
    kept."""
