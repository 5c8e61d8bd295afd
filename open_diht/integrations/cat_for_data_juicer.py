"""CAT as an operator of data-juicer: name this file in `custom_operator_paths` and use `cat_filter`
in a recipe.

custom_operator_paths: [.../open_diht/integrations/cat_for_data_juicer.py]
process:
  - cat_filter: {preset: paper, images: true}
"""

from __future__ import annotations

from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from open_diht.cat import Cat


@OPERATORS.register_module("cat_filter")
class CatFilter(Filter):  # type: ignore[misc]  # data-juicer brings no types
    """Measures a sample's caption and first image once, then decides.

    The stats of a sample gain `cat_keep`, `cat_reason` (empty where it is kept), `cat_complexity`,
    `cat_actions` and, with images, `cat_overlap` (-1 where the image was not read).
    """

    _batched_op = True

    def __init__(
        self, preset: Any = "paper", images: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        """Make the operator.

        Args:
            preset: a preset's name or the path of a YAML file; it may not have conditions on
                columns, except on a language.
            images: whether to read text in images. Otherwise the caption alone decides. args:
                positional arguments of data-juicer's operators. kwargs: keyword arguments of
                data-juicer's operators, such as `text_key` and `image_key`.
        """
        super().__init__(*args, **kwargs)
        self.cat = Cat(preset)
        self.images = images

    def compute_stats_batched(
        self, samples: dict[str, list[Any]], *args: Any, **kwargs: Any
    ) -> dict[str, list[Any]]:
        """Add what CAT measures to the stats of each sample."""
        images = None
        if self.images:
            paths = samples.get(self.image_key) or [None] * len(samples[self.text_key])
            files = samples.get(self.image_bytes_key) or [None] * len(paths)
            images = [(own or path or [None])[0] for own, path in zip(files, paths, strict=True)]
        decisions = self.cat([text or None for text in samples[self.text_key]], images)
        for stats, row in zip(samples[Fields.stats], decisions.table.to_pylist(), strict=True):
            stats["cat_keep"], stats["cat_reason"] = row["reason"] is None, row["reason"] or ""
            stats["cat_complexity"], stats["cat_actions"] = (
                row["complexity"] or 0,
                row["actions"] or [],
            )
            if self.images:
                stats["cat_overlap"] = -1 if row["overlap"] is None else row["overlap"]
        return samples

    def process_batched(self, samples: dict[str, list[Any]]) -> list[bool]:
        """Return whether each sample is kept."""
        return [stats["cat_keep"] for stats in samples[Fields.stats]]
