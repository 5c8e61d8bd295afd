"""Measure what reading images costs at each OCR effort, on images of a pilot's sample."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from open_diht.common.cpu_time import cpu_seconds
from open_diht.filters.spotting.settings import Effort, SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests import UnreadableFile
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.pilot.forecast import Forecast
from open_diht.pipelines.stages.images import images_of
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import caption_record

IMAGES = 24
"""Images that are read at each effort: enough for the ratio of two efforts, in a few seconds
each."""


def seconds_by_effort(
    images: Sequence[bytes], efforts: Mapping[Effort, SpotterSettings]
) -> dict[Effort, float]:
    """Return the CPU seconds that OCR takes per image with the settings of each effort."""
    seconds = {}
    for effort, settings in efforts.items():
        with TextSpotter(settings) as spotter:
            # OpenVINO compiles its networks for the shapes of the images.
            list(spotter.spot(images))
            helpers = [spotter.pid] if spotter.pid else []
            before = cpu_seconds(helpers)
            list(spotter.spot(images))
            seconds[effort] = (cpu_seconds(helpers) - before) / len(images)
    return seconds


def sample_images(
    layout: Layout, plan: Plan, dataset: Dataset, units: Sequence[str]
) -> list[bytes]:
    """Return up to `IMAGES` of the images that OCR has read in these units, spread evenly over each
    unit."""
    images: list[bytes] = []
    for done, unit in enumerate(units):
        records = load_records(layout, unit, plan.image_units(caption_record(layout, unit)))
        read = np.asarray(records["ordinal"])[np.asarray(records["bytes"].is_valid())]
        most = -(-(IMAGES - len(images)) // (len(units) - done))
        chosen = read[np.unique(np.linspace(0, len(read) - 1, min(most, len(read))).astype(int))]
        with suppress(UnreadableFile):
            # The run has reported the file; the images before the damage count.
            for _, image in images_of(
                layout, unit, plan.span(unit), plan.image_rows, dataset, chosen
            ):
                if isinstance(image, bytes):
                    images.append(image)
    return images


def shown(
    seconds: Mapping[Effort, float], result: Forecast, own: SpotterSettings, images: int
) -> tuple[str, Any]:
    """Return the cost of each effort as plain text and for JSON: seconds per image, and hours of
    the whole data set in proportion to those forecast at the run's `own` effort."""
    known = result.core_hours["spotting"].estimate
    lines = [
        f"OCR effort, on {images} images of the sample     s / image   core-hours: spotting",
        "-" * 76,
    ]
    content = {}
    for effort, each in seconds.items():
        hours = known.value * each / seconds[own.effort] if known and seconds[own.effort] else None
        content[effort] = {"seconds_per_image": each, "core_hours": hours}
        mark = "   this run's" if effort == own.effort else ""
        lines.append(
            f"{effort:<43} {each:>12.3f}   {'?' if hours is None else f'{hours:,.3g}':>20}{mark}"
        )
    return "\n".join(lines), {"images": images, **content}
