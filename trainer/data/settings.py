"""The settings of a loader: sources, order, limits and caches."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from open_diht.common.fields import (
    Above0,
    Below1,
    Count,
    Positive,
    Share,
    Total,
    check_fields,
    converted,
)

TXT = "caption"
"""Name of a sample's `.txt` among the captions to draw from. Other names are fields of its JSON."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set to read."""

    path: str
    """An output folder of `make filter`, a folder of `*.tar`, one tar, a glob, or a numeric brace
    pattern (`.../{00000..00099}.tar`); local or an fsspec URL."""
    weight: Above0 | None = None
    """Weight of the source: an epoch takes samples of the sources in proportion to their weights.
    None: in proportion to their sizes. Give all sources a weight, or none."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.path:
            raise ValueError("a data source needs a path")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The held-out samples, chosen by a hash: the same on every machine, independent of the other
    samples."""

    holdout: Below1 = 0.0
    """Fraction of the samples that is held out."""
    by: Literal["image", "key"] = "image"
    """Input of the hash. image: the image's bytes, so that no held-out image is also trained on
    with another caption. key: the sample's key."""
    part: Literal["train", "holdout", "all"] = "train"
    """The part to read. A training reads `train` by default, and its checks then read `holdout`."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.part == "holdout" and self.holdout == 0:
            raise ValueError(
                "data.split.part holdout is empty: set holdout above 0, for example to 0.1"
            )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which data are read, in which order, and how many bad samples are tolerated."""

    sources: tuple[Source, ...] = ()
    """The data sets to read. Set either these or `loader`."""
    loader: str = ""
    """Import path, `package.module:Class`, of a loader of your own that is used instead of the
    loader of shards ([guide](../extend/tower.md))."""
    path: str = ""
    """Data of `loader`, in a form that the loader defines."""
    split: Split = field(default_factory=Split)
    """The split into training and held-out samples."""
    shuffle: Count = 20_000
    """Window of the bounded shuffle of shards, in samples. The shards are permuted, then the
    samples within each window of this many consecutive ones. A window touches about shuffle /
    (samples per shard) shards. 0: no shuffle; samples come in the order of the shards."""
    streams: Positive | None = None
    """Number of equal ranges of the permuted data that are read in parallel, so that a batch mixes
    samples of about this many ranges. If it is a multiple of the number of ranks, each rank reads
    mostly its own shards. The order of samples depends on this number, not on the number of ranks.
    None: the number of shards of the source with most shards, rounded down to a power of two, at
    most 64, and for remote shards at most as many as fit in the cache. Without a shuffle it is 1. A
    resumed run keeps its number."""
    skip: tuple[str, ...] = ()
    """File names or paths of shards to leave out. A resumed run that began with them takes only
    file names. Samples of the shards after them fill their places in the order, so that all other
    samples keep their places."""
    subset: str = ""
    """Local file with the uids of the samples to read from shards: DataComp's `subset.npy`, or a
    text file with one uid of 32 hex digits per line. A sample's uid is the `uid` of its JSON, or
    else the UID of a key `UID` or `UID-NUMBER`. The run reports how many uids are missing from the
    shards. Empty: all samples."""
    selection: str = ""
    """Uids with repeats, instead of `subset`: a folder of `make select`, its `selection.npy` or
    `selection.parquet`, or another file whose uids occur as often as an epoch reads their samples.
    A held-out part is read once. Empty: no selection."""
    captions: Mapping[str, Any] | Literal["first", "random"] = "first"
    """first: a sample's caption is its `.txt`. random: a caption drawn from the list
    `captions_field` of its JSON, as a function of seed, epoch and position; the `.txt` if it has no
    such list. Probabilities that sum to 1, such as `{caption: 0.5, synthetic: 0.5}`, draw the
    `.txt` (`caption`) or a field of the JSON, which holds a text or a list of texts. A shard
    without the field is refused. A sample without it keeps its `.txt` and counts as bad."""
    captions_field: str = "captions"
    """Name of the list of captions in a sample's JSON, for `captions: random`."""
    negatives: str = ""
    """Field of a sample's JSON with a caption that is wrong for its image, or a list of which one
    is drawn. Each image then also has the wrong captions of the whole batch as negatives, which
    costs the text tower a second text per sample (NegCLIP). Samples without one are counted; a
    shard without any is refused. Empty: none."""
    samples_per_epoch: Total | None = None
    """Samples per epoch over all ranks. None: as many as one pass over the sources reads. With this
    or with weights an epoch may take only part of a source, or repeat it; the next epoch continues
    where this one stopped."""
    drop_last: bool = True
    """True, which training requires: leave out the samples that do not fill a last global batch. In
    a shuffled epoch these differ each time; with a selection the next epoch begins with them.
    False: make a smaller last batch, split over ranks as evenly as possible; a rank's part may be
    empty."""
    workers: Count = 2
    """Processes of each rank that read and decode. 0: the training process does. This number
    changes no sample."""
    prefetch: Positive = 2
    """Batches that each worker prepares in advance."""
    stall_s: Above0 = 300.0
    """Seconds to wait for a batch of the workers before the run ends with an error that reports
    their state."""
    max_bad_share: Share = 0.01
    """Largest tolerated fraction of bad samples: of a source when it is indexed, and of an epoch,
    over all ranks, while it is read. More end the run. Samples of missing shards and of shards
    without concept targets count as bad."""
    decode_side: Positive | None = None
    """Smallest side, in pixels, to which JPEGs may be reduced while decoding. They are decoded at a
    half, a quarter or an eighth of their size if both sides stay at or above it, which saves most
    of the time. None: full size."""
    max_pixels: Positive = 100_000_000
    """Largest accepted image, in pixels (width x height, from its header). Pillow opens none above
    178,956,970."""
    index_folder: str | None = None
    """Folder for the indexes of shards. None: next to local shards if their folder is writable and
    `make filter` gives no `index/`, otherwise `index` in `cache_folder`."""
    cache_folder: str | None = None
    """Folder for remote shards while they are read, for indexes (see `index_folder`), and for files
    on their way to a remote WORKDIR (about two checkpoints). None: `$XDG_CACHE_HOME/diht` or
    `~/.cache/diht`."""
    cache_gib: Above0 = 50.0
    """Largest size of the cache of remote shards, in GiB, for all ranks of a machine together. The
    least recently used shards are dropped first. The cache must hold two windows of the shuffle of
    every stream that the machine reads; if it cannot, the run is refused and the error states the
    size needed."""

    @property
    def places(self) -> tuple[str, ...]:
        """The path of each source, or the path of `loader`."""
        return (self.path,) if self.loader else tuple(source.path for source in self.sources)

    @property
    def drawn(self) -> tuple[str, ...]:
        """The fields of the JSON of samples that captions are drawn from by probabilities, in the
        order of their names."""
        given = {} if isinstance(self.captions, str) else self.captions
        return tuple(
            sorted(name for name, probability in given.items() if probability and name != TXT)
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the JSON of samples must have, in the order of their names."""
        return tuple(sorted({*self.drawn, *filter(None, [self.negatives])}))

    @property
    def chosen_by(self) -> str:
        """The setting and the file that choose samples, for messages. It is empty if all samples
        are read."""
        return next(
            (
                f"data.{name} {path}"
                for name in ("subset", "selection")
                if (path := getattr(self, name))
            ),
            "",
        )

    @property
    def cache_bytes(self) -> int:
        """`cache_gib` in bytes."""
        return int(self.cache_gib * 2**30)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sources and not self.loader:
            raise ValueError(
                "data.sources is empty: name at least one folder of shards, or data.loader"
            )
        if not isinstance(self.captions, str):
            total = sum(converted(Mapping[str, Share], self.captions, "data.captions").values())
            if not math.isclose(total, 1, abs_tol=1e-6):
                raise ValueError(
                    f"the probabilities of data.captions sum to {total:g}; they must sum to 1"
                )
        if self.selection and self.subset:
            raise ValueError(
                "data.selection chooses samples of shards by itself: leave it or data.subset out"
            )
        if self.loader:
            of_shards = {
                name: getattr(self, name)
                for name in ("sources", "subset", "selection", "skip", "negatives")
            }
            of_shards["captions"] = self.captions != "first"
            if name := next((name for name, given in of_shards.items() if given), None):
                raise ValueError(f"data.{name} applies to shards only: leave it or data.loader out")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError(
                "some data sources have a weight and some have none: give all of them one, or none"
            )
