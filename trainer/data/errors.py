"""Errors of training data. Each has one message, so that it survives the way out of a worker."""

from __future__ import annotations

import zipfile
from enum import StrEnum

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import Defect
from open_diht.trainer.errors import TrainingError

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""Errors of NumPy for files whose arrays are damaged or missing."""


class Kind(StrEnum):
    """How a sample or shard is bad. The closed list of what `ShardLoader.counts` counts, besides `ok`."""

    MISSING_SHARD = "missing_shard"  # a shard that is not there, or is left out by data.skip in the middle of a run
    EMPTY_TAR = Defect.EMPTY_TAR
    TRUNCATED_TAR = Defect.TRUNCATED_TAR
    NOT_A_TAR = Defect.NOT_A_TAR
    DUPLICATE_KEY = Defect.DUPLICATE_KEY
    MISSING_IMAGE = Defect.MISSING_IMAGE
    MISSING_CAPTION = Defect.MISSING_CAPTION
    UNDECODABLE_IMAGE = "undecodable_image"  # bytes that do not become pixels
    MISSING_CONCEPTS = "missing_concepts"  # its shard has no file of concept targets


class DataError(TrainingError):
    """Training data cannot be used as asked; the message names shard, key and remedy where there are any."""


class BadSource(DataError, WrongUse):
    """A source names no shards, shards in a form that cannot be read, or not those that the run began with."""


class ShardMismatch(DataError):
    """Shards differ from what their manifest, or the run's index, says about them."""


class ConceptMismatch(DataError, WrongUse):
    """Concept targets do not belong to the samples they are joined to."""


class TooManyBad(DataError):
    """More bad samples than `max_bad_share` allows."""


class ShardUnavailable(DataError):
    """A shard could not be opened or fetched."""


class ShardLost(ShardUnavailable):
    """A shard is not where it was: its samples are replaced, as far as `max_bad_share` allows."""


class LoaderStalled(DataError):
    """A worker has not answered within `stall_s`; the message holds what every worker was doing."""
