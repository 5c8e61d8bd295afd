"""Ten thousand images through Text-spotting: memory stays flat, that of workers and OCR processes
included."""

import csv
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest

from tests.pipelines.processes import REPOSITORY, Starter

IMAGES = 10_000
SAMPLE = REPOSITORY / "data" / "sample"


@pytest.fixture
def runs(tmp_path) -> Iterator[Starter]:
    with closing(Starter(str(tmp_path))) as made:
        yield made


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_ten_thousand_images_in_flat_memory(tmp_path, runs, tsv, ocr_models):
    with open(SAMPLE / "manifest.tsv", encoding="utf-8") as file:
        given = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    usable = [row for row in given if row["caption"].strip() and "broken" not in row["image_path"]]
    rows: list[dict[str, Any]] = [
        {
            "caption": f"{usable[n % len(usable)]['caption']} {n}",
            "image_path": usable[n % len(usable)]["image_path"],
        }
        for n in range(IMAGES)
    ]
    (tmp_path / "images").symlink_to(SAMPLE / "images")
    manifest = tsv(tmp_path / "manifest.tsv", rows)
    process = runs.start(manifest, tmp_path / "out", "--stages", "spotting", "--unit-rows", "2000")
    watched = psutil.Process(process.pid)
    seen = []
    folder = tmp_path / "out" / "work" / "spotting"
    while process.poll() is None:
        time.sleep(1)
        marks = [
            int(path.read_text() or 0) for path in (folder / "progress").glob("*") if path.exists()
        ]
        if marks:
            seen.append(_resident(watched))
    said = process.communicate()[0]
    assert process.returncode == 0, said
    third = len(seen) // 3
    early = max(seen[third // 2 : third])
    late = max(seen[2 * third :])
    print(
        f"{len(seen)} s: {early / 2**20:.0f} MiB early, {late / 2**20:.0f} MiB late",
        file=sys.stderr,
    )
    assert late < early * 1.15 + 50 * 2**20
