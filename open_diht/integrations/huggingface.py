"""CAT for Hugging Face `datasets`: add decisions as columns, or keep the rows that pass and count
the reasons."""

from collections import Counter
from typing import Any, TypeVar

import datasets

from open_diht.cat import Cat, CatBatch, batch_rows

AnyDataset = TypeVar("AnyDataset", datasets.Dataset, datasets.IterableDataset)


def add_decisions(
    dataset: AnyDataset,
    cat: Cat,
    *,
    caption: str,
    image: str | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> AnyDataset:
    """Return the data set with the columns of CAT added and all of its rows. Images are not decoded
    on the way.

    Columns of an earlier decision are replaced. A `Dataset` keeps its format or transform; if that
    names columns, the columns of CAT are added to it. A streamed data set returns to Python
    objects.

    Args:
        dataset: a `Dataset`, or an `IterableDataset` that streams.
        cat: the filters that decide.
        caption: column with the captions.
        image: column with the images. Without it, the captions alone decide.
        batch_size: most rows of a call, by default 1,000, or 256 with images.
        options: passed on to `map`, such as `num_proc`.

    Raises:
        KeyError: the data set lacks the column of the captions or images; a streamed one raises it
            when it is read.

    Example:
        >>> import datasets
        >>> from open_diht import Cat
        >>> from open_diht.integrations.huggingface import add_decisions
        >>> texts = ["a brown dog catches a red ball", "IMG_2034.jpg"]
        >>> rows = datasets.Dataset.from_dict({"text": texts})
        >>> add_decisions(rows, Cat("paper"), caption="text")["cat_reason"][:]
        [None, 'complexity']
    """
    function: CatBatch = cat.batch(caption=caption, image=image)
    features = dataset.features
    if features is not None:  # a streamed data set may not know its own
        features = datasets.Features(
            {**features, **datasets.Features.from_arrow_schema(function.schema)}
        )
    arrow = dataset.with_format("arrow")
    if isinstance(dataset, datasets.Dataset) and not len(dataset):  # map would return it as it is
        info = dataset.info.copy()
        info.features = features
        mapped = datasets.Dataset(function(arrow[:]), info=info, split=dataset.split)
    else:
        size = batch_size or batch_rows(image)
        mapped = arrow.map(function, batched=True, batch_size=size, features=features, **options)
    before: dict[str, Any] = {"type": None}
    if isinstance(dataset, datasets.Dataset):
        before = dataset.format
        named = before["columns"] != dataset.column_names  # without named columns, it lists all
        before["columns"] = (
            [*dict.fromkeys([*before["columns"], *function.schema.names])] if named else None
        )
    return mapped.with_format(**before)


def keep(
    dataset: datasets.Dataset, cat: Cat, *, caption: str, image: str | None = None, **options: Any
) -> tuple[datasets.Dataset, Counter[str]]:
    """Return the rows that pass, and how many rows each reason rejected.

    Args:
        dataset: a `Dataset`. The reasons of a streamed one can be counted only while it is read:
            use `add_decisions` there and `filter(lambda row: row["cat_keep"])`.
        cat: the filters that decide.
        caption: column with the captions.
        image: column with the images. Without it, the captions alone decide.
        options: passed on to `add_decisions`.
    """
    decided = add_decisions(dataset, cat, caption=caption, image=image, **options)
    added = decided.select_columns(["cat_keep", "cat_reason"]).with_format("arrow")[:]
    kept = added["cat_keep"].to_numpy().nonzero()[0]
    return decided.select(kept), Counter(added["cat_reason"].drop_null().to_pylist())
