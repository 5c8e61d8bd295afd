"""What a run says where one reason costs every row, and where the remedy is followed."""

import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.fetch.settings import DownloadSettings

CAPTION = "A brown dog runs after a red ball"


@pytest.mark.parametrize(
    ("columns", "reason", "remedy"),
    [
        ({"image_path": "no.jpg"}, "image_missing", "--images-root FOLDER"),
        ({"image_path": ""}, "image_not_available", "--image-path-column NAME"),
        ({"image_path": "text.jpg"}, "not_an_image", "dead_letter/"),
        ({"url": "http://127.0.0.1:9/1.jpg"}, "blocked_port", "--download-allow ADDRESS:PORT"),
        ({"url": "http://127.0.0.1/1.jpg"}, "blocked_address", "--download-allow ADDRESS:PORT"),
        ({"url": "ftp://example.org/1.jpg"}, "bad_url", "--url-column NAME"),
    ],
)
def test_the_last_line_names_the_remedy_where_no_image_is_read(
    tmp_path, tsv, filtering, ocr_models, columns, reason, remedy
):
    (tmp_path / "text.jpg").write_text("just text")
    rows = [{"n": n, "caption": f"{CAPTION} {n}", **columns} for n in range(3)]
    rows.append({"n": 3, "caption": "Blue mug", **columns})
    asked = {"max_dead_share": 1.0, "download": DownloadSettings(retries=0, timeout=5.0)}
    result = filtering(tsv(tmp_path / "a.tsv", rows), tmp_path / "out", **asked)
    assert result.status == 1
    assert f"3 of the 3 rows that needed one ended with {reason}" in result.outcome.errors[-1]
    assert remedy in result.outcome.errors[-1]
    assert {row["overlap"] for row in result.rows("rejected")} <= {None}
    assert not result.funnel["histograms"].get("overlap")


def test_no_captions(tmp_path, tsv, filtering):
    manifest = tsv(tmp_path / "a.tsv", [{"caption": "", "words": CAPTION}] * 2)
    result = filtering(manifest, tmp_path / "out", stages=("captions",))
    assert result.status == 1 and "--caption-column" in result.outcome.errors[-1]


def test_another_root_is_looked_into(tmp_path, tsv, filtering, draw, ocr_models):
    """Images that were found before are not read again."""
    (tmp_path / "set").mkdir()
    (tmp_path / "far").mkdir()
    here = draw(tmp_path / "set" / "0.png")
    there = draw(tmp_path / "far" / "1.png")
    paths = [here, there, there, "2.png"]
    rows = [
        {"n": n, "caption": f"{CAPTION} {n}", "image_path": path} for n, path in enumerate(paths)
    ]
    manifest = tsv(tmp_path / "set" / "a.tsv", rows)
    first = filtering(manifest, tmp_path / "out")
    assert first.verdicts() == {"0": "kept"} and first.status == 1
    assert first.funnel["dead_letter"]["by_error"] == {"image_missing": 1, "image_outside_root": 2}
    dataset = load_dataset("custom").with_roles(images_root=str(there.parent))
    again = filtering(manifest, tmp_path / "out", dataset=dataset)
    assert again.verdicts() == {"0": "kept", "1": "kept", "2": "kept"}
    assert sum("nothing to do: " in line for line in again.said) == 0
    third = filtering(manifest, tmp_path / "out", dataset=dataset)
    assert any("nothing to do: " in line for line in third.said)
