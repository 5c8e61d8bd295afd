"""CAT as a class of Daft: one instance per worker, batches of rows."""

from typing import Any

import daft
from daft import DataType

from open_diht.cat import Cat, batch_rows


def cat_expression(
    caption: daft.Expression,
    image: daft.Expression | None = None,
    *,
    preset: Any = "paper",
    batch_size: int | None = None,
) -> daft.Expression:
    """Return an expression with CAT's decisions: a struct of `cat_keep`, `cat_reason`,
    `cat_complexity`, ...

    Args:
        caption: column with the captions.
        image: column with the bytes of image files. Without it, the captions alone decide.
        preset: see `Cat`; it may not have conditions on columns, except on a language.
        batch_size: most rows of a call, by default 1,000, or 256 with images.

    Example:
        >>> import daft
        >>> from open_diht.integrations.daft import cat_expression
        >>> rows = daft.from_pydict({"text": ["a brown dog catches a red ball", "IMG_2034.jpg"]})
        >>> rows = rows.with_column("cat", cat_expression(daft.col("text")))
        >>> rows.where(daft.col("cat")["cat_keep"]).select("text").to_pydict()
        {'text': ['a brown dog catches a red ball']}
    """
    function = Cat(preset).batch(
        caption=caption.name(), image=None if image is None else image.name()
    )
    types = {field.name: DataType.from_arrow_type(field.type) for field in function.schema}

    @daft.cls
    class DaftCat:
        @daft.method.batch(
            return_dtype=DataType.struct(types), batch_size=batch_size or batch_rows(image)
        )
        def decide(self, captions: daft.Series, images: daft.Series | None = None) -> Any:
            added = function.added(
                captions.to_arrow(), None if images is None else images.to_arrow()
            )
            return added.to_struct_array().combine_chunks()

    decide: Any = DaftCat().decide  # called with expressions, it gives one
    return decide(caption) if image is None else decide(caption, image)
