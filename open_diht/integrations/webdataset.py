"""CAT as a stage of a webdataset pipeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from open_diht.cat import Cat


class CatStage:
    """A stage for `WebDataset.compose`: samples in, those that pass out. Put it before `decode`, which costs more.

    Args:
        cat: decides.
        caption: member with the caption, as bytes or text.
        image: member with the image, as bytes; None decides about captions alone.
        keep_all: also pass on the samples that are rejected, to look at their `cat_reason`.
        batch_size: samples that are decided together.

    Each sample that is passed on has `cat_reason` (None where it passes). `reasons` counts the rejected samples of this
    process by their reason; a sample without the member of the caption counts as `no_caption`.

    Example:
        >>> from open_diht import Cat
        >>> from open_diht.integrations.webdataset import CatStage
        >>> stage = CatStage(Cat("paper"), image=None)
        >>> samples = [{"__key__": "1", "txt": b"a brown dog catches a red ball"}, {"__key__": "2", "txt": b"IMG.jpg"}]
        >>> [sample["__key__"] for sample in stage(samples)], dict(stage.reasons)
        (['1'], {'complexity': 1})
    """

    def __init__(
        self,
        cat: Cat,
        *,
        caption: str = "txt",
        image: str | None = "jpg",
        keep_all: bool = False,
        batch_size: int = 64,
    ) -> None:
        self.cat, self.caption, self.image = cat, caption, image
        self.keep_all, self.batch_size = keep_all, batch_size
        self.reasons: Counter[str] = Counter()

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Return the samples that pass, in order."""
        samples = iter(samples)
        while batch := list(islice(samples, self.batch_size)):
            captions = [_text(sample.get(self.caption)) for sample in batch]
            images = None if self.image is None else [sample.get(self.image) for sample in batch]
            for sample, reason in zip(batch, self.cat(captions, images).reason, strict=True):
                if reason is not None:
                    self.reasons[reason] += 1
                if reason is None or self.keep_all:
                    yield {**sample, "cat_reason": reason}


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value  # bytes that are no text: reason not_text
