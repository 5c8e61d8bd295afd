"""What a loader is asked to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from open_diht.common.fields import Above0, Below1, Count, Positive, Share, Total, check_fields


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set."""

    path: str
    """An output folder of `make filter`, a folder of `*.tar`, one tar, a glob, or a numeric brace pattern
    (`.../{00000..00099}.tar`); local or an fsspec URL."""
    weight: Above0 | None = None
    """Expected proportion of the samples of an epoch, relative to the other sources' weights. None for all sources:
    every sample once per epoch. Give all sources a weight, or none."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.path:
            raise ValueError("a data source needs a path")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which samples are held out, by a hash: the same on every machine, whatever else is in the data."""

    holdout: Below1 = 0.0
    """Proportion of the samples that are held out."""
    by: Literal["image", "key"] = "image"
    """image: equal images (bytes) fall on one side, so that no held-out image was trained on with another
    caption; key: by the sample's key alone."""
    part: Literal["train", "holdout", "all"] = "train"
    """train, holdout or all."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.part == "holdout" and self.holdout == 0:
            raise ValueError("data.split.part holdout is empty: set holdout above 0, for example to 0.1")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is read, in which order, and what is tolerated."""

    sources: tuple[Source, ...] = ()
    """The data sets. Give these or `features`."""
    features: str = ""
    """Instead of shards, an `.npz` file, or a folder of them, with captions and what the image tower takes, computed
    once: features of images, or small images. It is held in memory."""
    split: Split = field(default_factory=Split)
    """Training and held-out samples."""
    shuffle: Count = 20_000
    """Window of the bounded shuffle in samples: shards are permuted, then each window of that many consecutive samples
    is. A window touches about shuffle / (samples of a shard) shards. 0: no shuffle at all, the order of the shards."""
    streams: Positive | None = None
    """An epoch's shards are dealt to that many streams, read side by side: a batch has samples of about that many
    stretches of the data. With streams a multiple of the number of ranks each rank reads mostly shards of its own. The
    order depends on it, not on the number of ranks. None: as many as there are shards, rounded down to a power of two,
    at most 64, and no more than the cache has room for where shards are remote; the run keeps the number that it began
    with."""
    skip: tuple[str, ...] = ()
    """File names or paths of shards to leave out. A run that is resumed keeps their places: samples of the
    neighbouring shards stand in for theirs, so that all others come when they would have come."""
    subset: str = ""
    """A local file with the uids of the samples to read, the others are left out: DataComp's `subset.npy`, or a text
    with a uid of 32 hex digits on each line. A sample's uid is the `uid` of its JSON, else its key, up to `-`. How many
    uids are missing in the shards is said. Empty: all samples."""
    captions: Literal["first", "random"] = "first"
    """first: a sample's caption is its `.txt`. random: one of the list `captions_field` of its JSON, another one each
    time, a function of seed, epoch and position; the `.txt` where it has no such list."""
    captions_field: str = "captions"
    """Name of that list of texts."""
    samples_per_epoch: Total | None = None
    """Samples of an epoch over all ranks; None: as many as the sources hold. With weights, or if given, sources are
    cut off or repeated: each goes on in the next epoch where it stopped."""
    drop_last: bool = True
    """True: what does not fill a last global batch is left out (of a shuffled epoch: other samples each time). False:
    the last batch is smaller, split over ranks as evenly as possible; a rank's share may be empty."""
    workers: Count = 2
    """Processes that decode; 0: this process does. The samples do not depend on it."""
    prefetch: Positive = 2
    """Batches that each worker prepares ahead."""
    stall_s: Above0 = 300.0
    """A batch that takes longer than this ends the run, with the state of the workers."""
    max_bad_share: Share = 0.01
    """Above this proportion of bad samples the run ends: of a source when it is indexed, of an epoch over all ranks
    while it is read. Samples of shards that are lost count, and those without concept targets."""
    decode_side: Positive | None = None
    """JPEGs are decoded at a half, a quarter or an eighth of their size as long as both sides stay at or above this,
    which saves most of the time; None: at full size."""
    max_pixels: Positive = 100_000_000
    """Largest accepted image, width x height by its header."""
    index_folder: str | None = None
    """Where the indices of shards are kept; None: beside local shards, else in the cache folder."""
    cache_folder: str | None = None
    """Where remote shards are kept while they are read, and what goes to a remote WORKDIR until it is there (about
    two checkpoints); None: `$XDG_CACHE_HOME/diht` or `~/.cache/diht`."""
    cache_gib: Above0 = 50.0
    """Bound on the bytes of remote shards on disk there, in GiB; the longest unused go first. Shared by all ranks of a
    machine. Two windows of the shuffle, of all streams that the machine reads, must fit: else the run is refused with
    the figure."""

    @property
    def places(self) -> tuple[str, ...]:
        """Where the pairs lie: the path of each source, or that of the features."""
        return (self.features,) if self.features else tuple(source.path for source in self.sources)

    @property
    def cache_bytes(self) -> int:
        """`cache_gib` in bytes."""
        return int(self.cache_gib * 2**30)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.sources and not self.features:
            raise ValueError("data.sources is empty: name at least one folder of shards, or data.features")
        if self.sources and self.features:
            raise ValueError(f"data.features is {self.features}, and data.sources names shards: leave one of them out")
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("some data sources have a weight and some have none: give all of them one, or none")
