"""Errors that end a training, and those that damaged files raise. The only argument of ours is the
message, so that workers can pickle them."""

import zipfile
import zlib

from open_diht.common.command_line import WrongUse

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
"""Most errors that NumPy raises for files whose arrays are damaged or missing."""


class TrainingError(RuntimeError):
    """A run cannot continue (exit status 1, or 2 for an error that is also a `WrongUse`)."""


class DataError(TrainingError):
    """Training data cannot be used as configured."""


class ConceptMismatch(DataError, WrongUse):
    """Targets of a teacher are missing or damaged, or do not fit the samples, the settings or each
    other."""
