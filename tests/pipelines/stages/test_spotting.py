"""Stage `spotting`: what its units cost."""

import json

import psutil


def _of_children() -> float:
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children())


def test_cpu_time_of_a_unit_counts_the_ocr_process(tmp_path, tsv, with_images, filtering, ocr_models):
    source = tsv(tmp_path / "pairs.tsv", with_images(tmp_path / "images", 24))
    before = _of_children()
    filtering(source, tmp_path / "out", stages=("spotting",))
    ocr = _of_children() - before
    records = (tmp_path / "out" / "work" / "spotting" / "commits").glob("*.json")
    assert sum(json.loads(path.read_text())["cpu_seconds"] for path in records) >= 0.9 * ocr > 0
