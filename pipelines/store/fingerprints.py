"""Fingerprints of the units of a stage, in a file that the driver writes and the workers read.

In a job graph, fingerprints of several hundred thousand units would exceed the limits of services (Dataflow: 10 MB).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from open_diht.pipelines.store.commit import publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath


def fingerprint_of(*parts: Any) -> str:
    """Return a hash of the parts, 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a stage's units, by unit name. Pickling sends only the path of their file to the workers."""

    path: StorePath

    @classmethod
    def published(cls, layout: Layout, stage: str, units: Mapping[str, str]) -> Fingerprints:
        """Write the fingerprints of a stage. The stage is constructed with the result, so the file exists before it
        starts."""
        path = layout.fingerprints(stage)
        publish_json(path, dict(units))
        return cls(path)

    def __getitem__(self, unit: str) -> str:
        return self._units[unit]

    @cached_property
    def _units(self) -> dict[str, str]:
        found: dict[str, str] | None = read_json(self.path)
        if found is None:
            raise FileNotFoundError(f"{self.path} is missing; is the output folder on storage that all workers see?")
        return found

    def __getstate__(self) -> dict[str, StorePath]:
        return {"path": self.path}
