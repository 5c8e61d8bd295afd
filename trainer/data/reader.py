"""Make batches from shards, in the workers if any: read, decode, and join targets. No position is
kept."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import resource
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from open_diht.common.crops import middle
from open_diht.common.images import (
    BadImage,
    BadImageReason,
    ImageLimits,
    decoding,
    open_image,
    to_rgb,
)
from open_diht.common.shard_index import ShardIndex, caption_hash
from open_diht.common.spelling import spelled_option
from open_diht.common.stores import is_remote
from open_diht.trainer.data.batch import Batch, Negatives
from open_diht.trainer.data.errors import BadSource, Kind, ShardLost, ShardMismatch, TooManyBad
from open_diht.trainer.data.order import EpochOrder, RankBatches
from open_diht.trainer.data.settings import TXT, DataSettings
from open_diht.trainer.data.shards import (
    OpenSource,
    Shard,
    load,
    rows_to_read,
    shards_in_use,
    store_of,
)
from open_diht.trainer.data.subset import Subset
from open_diht.trainer.draws import mixed
from open_diht.trainer.errors import ConceptMismatch

if TYPE_CHECKING:
    from open_diht.trainer.concepts.targets import ConceptTargets, ShardTargets, StoredTargets
    from open_diht.trainer.embeddings.targets import EmbeddingTargets, ShardEmbeddings

# Shards that a worker keeps open if it may, with indexes in memory (1.7 MB for 10,000 samples)
_OPEN_SHARDS = 256
# Shards that are tried for a sample, its own first, and samples of each. If one in a hundred is
# bad, as `data.max_bad_share` allows by default, all 32 fail only where something else is wrong.
_NEIGHBORS = 4
_TRIES = 8
_LOOKED_AT = 1000
"""Samples of a shard whose targets are read before the first step. A sample of DataCompDR takes 0.1
MB."""
# They separate the random numbers of captions, of fields and of stored crops from others with the
# same seed.
_CAPTIONS = 0x6361_7074_696F_6E73
_FIELDS = 0x6669_656C_6473
_CROPS = 0x6372_6F70

Transform = Callable[[Image.Image], Tensor]
Tokenizer = Callable[[list[str]], Tensor]
_Caption = tuple[str, int]  # with its hash


class UndecodableImage(ValueError):
    """The bytes cannot be decoded."""


def decode(content: bytes, max_pixels: int, decode_side: int | None = None) -> Image.Image:
    """Decode an image from untrusted bytes as the filters and teachers do, see `to_rgb`. Raises
    `UndecodableImage`. `decode_side` is the smallest side, in pixels, to which a JPEG may be
    reduced by a half, a quarter or an eighth.
    """
    try:
        opened = open_image(content, ImageLimits(max_pixels=max_pixels))
        image = opened.decode(at_least=None if decode_side is None else (decode_side, decode_side))
        with decoding(f"pixels of mode {image.mode}"):
            return opened.upright(to_rgb(image))
    except BadImage as error:
        too_many = error.reason is BadImageReason.TOO_MANY_PIXELS
        setting = (
            "; data.max_pixels sets the limit of width x height, up to Pillow's limit"
            if too_many
            else ""
        )
        raise UndecodableImage(f"{error}{setting}") from error


class Images:
    """The images of a batch in one tensor, with the shape, type and memory layout of the first
    image. Each image is copied while it is still in the processor's cache. A worker puts the tensor
    into shared memory, which the training's process reads without another copy, unless a GPU needs
    one."""

    def __init__(self, n: int):
        self._n = n
        self._filled = 0
        self.tensor: Tensor | None = None
        """(n, channels, height, width). It is None before the first image."""

    def add(self, image: Tensor) -> None:
        """Copy the next image (channels, height, width) into the tensor. Raises ValueError if shape
        or type differ."""
        if self.tensor is None:
            self.tensor = _room(self._n, image)
        if image.shape != self.tensor.shape[1:] or image.dtype != self.tensor.dtype:
            raise ValueError(
                f"the transform gave {tuple(image.shape)} {image.dtype} after"
                f" {tuple(self.tensor.shape[1:])} {self.tensor.dtype}; images of a batch must be"
                " alike"
            )
        self.tensor[self._filled] = image
        self._filled += 1


def _room(n: int, like: Tensor) -> Tensor:
    """Return an empty tensor for n contiguous images with the memory layout of `like`, such as
    channels last."""
    size = (n, *like.shape)
    strides = (like.numel(), *torch.empty_like(like).stride())
    if get_worker_info() is None:
        return torch.empty_strided(size, strides, dtype=like.dtype)
    # torch's own collation does so too.
    storage = torch.UntypedStorage._new_shared(n * like.numel() * like.element_size())
    return like.new_empty(0).set_(storage, 0, size, strides)  # type: ignore[call-overload]


def drawn_field(probabilities: Mapping[str, float], seed: int) -> str:
    """Draw a name. The order of the names in `probabilities` does not matter."""
    left = mixed(seed ^ _FIELDS) / 2**63
    names = sorted(name for name, probability in probabilities.items() if probability)
    for name in names:
        left -= probabilities[name]
        if left < 0:
            return name
    return names[-1]  # the probabilities sum to 1 up to rounding


def drawn_caption(
    content: bytes, field: str, seed: int, *, single: bool = False
) -> tuple[str, int] | None:
    """Draw one of an image's captions and return it with its hash. Return None if the JSON has no
    list with a text. A `single` text also counts as a list."""
    try:
        found = json.loads(content)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if single and isinstance(found, str):
        found = [found]
    if not isinstance(found, list):
        return None
    texts = [text.strip() for text in found if isinstance(text, str) and text.strip()]
    if not texts:
        return None
    text = texts[mixed(seed ^ _CAPTIONS) % len(texts)]
    return text, caption_hash(text.encode("utf-8", "replace"))


class Bad(NamedTuple):
    """A sample that was replaced, or that has no concept targets or lacks the field of its
    caption."""

    kind: str
    message: str


@dataclass
class _Opened:
    """A shard in use."""

    place: tuple[int, int]
    """Numbers of the source and of the shard in it."""
    shard: Shard
    descriptor: int | None
    """File descriptor of a local tar. None for a remote tar, because the cache could not free an
    open file."""
    index: ShardIndex
    rows: npt.NDArray[np.int64]
    """Rows of the index to read, see `rows_to_read`."""
    concepts: ShardTargets | None
    concept_rows: npt.NDArray[np.int64] | None
    """Row in `concepts` for each row of the index."""
    embeddings: ShardEmbeddings | None
    embedding_rows: npt.NDArray[np.int64] | None
    """Row in `embeddings` for each row of the index, or -1."""

    def embedding_row(self, place: int) -> int:
        """Return the row in `embeddings` of a row of the index. Return -1 if there is none."""
        return -1 if self.embedding_rows is None else int(self.embedding_rows[place])

    def close(self) -> None:
        """Close the tar, if it is open."""
        if self.descriptor is not None:
            os.close(self.descriptor)


class _Sample(NamedTuple):
    opened: _Opened
    row: int
    caption: str
    caption_hash: int
    name: str
    """Name of the caption: that of the `.txt`, or the field of the JSON that it was drawn from."""
    crop: int
    """Number of the stored crop of the image."""
    negative: _Caption | None

    @property
    def key(self) -> str:
        return self.opened.index.keys[self.row]


class Reader:
    """A maker of batches by position. `batch(e, t)` does not depend on earlier calls, unless a
    shard disappears."""

    def __init__(
        self,
        settings: DataSettings,
        sources: Sequence[OpenSource],
        concepts: Sequence[ConceptTargets | None],
        order: EpochOrder,
        part: RankBatches,
        *,
        transform: Transform,
        tokenizer: Tokenizer,
        subset: Subset | None = None,
        embeddings: Sequence[EmbeddingTargets | None] = (),
        view: tuple[int, Transform] | None = None,
    ):
        self._subset = subset
        self._view = view
        self._embeddings = embeddings or [None] * len(sources)
        self._dimension, self._columns = columns_of(self._embeddings, settings)
        self._settings = settings
        self._sources = sources
        self._concepts = concepts
        self._order = order
        self._part = part
        self._transform = transform
        self._tokenizer = tokenizer
        self._heads = next((list(known.heads) for known in concepts if known), [])
        self._k = next((known.k for known in concepts if known), 0)
        self._store = store_of(settings)
        self._most_open = _most_open(
            settings, sources, part.world, 2 if any(self._embeddings) else 1
        )
        self._opened: OrderedDict[tuple[int, int], _Opened] = OrderedDict()
        self._lost: dict[tuple[int, int], ShardLost] = {}  # shards that turned out to be missing
        self._there = [
            [
                number
                for number, shard in enumerate(source.shards)
                if shard.samples and not shard.left_out
            ]
            for source in sources
        ]
        self._owner = os.getpid()
        self.state: Callable[[str], None] = lambda text: None

    def batch(self, epoch: int, number: int) -> tuple[Batch, list[Bad]]:
        """Return this rank's part of a batch, and the bad samples met on the way. Raises the errors
        of `Loader.epoch`."""
        bad: list[Bad] = []
        sources, shards, rows, positions = (each.tolist() for each in self._slice(epoch, number))
        samples = []
        images = Images(len(positions))
        with _own_random_state():
            for source, shard, row, position in zip(sources, shards, rows, positions, strict=True):
                seed = mixed(mixed(mixed(self._part.seed) ^ epoch) ^ position)
                sample, image = self._sample(source, shard, row, seed, bad)
                samples.append(sample)
                images.add(image)
        self.state(f"batch {number} of epoch {epoch}: collating")
        return (
            self._collate(samples, images.tensor) if images.tensor is not None else self._empty()
        ), bad

    def remote_shards(self, epoch: int, number: int) -> set[tuple[int, int]]:
        """Return the numbers (source, shard) of remote shards in this rank's part of a batch,
        before replacements."""
        sources, shards, _, _ = self._slice(epoch, number)
        return {
            (source, shard)
            for source, shard in zip(sources.tolist(), shards.tolist(), strict=True)
            if is_remote(self._sources[source].shards[shard].file.url)
            and not self._sources[source].shards[shard].left_out
        }

    def clone(self) -> Reader:
        """Return a copy for another thread, with its own order."""
        other = copy.copy(self)
        other._order = copy.deepcopy(self._order)
        return other

    def fetch(self, source: int, shard: int) -> None:
        """Fetch a remote shard into the cache."""
        self._store.fetch(self._sources[source].shards[shard].file)

    @property
    def reads_remote(self) -> bool:
        """True if any shard is remote."""
        return any(is_remote(shard.file.url) for source in self._sources for shard in source.shards)

    @property
    def window_batches(self) -> int:
        """Number of batches that use up one window of every stream, if there is one source."""
        return -(-self._settings.shuffle * (self._settings.streams or 1) // self._part.whole)

    def _slice(self, epoch: int, number: int) -> list[npt.NDArray[np.int64]]:
        first, last, mine = self._part.rows(number, self._order.samples)
        return [each[mine] for each in self._order.batch(epoch, first, last)]

    def _sample(
        self, source: int, shard: int, row: int, seed: int, bad: list[Bad]
    ) -> tuple[_Sample, Tensor]:
        """Return a sample and its image, or a replacement if the image is bad or the shard is
        missing. A bad sample is counted only at its own position, not where it fails as a
        replacement."""
        failed: Bad | None = None
        for opened, place, itself in self._candidates(source, shard, row, seed, bad):
            self.state(f"{opened.shard.file.url}: {opened.index.keys[place]}")
            try:
                image, caption, negative = self._read(opened, place, seed, bad)
                break
            except ShardLost as error:  # dropped from the cache, and gone from its source
                self._lost[opened.place] = error
                failed = Bad(Kind.MISSING_SHARD, str(error))
            except UndecodableImage as error:
                key = opened.index.keys[place]
                failed = Bad(
                    Kind.UNDECODABLE_IMAGE, f"shard {opened.shard.file.url}, key {key}: {error}"
                )
            if itself:
                bad.append(failed)
        else:
            lost = self._lost.get((source, shard))
            if lost is not None:
                raise lost
            url = self._sources[source].shards[shard].file.url
            raise TooManyBad(
                f"no sample of shard {url} or its neighbors could be used in up to"
                f" {_NEIGHBORS * _TRIES} tries; last:"
                f" {failed.message if failed else 'all these shards are lost'}"
            )
        if opened.concepts is None and self._concepts[source] is not None:
            bad.append(
                Bad(
                    Kind.MISSING_CONCEPTS,
                    f"shard {opened.shard.file.url}: it has no concept targets",
                )
            )
        stored = opened.embeddings
        crop = 0
        transform = self._transform
        if (
            stored is not None
            and stored.crop_scale is not None
            and (at := opened.embedding_row(place)) >= 0
        ):
            assert self._view is not None  # the loader has checked it
            crop, (size, transform) = mixed(seed ^ _CROPS) % stored.crops, self._view
            image = stored.view(image, at, crop, size)
        else:
            image = middle(image)
        tensor = self._transformed(opened, place, image, seed, transform)
        return _Sample(opened, place, *caption, crop, negative), tensor

    def _candidates(
        self, source: int, shard: int, row: int, seed: int, bad: list[Bad]
    ) -> Iterator[tuple[_Opened, int, bool]]:
        """Yield candidates for a sample: shard, row of the index, and whether it is the sample
        itself. First comes the sample, then others of its shard, then samples of the following
        shards that are not missing. Candidates are a function of position, seed and missing shards,
        so all ranks and every resume agree."""
        there = self._there[source]
        first = bisect_left(there, shard)
        attempt = 0
        for step in range(len(there) + _NEIGHBORS):
            number = there[(first + step) % len(there)]  # wraps around after the last shard
            try:
                opened = self._open(source, number)
            except ShardLost as error:
                if number == shard and not step:
                    bad.append(Bad(Kind.MISSING_SHARD, str(error)))
                continue
            for _ in range(_TRIES):
                if (source, number) in self._lost:
                    break
                itself = number == shard and not attempt
                chosen = row if itself else mixed(seed ^ attempt) % len(opened.rows)
                yield opened, int(opened.rows[chosen]), itself
                attempt += 1
            if attempt >= _NEIGHBORS * _TRIES:
                return

    def _tar(self, opened: _Opened) -> AbstractContextManager[int]:
        """Return a context with the file descriptor of a shard."""
        kept = opened.descriptor
        return self._store.open(opened.shard.file) if kept is None else contextlib.nullcontext(kept)

    def _read(
        self, opened: _Opened, place: int, seed: int, bad: list[Bad]
    ) -> tuple[Image.Image, tuple[str, int, str], _Caption | None]:
        """Return the image, the caption, and a wrong caption if the training uses them and the
        sample has one."""
        with self._tar(opened) as tar:
            content, (drawn, caption) = (
                _bytes(opened, tar, place, "image"),
                self._caption(opened, tar, place, seed),
            )
            negative = self._negative(opened, tar, place, seed)
        image = decode(content, self._settings.max_pixels, self._settings.decode_side)
        if drawn != caption[2]:
            key = opened.index.keys[place]
            bad.append(
                Bad(
                    Kind.MISSING_FIELD,
                    f"shard {opened.shard.file.url}, key {key}: no text in {drawn}",
                )
            )
        return image, caption, negative

    def _negative(self, opened: _Opened, tar: int, place: int, seed: int) -> tuple[str, int] | None:
        if not self._settings.negatives:
            return None
        return drawn_caption(
            _bytes(opened, tar, place, "json"), self._settings.negatives, mixed(seed), single=True
        )

    def _caption(
        self, opened: _Opened, tar: int, place: int, seed: int
    ) -> tuple[str, tuple[str, int, str]]:
        """Return the name that was drawn; and the caption with its hash and its name, which is that
        of the `.txt` if the sample lacks the drawn field."""
        captions = self._settings.captions
        name = TXT
        one = None
        if captions == "random":
            one = drawn_caption(
                _bytes(opened, tar, place, "json"), self._settings.captions_field, seed
            )
        elif not isinstance(captions, str) and (name := drawn_field(captions, seed)) != TXT:
            one = drawn_caption(_bytes(opened, tar, place, "json"), name, seed, single=True)
        if one is not None:
            return name, (*one, name)
        text = _bytes(opened, tar, place, "caption").decode("utf-8", "replace").strip()
        return name, (text, int(opened.index.rows[place]["caption_hash"]), TXT)

    def _transformed(
        self, opened: _Opened, place: int, image: Image.Image, seed: int, transform: Transform
    ) -> Tensor:
        torch.default_generator.manual_seed(seed)  # that of the CPU only
        random.seed(seed)
        np.random.seed(seed % 2**32)  # NumPy's global generator takes 32 bits
        try:
            return transform(image)
        except Exception as error:
            error.add_note(
                f"while transforming {opened.index.keys[place]} of shard {opened.shard.file.url}"
            )
            raise

    def _open(self, source: int, number: int, joined: bool = True) -> _Opened:
        """Open a shard; without `joined`, without its targets."""
        if self._owner != os.getpid():  # a forked worker: it keeps its own open files
            self._opened = OrderedDict()
            self._owner = os.getpid()
        if (source, number) in self._lost:
            raise self._lost[source, number]
        known = self._opened.get((source, number))
        if known is not None:
            self._opened.move_to_end((source, number))  # now the most recently used
            return known
        shard = self._sources[source].shards[number]
        self.state(f"{shard.file.url}: opening")
        try:
            self._store.fetch(shard.file)
            descriptor = None if is_remote(shard.file.url) else self._store.descriptor(shard.file)
        except ShardLost as error:
            self._lost[source, number] = error
            raise
        index = load(shard.index)
        if index.identity != shard.sha256:
            raise ShardMismatch(
                f"shard {shard.file.url} was indexed again while this run read it; restore it, "
                f"or continue without it: data.skip=[{shard.file.name}]"
            )
        rows, _ = rows_to_read(index, self._settings.split, self._subset)
        concepts, stored = (
            (self._concepts[source], self._embeddings[source]) if joined else (None, None)
        )
        targets = concepts.shard(index.name, index.identity) if concepts else None
        places = targets.rows(index.keys) if targets else None
        taught = stored.shard(index.name, index.identity) if stored else None
        taught_rows = taught.rows(index) if taught else None
        opened = _Opened(
            (source, number), shard, descriptor, index, rows, targets, places, taught, taught_rows
        )
        self._require_fields(opened)
        self._opened[source, number] = opened
        if len(self._opened) > self._most_open:
            self._opened.popitem(last=False)[1].close()  # the least recently used
        return opened

    def require_fields(self) -> None:
        """Raise `BadSource` if a local shard lacks a field that `DataSettings.fields` requires.
        Remote shards are checked when they are read."""
        for source, there in enumerate(self._there if self._settings.fields else ()):
            for number in there:
                if not is_remote(self._sources[source].shards[number].file.url):
                    self._open(source, number, joined=False)
        self.close()

    def _require_fields(self, opened: _Opened) -> None:
        """Raise `BadSource` if no sample of the shard has a text in a required field. Samples are
        read up to the first that has one, as few may have a wrong caption."""
        fields = self._settings.fields
        if not fields:
            return
        with self._tar(opened) as tar:
            for field in fields:
                contents = (_bytes(opened, tar, row, "json") for row in opened.rows.tolist())
                if not any(drawn_caption(content, field, 0, single=True) for content in contents):
                    raise BadSource(
                        f"shard {opened.shard.file.url}: the JSON of its {len(opened.rows):,}"
                        f" samples has no text in the field {field!r}; take another name in"
                        " data.captions or data.negatives, or leave the shard out:"
                        f" data.skip=[{opened.shard.file.name}]"
                    )

    def close(self) -> None:
        """Close the shards."""
        if self._owner == os.getpid():
            for opened in self._opened.values():
                opened.close()
        self._opened = OrderedDict()

    def _collate(self, samples: list[_Sample], images: Tensor) -> Batch:
        rows = [sample.opened.index.rows[sample.row] for sample in samples]
        image_hashes = np.array([row["image_hash"] for row in rows], np.uint64).view(np.int64)
        return Batch(
            images=images,
            texts=self._tokenizer([sample.caption for sample in samples]),
            caption_hash=torch.tensor(
                [sample.caption_hash for sample in samples], dtype=torch.int64
            ),
            image_hash=torch.from_numpy(image_hashes),
            keys=[sample.key for sample in samples],
            concepts={head: self._targets(head, samples) for head in self._heads},
            teacher=self._taught(samples),
            negatives=self._negatives([sample.negative for sample in samples]),
        )

    def _negatives(self, drawn: Sequence[_Caption | None]) -> Negatives | None:
        if not self._settings.negatives:
            return None
        texts, hashes = zip(*(one or ("", 0) for one in drawn), strict=True)
        present = torch.tensor([one is not None for one in drawn])
        return Negatives(
            self._tokenizer(list(texts)), torch.tensor(hashes, dtype=torch.int64), present
        )

    def _empty(self) -> Batch:
        """Return an empty batch, for a rank that gets no rows of a smaller last batch."""
        blank = self._transform(Image.new("RGB", (64, 64)))  # gives the shape and type of images
        return Batch(
            images=blank.new_zeros((0, *blank.shape)),
            texts=self._tokenizer([""])[:0],
            caption_hash=torch.zeros(0, dtype=torch.int64),
            image_hash=torch.zeros(0, dtype=torch.int64),
            keys=[],
            concepts={
                head: (torch.zeros(0, self._k, dtype=torch.int64), torch.zeros(0, self._k))
                for head in self._heads
            },
            teacher=self._taught([]),
            negatives=(none := self._negatives([None]))
            and Negatives(*(tensor[:0] for tensor in none)),
        )

    def _targets(self, head: str, samples: list[_Sample]) -> tuple[Tensor, Tensor]:
        ids = np.zeros((len(samples), self._k), np.int64)
        probabilities = np.zeros((len(samples), self._k), np.float32)
        for index, sample in enumerate(samples):
            opened = sample.opened
            if opened.concepts is not None and opened.concept_rows is not None:
                ids[index], probabilities[index] = (
                    values[0]
                    for values in opened.concepts.head(
                        head, opened.concept_rows[sample.row : sample.row + 1]
                    )
                )
        return torch.from_numpy(ids), torch.from_numpy(probabilities)

    def _taught(self, samples: list[_Sample]) -> tuple[Tensor, ...]:
        if not self._dimension:
            return ()
        image, text = (np.zeros((len(samples), self._dimension), np.float16) for _ in range(2))
        for index, sample in enumerate(samples):
            stored = sample.opened.embeddings
            if stored is not None and (row := sample.opened.embedding_row(sample.row)) >= 0:
                image[index], text[index] = stored.pair(
                    row, sample.crop, self._columns[sample.name]
                )
        return torch.from_numpy(image), torch.from_numpy(text)

    def without_targets(
        self, targets: StoredTargets, source: int, number: int
    ) -> tuple[int, int, str]:
        """Return how many samples of a shard were looked at, at most `_LOOKED_AT`, how many of
        them have no targets, and the first one. Raises `ConceptMismatch` if the targets cannot be
        used, `StoreError` if their store failed."""
        index = load(self._sources[source].shards[number].index)
        rows = evenly(
            np.unique(rows_to_read(index, self._settings.split, self._subset)[0]), _LOOKED_AT
        )
        return len(rows), *without_targets(index, rows, targets, self._columns)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": OrderedDict(), "_owner": None, "state": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._owner = os.getpid()
        self.state = lambda text: None


def _most_open(
    settings: DataSettings, sources: Sequence[OpenSource], world: int, files: int
) -> int:
    """Return the number of shards that a worker keeps open. It covers all shards in use, since each
    batch reads from every stream of its rank, but with `files` for a shard (its tar, and a map of
    its embeddings) it is at most half of the files that a process may open."""
    streams = settings.streams or 1
    in_use = shards_in_use(sources, settings.shuffle, streams, min(1.0, 1 / world + 1 / streams))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(_OPEN_SHARDS, in_use)
    return wanted if most == resource.RLIM_INFINITY else min(wanted, max(1, most // (2 * files)))


def _bytes(opened: _Opened, tar: int, place: int, part: str) -> bytes:
    """Return the bytes of a sample's image, caption or JSON."""
    entry = opened.index.rows[place]
    at = int(entry[f"{part}_at"])
    size = int(entry[f"{part}_size"])
    content = os.pread(tar, size, at)  # independent of the file position, which forks share
    if len(content) != size:
        raise ShardMismatch(
            f"shard {opened.shard.file.url} has changed since it was indexed: it is shorter now"
        )
    return content


@contextlib.contextmanager
def _own_random_state() -> Iterator[None]:
    """Restore the global generators of torch, Python and NumPy on leaving, since augmentation draws
    from them."""
    torch_state = torch.get_rng_state()
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def heads_of(concepts: Sequence[ConceptTargets | None]) -> dict[str, int]:
    """Return the size of each head, or an empty dict if no source has targets. Raises
    `ConceptMismatch` if the sources differ in heads, their sizes or the number of targets per
    sample."""
    known = [each for each in concepts if each is not None]
    for other in known[1:]:
        if other.heads != known[0].heads or other.k != known[0].k:
            raise ConceptMismatch(
                f"the sources' concept targets disagree: {known[0].heads}, k {known[0].k} and"
                f" {other.heads}, k {other.k}; make them with one vocabulary and one --k"
            )
    return known[0].heads if known else {}


def evenly(values: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` of the values, evenly spaced."""
    return (
        values[np.linspace(0, len(values) - 1, most).astype(np.int64)]
        if len(values) > most
        else values
    )


def without_targets(
    index: ShardIndex,
    rows: npt.NDArray[np.int64],
    targets: StoredTargets,
    columns: Mapping[str, int],
) -> tuple[int, str]:
    """Count the rows of a shard's index without targets, of embeddings those of the image and the
    captions `columns`, and name the first one. Raises `ConceptMismatch` if the targets cannot be
    used, `StoreError` if their store failed."""
    rows = rows[~targets.taught(index, rows, columns.values())]
    return len(rows), f"shard {index.name}, key {index.keys[rows[0]]}" if len(rows) else ""


def columns_of(
    embeddings: Sequence[EmbeddingTargets | None], settings: DataSettings
) -> tuple[int, Mapping[str, int]]:
    """Return the dimension of embeddings (0 without), and the place among their captions of each
    that may be drawn, by name. Raises `ConceptMismatch` if the sources differ in teacher or crops,
    or there are no embeddings of one.
    """
    known = [each for each in embeddings if each is not None]
    if not known:
        return 0, {}
    first = known[0].manifest
    for name in ("teacher", "dimension", "temperature", "crops", "crop_scale", "captions"):
        if other := next(
            (each for each in known if each.manifest.get(name) != first.get(name)), None
        ):
            raise ConceptMismatch(
                f"the sources' embedding targets disagree in {name}: {first.get(name)} and"
                f" {other.manifest.get(name)}; make them with the same options"
                f" ({known[0].remedy()})"
            )
    if settings.captions == "random":
        raise ConceptMismatch(
            "data.captions=random draws captions of which there are no embeddings: set"
            " data.captions=first, or distillation.path=null"
        )
    names = (TXT, *settings.drawn)
    if missing := [name for name in names if name not in known[0].captions]:
        raise ConceptMismatch(
            f"there are embeddings of {', '.join(known[0].captions)}, but not of"
            f" {', '.join(missing)}; store them with {spelled_option('captions', ','.join(names))},"
            " change data.captions, or set distillation.path=null"
        )
    return known[0].dimension, {name: known[0].captions.index(name) for name in names}
