"""Train one arm with the product's trainer on pairs in memory, and rank its retrieval results."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from open_diht.eval.metrics import ArrayRows
from open_diht.eval.metrics.retrieval import hits, image_to_text_ranks, text_to_image_ranks
from open_diht.trainer.architecture import DualEncoder, architecture, input_shape
from open_diht.trainer.assembly import device_type
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import load_config, merged
from open_diht.trainer.export import load
from open_diht.trainer.loop import train
from open_diht.trainer.towers import is_own
from open_diht.trainer.transforms import Pixels
from study.features import StoredTransform

FILE = "pairs.npz"
"""Name of the file that an arm's pairs are saved to."""
AT_ONCE = 512
RECALLS = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training or test data: m captions of n images."""

    images: NDArray[Any]
    """(n, d) features, standardized for a training and its tests, or (n, 3, h, w) uint8 pixels."""
    captions: Sequence[str]
    image: NDArray[np.int64]
    """(m,) the image of each caption."""

    @staticmethod
    def of_each(images: NDArray[Any], captions: Sequence[Sequence[str]]) -> Pairs:
        """Return the pairs of several captions per image."""
        image = np.repeat(np.arange(len(captions)), [len(each) for each in captions])
        return Pairs(images, [text for each in captions for text in each], image)

    def take(self, rows: NDArray[np.int64]) -> Pairs:
        kept, image = np.unique(self.image[rows], return_inverse=True)
        return Pairs(
            self.images[kept], [self.captions[row] for row in rows.tolist()], image.reshape(-1)
        )

    def save(self, path: Path) -> None:
        pixels = self.images.ndim == 4
        # The file has pixels (n, h, w, 3) and features in float16.
        stored = self.images.transpose(0, 2, 3, 1) if pixels else self.images.astype(np.float16)
        arrays: dict[str, Any] = {"images" if pixels else "features": stored}
        keys = np.array(pair_keys(path.name, len(self.captions)))
        np.savez(path, caption=np.array(self.captions), image=self.image, key=keys, **arrays)


BATCH_SIZE = 256
"""Pairs per batch in `features.yaml`."""
READINGS = 20
"""The most often that a model that is no arm reads a pair. On the real pools it is at most 12."""


def pair_keys(file: str, pairs: int) -> list[str]:
    return [f"{file}-{number}" for number in range(pairs)]


class Encoding(ABC):
    @abstractmethod
    def images(self, stored: NDArray[Any]) -> Tensor:
        """Return (n, d) unit vectors."""

    @abstractmethod
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Return (m, d) unit vectors."""

    def retrieval(
        self, tests: Mapping[str, Pairs]
    ) -> tuple[dict[str, float], dict[str, NDArray[np.int64]]]:
        """Return metrics and 1-based ranks of test sets, by `NAME/t2i` and `NAME/i2t`. In a tie
        wrong results are ahead."""
        metrics: dict[str, float] = {}
        ranks: dict[str, NDArray[np.int64]] = {}
        for name, pairs in tests.items():
            images, texts = (
                ArrayRows(one.numpy())
                for one in (self.images(pairs.images), self.texts(pairs.captions))
            )
            for direction, ranks_of in (("t2i", text_to_image_ranks), ("i2t", image_to_text_ranks)):
                items = f"{name}/{direction}"
                found = ranks_of(images, texts, pairs.image, strict=True) + 1
                metrics |= {
                    f"{items}/R@{k}": float(100 * hits(found - 1, k).mean()) for k in RECALLS
                }
                metrics[f"{items}/gm_rank"] = float(np.exp(np.log(found).mean()))
                ranks[items] = found
        return metrics, ranks


@dataclass(frozen=True, eq=False)
class Trained(Encoding):
    """A model of an arm with the transform of its stored images."""

    clip: DualEncoder
    tokenize: Any
    transform: StoredTransform
    pixels: Pixels
    device: torch.device

    @property
    def temperature(self) -> float:
        return 1 / float(self.clip.logit_scale.detach().exp())

    @torch.inference_mode()
    def images(self, stored: NDArray[Any]) -> Tensor:
        parts = torch.from_numpy(np.ascontiguousarray(stored)).split(AT_ONCE)
        # The transform requires draws, but ignores them outside training: the crop is centered.
        middle = np.full((AT_ONCE, 3), 0.5)
        inputs = (self.pixels(self.transform(part, middle).to(self.device)) for part in parts)
        return torch.cat([self._unit(self.clip.encode_image(each)) for each in inputs])

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> Tensor:
        parts = self.tokenize(captions).split(AT_ONCE)
        return torch.cat(
            [self._unit(self.clip.encode_text(part.to(self.device))) for part in parts]
        )

    @staticmethod
    def _unit(features: Tensor) -> Tensor:
        return normalize(features, dim=-1).cpu()


def batch_of_few(pairs: Pairs) -> dict[str, Any]:
    """Return settings, for `changed`, with a smaller batch if the pairs do not fill one, as in
    generated pools."""
    few = len(pairs.captions)
    return {"schedule": {"batch_size": few}} if few < BATCH_SIZE else {}


def budget_of_few(budget: int, pairs: Pairs) -> int:
    """Return the samples that a scorer or teacher learns from: fewer than `budget` only where that
    would read each pair more than READINGS times, as in generated pools."""
    return min(budget, READINGS * len(pairs.captions))


def trained(
    config: Path,
    pairs: Pairs,
    words: Sequence[str],
    *,
    budget: int,
    seed: int,
    changed: Mapping[str, Any],
    concepts: Path | None = None,
) -> Trained:
    """Train a model on pairs, which are saved as `FILE`, and return it. `budget` counts samples
    seen, `words` is the vocabulary of a small text tower, and `changed` overrides the
    configuration. `concepts` is a folder of concept targets for `FILE`; without it there are no
    heads. Raises KeyboardInterrupt if a signal stopped the training.
    """
    with tempfile.TemporaryDirectory(prefix="study-") as temporary:
        folder = Path(temporary)
        pairs.save(folder / FILE)
        given: dict[str, Any] = {
            "data": {"loader": "study.features:FeatureLoader", "path": str(folder / FILE)},
            "concepts": {"path": str(concepts or "")},
            "schedule": {"samples": budget},
            "run": {"seed": seed},
        }
        settings = _settings(config, merged(given, changed), words)
        outcome = train(settings, folder / "run", lambda line: None)
        if outcome.export is None:  # a signal came: the arm gets no row and runs again next time
            raise KeyboardInterrupt
        model = architecture(settings.model)
        towers = [
            model[part]["tower"] for part in ("vision_cfg", "text_cfg") if "tower" in model[part]
        ]
        clip, tokenize = load(outcome.export, towers)
        shape = input_shape(clip, model)
    device = torch.device(device_type(settings))
    transform = StoredTransform(settings.transform, shape, training=False)
    return Trained(
        clip.to(device), tokenize, transform, Pixels(settings.transform).to(device), device
    )


def _settings(config: Path, given: Mapping[str, Any], words: Sequence[str]) -> Config:
    """Return the configuration with overrides. A small text tower gets the vocabulary `words`;
    others have tokens."""
    settings = load_config(str(config), base=given)
    if not is_own((settings.model.architecture or {})["text_cfg"]):
        return settings
    return load_config(
        str(config),
        base=merged(given, {"model": {"architecture": {"text_cfg": {"words": list(words)}}}}),
    )
