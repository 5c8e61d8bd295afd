"""CAT as a filter of a datatrove pipeline: it decides about a document's text as a caption."""

from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from open_diht.cat import Cat


class CatFilter(BaseFilter):  # type: ignore[misc]  # datatrove brings no types
    """Keeps documents whose text is a caption that passes.

    datatrove counts the reasons (`dropped_action`, ...). If an `exclusion_writer` is given, it
    writes the rejected documents with their `filter_reason`.

    Args:
        preset: a preset's name, the path of a YAML file, or a `Preset`; it may not have conditions
            on columns, except on a language.
        exclusion_writer: a writer of datatrove, for the documents that are rejected.
        batch_size: documents that are decided together.
    """

    name = "🐈 CAT"

    def __init__(
        self,
        preset: Any = "paper",
        exclusion_writer: DiskWriter | None = None,
        batch_size: int = 1000,
    ) -> None:
        super().__init__(exclusion_writer, batch_size)
        self.cat = Cat(preset)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Return True, or False and the reason; complexity and actions are added to the document's
        metadata."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """Return what `filter` does, for many documents at a time."""
        decisions = self.cat([doc.text for doc in batch])
        for doc, row in zip(
            batch, decisions.table.select(["complexity", "actions"]).to_pylist(), strict=True
        ):
            doc.metadata |= {f"cat_{name}": value for name, value in row.items()}
        return [True if reason is None else (False, reason) for reason in decisions.reason]
