"""The engine of a run over the units of a plan."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.stage import failure
from open_diht.pipelines.manifests import Unreachable, stamps_of
from open_diht.pipelines.manifests.files import difference
from open_diht.pipelines.manifests.plan import Plan, Unit
from open_diht.pipelines.store.commit import RunFailed, remove
from open_diht.pipelines.store.layout import image_unit_name, unit_of
from open_diht.pipelines.store.ownership import is_record
from open_diht.pipelines.store.records import Models
from open_diht.pipelines.store.storage import stamps


@dataclass(kw_only=True)
class Work(Engine):
    """An `Engine` for the units of a plan, which also watches the input files for changes."""

    plan: Plan
    models: Models = field(default_factory=dict)
    """Models and settings of stages, recorded in run.json."""
    changed: dict[str, str] = field(default_factory=dict)
    """Input files that have changed since the run began, each with a description of the change."""

    def __post_init__(self) -> None:
        self._input = stamps_of(str(entry["path"]) for entry in self.plan.files)

    def units(self) -> list[Unit]:
        """Return the units of the plan that have not failed."""
        return [unit for unit in self.plan.units if unit.name not in self.quarantined]

    def image_units(self, units: Iterable[str]) -> list[str]:
        """Return the names of the image units of caption units that have a commit record."""
        return [
            image_unit_name(unit, image_unit)
            for unit, record in self.records("captions", units)
            for image_unit in (self.plan.image_units(record) if record else ())
        ]

    def number_of(self, name: str) -> int:
        """Return the number of the name's caption unit in the plan. For a pass over all units,
        return a checksum."""
        unit = unit_of(name)
        # Passes have no number in the plan; a checksum is equal in all shards.
        return self.plan.number(unit) if unit in self.plan else zlib.crc32(name.encode())

    # ---- input that changes

    def find_changed(self) -> dict[str, str]:
        """Return the input files that have changed since the run began, or since the last call.
        Raise RunFailed if a store does not answer, OSError if a file cannot be checked."""
        try:
            now = stamps_of(self._input)
        except Unreachable as error:
            raise RunFailed(
                f"cannot check whether the input has changed since this run began: {error}. Run the"
                " same command to resume"
            ) from error
        found = {
            path: difference(now[path])
            for path, before in self._input.items()
            if now[path] != before
        }
        self._input = now
        self.changed |= found
        return found

    def give_up_changed(self) -> None:
        """Fail all units of input files that `find_changed` returns, since their rows may be of two
        versions."""
        found = self.find_changed()
        for unit in self.plan.units:
            if (path := unit.span.path) in found:
                tries = [failure("FileChanged", f"{path} {found[path]}")]
                self.give_up({unit.name: {"unit": unit.name, "stage": "manifest", "tries": tries}})

    def take_back_changed(self) -> None:
        """If input files have changed, delete the commit records of their units and of passes over
        all units. The next run redoes these, unless `keep_plan` refuses the changed input."""
        if not self.changed:
            return
        known = {unit.name for unit in self.plan.units}
        units = {unit.name for unit in self.plan.units if unit.span.path in self.changed}
        for folder in [path for path in self.layout.work.iterdir() if path.is_dir()]:
            for name in stamps(self.layout.commits(folder.name), ".json"):
                # Passes over all units (ranges of keys, centroids) have read these units too.
                path = self.layout.commit(folder.name, name)
                if unit_of(name) in units or (unit_of(name) not in known and is_record(path)):
                    remove(path)
