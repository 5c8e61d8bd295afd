"""CAT as a stage of a webdataset pipeline."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from open_diht.cat import MANY, Cat, batch_rows, naming
from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.naming import listing


class CatStage:
    """A stage for `WebDataset.compose`: it passes on the samples that CAT keeps. Put it before
    `decode`, so that fewer samples are decoded.

    Args:
        cat: the filters that decide; its preset may not have conditions on columns, except on a
            language.
        caption: member with the caption, as bytes or text; or alternatives, as in webdataset:
            `txt;caption`.
        image: member with the image, as bytes, or alternatives. By default these are all endings
            that a run takes. With None, the captions alone decide.
        keep_all: also pass on the samples that are rejected, to look at their `__cat_reason__`.
        batch_size: most samples that are decided together, and in memory, by default 1,000, or 256
            with images.

    Each sample that is passed on has `__cat_reason__` (None where it passes), which `decode` leaves
    alone. `reasons` counts the rejected samples of this process by their reason; a sample without
    the member of the caption counts as `no_caption`.

    Example:
        >>> from open_diht import Cat
        >>> from open_diht.integrations.webdataset import CatStage
        >>> stage = CatStage(Cat("paper"), image=None)
        >>> texts = {"1": b"a brown dog catches a red ball", "2": b"IMG.jpg"}
        >>> samples = [{"__key__": key, "txt": text} for key, text in texts.items()]
        >>> [sample["__key__"] for sample in stage(samples)], dict(stage.reasons)
        (['1'], {'complexity': 1})
    """

    def __init__(
        self,
        cat: Cat,
        *,
        caption: str = "txt",
        image: str | None = ";".join(EXTENSIONS),
        keep_all: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.cat = cat
        self.caption = caption
        self.image = image
        self.keep_all = keep_all
        self.batch_size = batch_size or batch_rows(image)
        self.reasons: Counter[str] = Counter()

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the samples that pass, in order. With `keep_all`, yield all samples.

        Raises:
            KeyError: none of many samples has the member of the caption, or of the image.
            TypeError: the members of many samples hold no captions, or no images.
        """
        samples = iter(samples)
        while batch := list(islice(samples, self.batch_size)):
            for role, name in (("caption", self.caption), ("image", self.image)):
                if (
                    name
                    and len(batch) >= MANY
                    and not any({*name.split(";")} & sample.keys() for sample in batch)
                ):
                    found = listing([member for member in batch[0] if not member.startswith("__")])
                    raise KeyError(
                        f"no member {name!r}, only {found}; name the right one:"
                        f" CatStage({role}=...)"
                    )
            captions = [_text(_member(sample, self.caption)) for sample in batch]
            images = (
                None if self.image is None else [_member(sample, self.image) for sample in batch]
            )
            with naming(self.caption, self.image):
                reasons = self.cat(captions, images).reason
            for sample, reason in zip(batch, reasons, strict=True):
                if reason is not None:
                    self.reasons[reason] += 1
                if reason is None or self.keep_all:
                    yield {**sample, "__cat_reason__": reason}


def _member(sample: dict[str, Any], names: str) -> Any:
    return next((sample[name] for name in names.split(";") if name in sample), None)


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value  # bytes that are no UTF-8: reason not_text
