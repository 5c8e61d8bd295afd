"""Write run.json, funnel.json, the card and, with stage export, the report; print the funnel."""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import cast

from open_diht.filters.cascade import StageFilter
from open_diht.pipelines.datasets import READ_AS
from open_diht.pipelines.driver.croissant import croissant_of
from open_diht.pipelines.driver.dataset_card import configs_of, render_card, title_of
from open_diht.pipelines.driver.examples import collect_examples
from open_diht.pipelines.driver.notes import all_notes
from open_diht.pipelines.driver.table import render_funnel
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.plan import Unit
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.report.page import render_report
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.images import DOWNLOAD
from open_diht.pipelines.store.commit import publish_bytes, publish_json, retract
from open_diht.pipelines.store.layout import CARD, CROISSANT
from open_diht.pipelines.store.ownership import is_of_the_user
from open_diht.pipelines.store.records import (
    Vouched,
    WholeRunRecord,
    fingerprint_of,
    publish_record,
)


@dataclass
class Results:
    """The step of a run that writes and prints its results."""

    settings: RunSettings
    work: Work
    own: Sequence[StageFilter]
    """Filters of stages, which decided in addition to the preset."""

    def publish(
        self, units: Sequence[Unit], funnel: FunnelRecord, decided: dict[str, str], began: float
    ) -> None:
        """Write the results and print the funnel, or only print it if nothing has changed since an
        earlier run. `began` is the start of the run in seconds since 1970; `units` are the decided
        ones."""
        settings = self.settings
        layout = self.work.layout
        plan = self.work.plan
        say = self.work.say
        root = layout.root
        stages = settings.stages
        path = root / "funnel.json"
        report = root / "report.html"
        previous = cast(FunnelRecord, Vouched(layout).current(path))
        fingerprint = fingerprint_of(funnel, decided, settings.license)
        funnel["seconds"] = {**previous.get("seconds", {}), **self.work.seconds}
        if previous.get("fingerprint") == fingerprint and not self.work.seconds:
            say(f"nothing to do: {root} already holds the results of this run")
            say(render_funnel(funnel))
            return
        examples = collect_examples(
            layout, plan, units, settings.dataset, settings.preset, stages, self.own
        )
        notes = all_notes(funnel)
        if DOWNLOAD in self.work.models:
            notes.append(f"download: opt-outs of servers: {settings.download.opt_outs()}")
        # funnel.json is the commit record of the results: deleted first, written last.
        retract(path)
        record = self._provenance(began)
        publish_json(root / "run.json", record)
        configs = configs_of(layout, units)
        if is_of_the_user(root / CARD):
            say(f"{root / CARD} is not of this program and is kept; remove it to get a new one")
        else:
            card = render_card(funnel, settings, plan, configs, self.work.models)
            publish_bytes(root / CARD, card.encode())
        described = croissant_of(settings, record, funnel, configs, title_of(settings))
        publish_json(root / CROISSANT, described)
        if "export" in stages:
            publish_bytes(
                report, render_report(funnel, examples, notes=notes).encode("utf-8", "replace")
            )
        slim = {
            reason: [{**row, "image": None} for row in rows] for reason, rows in examples.items()
        }
        files = [
            root / "run.json",
            root / CARD,
            root / CROISSANT,
            *([report] if "export" in stages else []),
        ]
        publish_record(
            layout, path, {**funnel, "examples": slim, "fingerprint": fingerprint}, files
        )
        say(render_funnel(funnel))
        for note in notes:
            say(note)
        say(
            f"results in {root}/ (kept, rejected,"
            f" dead_letter{', report.html' if 'export' in stages else ''})"
        )

    def _provenance(self, began: float) -> WholeRunRecord:
        settings = self.settings
        plan = self.work.plan
        return {
            "command": list(settings.command),
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "seconds": round(time.time() - began, 2),
            "dataset": {
                "name": settings.dataset.name,
                "input": settings.input,
                "commits": dict(plan.pins),
                "roles": asdict(settings.dataset.roles),
                "read_as": {name: getattr(settings.dataset, name) for name in READ_AS},
            },
            "preset": settings.preset.as_dict(),
            "stages": list(settings.stages),
            "export": settings.export,
            "workers": settings.workers,
            "runner": settings.backend.name,
            "plugins": list(settings.plugins),
            "versions": (
                {name: version(name) for name in ("apache-beam", "pyarrow", "spacy")}
                | {"python": platform.python_version()}
            ),
            "models": self.work.models,
            "files": list(plan.files),
            "plan": {"fingerprint": plan.fingerprint, "units": len(plan.units)},
        }
