"""Stage `spotting`: what its units cost, and which settings of the OCR read images again."""

import json
from dataclasses import asdict

import psutil

from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.store.records import fingerprint_of


def _of_children() -> float:
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children())


def test_cpu_time_of_a_unit_counts_the_ocr_process(
    tmp_path, tsv, with_images, filtering, ocr_models
):
    source = tsv(tmp_path / "pairs.tsv", with_images(tmp_path / "images", 24))
    before = _of_children()
    filtering(source, tmp_path / "out", stages=("spotting",))
    ocr = _of_children() - before
    records = (tmp_path / "out" / "work" / "spotting" / "commits").glob("*.json")
    assert sum(json.loads(path.read_text())["cpu_seconds"] for path in records) >= 0.9 * ocr > 0


def _record(output):
    (path,) = (output / "work" / "spotting" / "commits").glob("*.json")
    return json.loads(path.read_text())


def test_another_effort_reads_the_images_again_and_counts_them(
    tmp_path, tsv, with_images, filtering, ocr_models
):
    source = tsv(tmp_path / "pairs.tsv", with_images(tmp_path / "images", 6))
    output = tmp_path / "out"

    def run(effort, **given):
        preset = f"base: paper\nocr: {{effort: {effort}}}"
        return filtering(source, output, stages=("spotting",), preset=preset, **given)

    def models():
        return json.loads((output / "run.json").read_text())["models"]["spotting"]

    first = run("low")
    low = _record(output)
    spotter = TextSpotter(SpotterSettings(effort="low"))
    # Outputs of versions without efforts, and without the setting `closer`, are those of low, and
    # stay.
    older = {
        name: value
        for name, value in asdict(spotter.settings).items()
        if name not in ("effort", "closer")
    }
    assert (
        low["fingerprint"] == fingerprint_of(spotter.provenance(), older)
        and models()["effort"] == "low"
    )
    assert run("low").tables() == first.tables() and _record(output) == low
    again = run("medium")
    said = (
        f"read again: {low['images']} images of 1 of 1 unit, read by another version, engine,"
        " effort or setting"
    )
    assert low["images"] == 6 and any(said in line for line in again.said)
    assert _record(output)["fingerprint"] != low["fingerprint"]
    assert models()["effort"] == "medium" and models()["limit_side"] == "512"
    # The run's own settings win over the preset's.
    back = run("medium", spotter=SpotterSettings(effort="low"))
    assert back.tables() == first.tables() and _record(output)["fingerprint"] == low["fingerprint"]
