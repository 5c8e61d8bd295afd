"""Errors of training data. Their only argument is the message, so that workers can pickle them."""

from enum import StrEnum

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import Defect
from open_diht.trainer.errors import DataError


class Kind(StrEnum):
    """A kind of bad sample or shard. `ShardLoader.counts` uses these keys and `ok`, and no
    others."""

    # a shard that is missing, or that data.skip leaves out of a run that began with it
    MISSING_SHARD = "missing_shard"
    EMPTY_TAR = Defect.EMPTY_TAR
    TRUNCATED_TAR = Defect.TRUNCATED_TAR
    NOT_A_TAR = Defect.NOT_A_TAR
    DUPLICATE_KEY = Defect.DUPLICATE_KEY
    MISSING_IMAGE = Defect.MISSING_IMAGE
    MISSING_CAPTION = Defect.MISSING_CAPTION
    UNDECODABLE_IMAGE = "undecodable_image"  # bytes that cannot be decoded
    MISSING_FIELD = (  # a sample whose JSON lacks the field that its caption was to be drawn from
        "missing_field"
    )
    MISSING_CONCEPTS = "missing_concepts"  # a sample whose shard has no file of concept targets


class BadSource(DataError, WrongUse):
    """The data or their settings are wrong: a source has no shards, for example, or others than the
    run began with."""


class ShardMismatch(DataError):
    """Shards differ from their manifest or from the run's index, or a manifest or index cannot be
    read."""


class TooManyBad(DataError):
    """There are more bad samples than `max_bad_share` allows, or no sample can replace a bad
    one."""


class ShardUnavailable(DataError):
    """A shard could not be opened or fetched."""


class ShardLost(ShardUnavailable):
    """A shard is missing. Its samples are replaced, as far as `max_bad_share` allows."""


class LoaderStalled(DataError):
    """A worker did not answer within `stall_s`. The message states what every worker was doing."""
