"""Whole runs on small real inputs: conservation, invariance, presets, inputs, the output contract."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from filters.presets import load_preset
from pipelines.datasets import load_dataset
from pipelines.run import Outcome, RunSettings, run

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
CAPTIONS = [line.split("\t")[1] for line in (SAMPLE / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]]
PHOTO = (SAMPLE / "pictures" / "0001.jpg").read_bytes()
ACTION = "A brown dog chasing a small red ball"


def filter_(source: Path | str, output: Path, said: list[str] | None = None, **options: Any) -> Outcome:
    """A run on one worker."""
    options.setdefault("dataset", load_dataset("custom"))
    preset = load_preset(options.pop("preset", "paper"))
    options.setdefault("workers", 1)
    lines: list[str] = [] if said is None else said
    outcome = run(RunSettings(input=str(source), output=output, preset=preset, **options), lines.append)
    assert outcome is not None
    return outcome


def rows(output: Path, kind: str) -> list[dict[str, Any]]:
    """All rows of an output folder's kept, rejected or dead_letter."""
    found: list[dict[str, Any]] = []
    for path in sorted((output / kind).glob("part-*.parquet")):
        found += pq.read_table(path).to_pylist()
    return found


def decisions(output: Path) -> Counter[tuple[Any, ...]]:
    """What was decided about each row, whatever the order."""
    kept = [
        (row["uid"], row["caption"], "kept", row["complexity"], tuple(row["actions"] or ()))
        for row in rows(output, "kept")
    ]
    gone = [
        (row["uid"], row["caption"], row["reason"], row["complexity"], tuple(row["actions"] or ()))
        for row in rows(output, "rejected")
    ]
    return Counter(kept + gone)


def write_manifest(path: Path, captions: list[str | None], **columns: list[Any]) -> Path:
    """A Parquet manifest of captions."""
    urls = [f"https://example.org/{place}.jpg" for place in range(len(captions))]
    pq.write_table(
        pa.table({"url": urls, "caption": pa.array(captions, pa.string()), **columns}), path, row_group_size=17
    )
    return path


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """A picture file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def hostile_pictures() -> dict[str, bytes | None]:
    """Picture files by name; None: there is no such file."""
    plain = Image.new("RGB", (64, 48), "navy")
    palette = plain.convert("P")
    bomb = bytearray(encode(plain, "PNG"))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, then the checksum of the header
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    animated = encode(plain, "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48), "red")])
    return {
        "plain.jpg": PHOTO,
        "truncated.jpg": PHOTO[: len(PHOTO) // 3],
        "empty.jpg": b"",
        "html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "text.jpg": b"not a picture at all",
        "noise.jpg": random.Random(1).randbytes(5_000),
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "pdf.jpg": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",
        "bomb.png": bytes(bomb),
        "one_pixel.png": encode(Image.new("RGB", (1, 1)), "PNG"),
        "thin.png": encode(Image.new("RGB", (400, 2)), "PNG"),
        "animated.gif": animated,
        "cmyk.jpg": encode(plain.convert("CMYK"), "JPEG"),
        "sixteen_bit.png": encode(Image.fromarray(np.full((48, 64), 40_000, np.uint16)), "PNG"),
        "palette.png": encode(palette, "PNG", transparency=0),
        "alpha.png": encode(plain.convert("RGBA"), "PNG"),
        "bilevel.png": encode(plain.convert("1"), "PNG"),
        "float.tif": encode(Image.fromarray(np.zeros((48, 64), np.float32)), "TIFF"),
        "png_named.jpg": encode(plain, "PNG"),
        "webp_named.jpg": encode(plain, "WEBP"),
        "truncated.png": encode(plain, "PNG")[:60],
        "missing.jpg": None,
        "no/such/folder.jpg": None,
    }


BROKEN_LINES: dict[str, bytes] = {
    "one field": b"only a caption",
    "three fields": b"a\tb\tc",
    "invalid utf-8": b"plain.jpg\tA dog \xff\xfe running",
    "nul": b"plain.jpg\tA dog\x00 running",
    "cut code point": b"plain.jpg\tcaf\xc3",
}
ODD_CAPTIONS: dict[str, str] = {
    "blank": "   ",
    "empty": "",
    "nan": "nan",
    "none": "None",
    "null": "null",
    "100 kB": "dog " * 25_000,
    "only tags": "<b></b><i></i>",
    "only entities": "&nbsp;&amp;&#8203;",
    "only punctuation": "!!! ??? ---",
    "one letter": "x",
    "emoji": "🐕🏃 🎾",
    "bidi": "\u202edog a gnisahc tac\u202c",
    "zero width": "A\u200bdog\u200bruns",
    "replacement": "A d\ufffdg running in the park",
    "no spaces": "a" * 5_000,
    "chinese": "一只狗在公园里奔跑",
    "script": "<script>alert(1)</script> a dog running",
    "quotes": '"A ""dog"" running"',
    "file name": "IMG_2034.jpg",
    "url": "https://example.org/a-dog-running.jpg?w=570",
}


def test_no_row_is_lost_whatever_is_broken(tmp_path: Path, ocr_models: object) -> None:
    """48 kinds of broken or odd rows and pictures, and six kinds of broken files beside them."""
    pictures = hostile_pictures()
    for name, content in pictures.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    paths = [*pictures, "folder.jpg", "https://example.org/x.jpg", "../outside.jpg"]
    lines = [b"image_path\tcaption"]
    lines += [f"{path}\t{ACTION} number {place}".encode() for place, path in enumerate(paths)]
    lines += [f"plain.jpg\t{caption}".encode() for caption in ODD_CAPTIONS.values()]
    lines += BROKEN_LINES.values()
    assert len(lines) - 1 >= 48
    manifest = tmp_path / "manifest.tsv"
    manifest.write_bytes(b"\n".join(lines) + b"\n")
    outcome = filter_(manifest, tmp_path / "out", unit_rows=7, max_dead_share=1.0)
    funnel = outcome.funnel
    assert outcome.status == 0
    assert funnel["rows_in"] == len(lines) - 1
    kept, rejected, dead = (rows(tmp_path / "out", kind) for kind in ("kept", "rejected", "dead_letter"))
    assert len(kept) + len(rejected) + len(dead) == len(lines) - 1
    assert all(row["stage"] and row["reason"] for row in rejected)
    assert all(row["error"] and row["message"] and row["file"] for row in dead)
    fate = {
        row["image_path"]: row.get("reason", "kept")
        for row in [*kept, *rejected]
        if row["caption"] and ACTION in row["caption"]
    }
    fate |= {
        path: row["error"]
        for row in dead
        for place, path in enumerate(paths)
        if row["caption"] == f"{ACTION} number {place}"
    }
    assert set(fate) == set(paths), "every picture has exactly one fate"
    for path in (
        "plain.jpg",
        "animated.gif",
        "cmyk.jpg",
        "sixteen_bit.png",
        "palette.png",
        "png_named.jpg",
        "webp_named.jpg",
    ):
        assert fate[path] == "kept", path
    assert fate["one_pixel.png"] == fate["thin.png"] == "picture_too_small"
    assert fate["https://example.org/x.jpg"] == "picture_not_at_hand"
    assert fate["missing.jpg"] == "picture_missing"
    assert {fate["empty.jpg"], fate["html.jpg"], fate["bomb.png"]} == {"empty", "not_a_picture", "too_many_pixels"}
    assert Counter(row["stage"] for row in dead)["manifest"] == len(BROKEN_LINES)


def test_unreadable_files_are_dead_letters_and_the_rest_is_filtered(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = write_manifest(folder / "a.parquet", [ACTION, "Nike Air Max 90"])
    content = good.read_bytes()
    (folder / "b_truncated.parquet").write_bytes(content[:-20])
    (folder / "c_empty.parquet").write_bytes(b"")
    (folder / "d_html.parquet").write_bytes(b"<html>not found</html>")
    said: list[str] = []
    outcome = filter_(folder / "*.parquet", tmp_path / "out", said, stages=("captions",))
    assert outcome.status == 1
    assert outcome.funnel["dead_letter"]["units"] == 3
    assert outcome.funnel["rows_in"] == 2
    assert {Path(row["file"]).name for row in rows(tmp_path / "out", "dead_letter")} == {
        "b_truncated.parquet",
        "c_empty.parquet",
        "d_html.parquet",
    }
    assert any(line.startswith("error:") for line in said)


def test_a_file_that_breaks_off_keeps_what_was_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"url": f"u{n}", "caption": f"{ACTION} {n}"}) + "\n" for n in range(20_000))
    packed = gzip.compress(lines.encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    outcome = filter_(tmp_path / "cut.jsonl.gz", tmp_path / "out", stages=("captions",))
    assert outcome.status == 1
    assert outcome.funnel["dead_letter"]["units"] == 1
    assert 0 < outcome.funnel["kept"] == outcome.funnel["rows_in"] < 20_000


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Counter[tuple[Any, ...]]:
    """Decisions on 120 sample captions in one unit."""
    folder = tmp_path_factory.mktemp("usual")
    filter_(
        write_manifest(folder / "m.parquet", list(CAPTIONS[:120])),
        folder / "out",
        stages=("captions",),
        unit_rows=10_000,
    )
    return _by_caption(folder / "out")


def _by_caption(output: Path) -> Counter[tuple[Any, ...]]:
    found: Counter[tuple[Any, ...]] = Counter()
    for (_, *rest), count in decisions(output).items():
        found[tuple(rest)] += count
    return found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1_000), unit_rows=st.integers(1, 200))
def test_decisions_do_not_depend_on_order_or_unit_size(
    seed: int, unit_rows: int, usual: Counter[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("order")
    captions = list(CAPTIONS[:120])
    random.Random(seed).shuffle(captions)
    filter_(write_manifest(folder / "m.parquet", captions), folder / "out", stages=("captions",), unit_rows=unit_rows)
    assert _by_caption(folder / "out") == usual


def test_decisions_do_not_depend_on_the_number_of_workers(usual: Counter[tuple[Any, ...]], tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", list(CAPTIONS[:120]))
    filter_(manifest, tmp_path / "out", stages=("captions",), unit_rows=20, workers=2)
    assert _by_caption(tmp_path / "out") == usual


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory, ocr_models: object) -> Path:
    """The sample, filtered with preset paper."""
    output = tmp_path_factory.mktemp("sample") / "out"
    assert filter_(SAMPLE / "manifest.tsv", output, dataset=load_dataset("sample"), workers=2).status == 0
    return output


def _again(output: Path, said: list[str] | None = None, **options: Any) -> Outcome:
    return filter_(SAMPLE / "manifest.tsv", output, said, dataset=load_dataset("sample"), **options)


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.parquet")
    }


def test_every_filter_does_its_work_on_the_sample(sample_run: Path) -> None:
    funnel = json.loads((sample_run / "funnel.json").read_text())
    assert funnel["rows_in"] == len(CAPTIONS)
    for reason in ("no_caption", "complexity", "action", "picture_too_small", "text_spotting"):
        assert funnel["rejected"][reason] > 0, reason
    assert funnel["dead_letter"]["rows"] >= 3
    assert 0.4 < funnel["keep_rate"] < 0.6


@pytest.mark.parametrize(("preset", "least"), [("paper", 0.93), ("strict", 0.95)])
def test_decisions_agree_with_the_hand_labels_of_the_sample(sample_run: Path, preset: str, least: float) -> None:
    _again(sample_run, preset=preset)
    labels = [line.split("\t") for line in (SAMPLE / "expected.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    lines = (SAMPLE / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]
    kept = Counter((row["image_path"], row["caption"]) for row in rows(sample_run, "kept"))
    agree = total = 0
    for (_, style, keep), line in zip((label[:3] for label in labels), lines, strict=True):
        if style != "broken":
            path, caption = line.split("\t")[:2]
            agree += (kept[path, caption] > 0) == (keep == "1")
            total += 1
    assert agree / total >= least


def test_another_preset_needs_no_parse_and_no_ocr(sample_run: Path) -> None:
    _again(sample_run)
    paper, annotations = decisions(sample_run), _contents(sample_run / "work")
    said: list[str] = []
    _again(sample_run, said, preset="strict")
    assert any("without a new parse or OCR" in line for line in said)
    assert _contents(sample_run / "work") == annotations
    assert decisions(sample_run) != paper
    _again(sample_run)
    assert decisions(sample_run) == paper


def test_a_second_run_has_nothing_to_do(sample_run: Path) -> None:
    _again(sample_run)
    before = {path: path.stat().st_mtime_ns for path in sample_run.rglob("*") if path.is_file() and path.name != "lock"}
    said: list[str] = []
    _again(sample_run, said)
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path.name for path in before if after[path] != before[path]}
    assert any("nothing is left to do" in line for line in said)
    assert changed <= {"subset.npy", "manifest.json"}


def test_the_output_contract(sample_run: Path) -> None:
    _again(sample_run)
    kept = pq.read_table(sorted((sample_run / "kept").glob("part-*.parquet"))[0])
    types = {field.name: field.type for field in kept.schema}
    assert types["uid"] == types["caption"] == pa.string()
    assert types["complexity"] == types["overlap"] == pa.int32()
    assert types["actions"] == types["objects"] == pa.list_(pa.string())
    assert {"image_path", "source_note"} <= set(types), "original columns stay"
    assert [field.name for field in types["spotted"].value_type] == ["text", "score"]
    rejected = pq.read_table(sorted((sample_run / "rejected").glob("part-*.parquet"))[0])
    assert {"uid", "caption", "stage", "reason", "complexity", "actions"} <= set(rejected.column_names)
    subset = np.load(sample_run / "subset.npy")
    uids = sorted({row["uid"] for row in rows(sample_run, "kept")})
    assert subset.dtype == np.dtype("u8,u8")
    assert [f"{int(high):016x}{int(low):016x}" for high, low in subset] == uids
    manifest = json.loads((sample_run / "shards" / "manifest.json").read_text())
    assert manifest["samples"] == len(rows(sample_run, "kept"))
    seen: list[str] = []
    for shard in manifest["shards"]:
        path = sample_run / "shards" / shard["shard"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
        with tarfile.open(path) as tar:
            names = tar.getnames()
            seen += [json.loads(tar.extractfile(name).read())["uid"] for name in names if name.endswith(".json")]  # type: ignore[union-attr]
    assert sorted(set(seen)) == uids
    report = (sample_run / "report.html").read_text(encoding="utf-8")
    assert "http://" not in report.replace("http://www.w3.org/", "")
    assert "<script" not in report
    provenance = json.loads((sample_run / "run.json").read_text())
    assert {"command", "preset", "versions", "models", "files", "seconds"} <= set(provenance)


def test_captions_alone_decide_nothing_about_pictures(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", [ACTION, "Nike Air Max 90", None])
    outcome = filter_(manifest, tmp_path / "out", stages=("captions",))
    assert outcome.funnel["kept"] == 1
    assert set(outcome.funnel["rejected"]) <= {"no_caption", "complexity", "action"}
    assert not (tmp_path / "out" / "report.html").exists()


def test_rows_with_only_a_url_are_kept_apart(tmp_path: Path) -> None:
    said: list[str] = []
    manifest = write_manifest(tmp_path / "m.parquet", [ACTION, "Nike Air Max 90"])
    outcome = filter_(manifest, tmp_path / "out", said)
    assert outcome.status == 0
    assert outcome.funnel["kept"] == 0
    assert outcome.funnel["rejected"]["picture_not_at_hand"] == 1
    assert any("not at hand" in line for line in said)


def _with_text(text: str) -> bytes:
    image = Image.new("RGB", (480, 200), "white")
    ImageDraw.Draw(image).text((20, 70), text, fill="black", font=ImageFont.load_default(44))
    return encode(image, "PNG")


def test_spotting_alone_decides_nothing_about_captions(tmp_path: Path, ocr_models: object) -> None:
    images = [_with_text("SUMMER SALE"), PHOTO, PHOTO]
    captions: list[str | None] = ["Summer Sale", "Nike Air Max 90", None]
    manifest = write_manifest(tmp_path / "m.parquet", captions, image=images)
    outcome = filter_(manifest, tmp_path / "out", stages=("spotting",))
    assert [row["caption"] for row in rows(tmp_path / "out", "kept")] == ["Nike Air Max 90"]
    assert outcome.funnel["rejected"] == {"no_caption": 1, "text_spotting": 1}
    assert rows(tmp_path / "out", "kept")[0]["complexity"] is None


def test_pictures_of_a_webdataset_tar_and_of_a_bytes_column(tmp_path: Path, ocr_models: object) -> None:
    members = {
        "0.jpg": PHOTO,
        "0.txt": ACTION.encode(),
        "1.jpg": _with_text("brown dog"),
        "1.txt": ACTION.encode(),
        "2.txt": b"A cat sleeping",
    }
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    outcome = filter_(tmp_path / "00000.tar", tmp_path / "tar")
    assert outcome.funnel["kept"] == 1
    assert outcome.funnel["rejected"]["text_spotting"] == 1
    images = [{"bytes": PHOTO, "path": "a"}, {"bytes": _with_text("brown dog"), "path": "b"}]
    manifest = write_manifest(tmp_path / "m.parquet", [ACTION, ACTION], image=images)
    outcome = filter_(manifest, tmp_path / "bytes")
    assert outcome.funnel["kept"] == outcome.funnel["rejected"]["text_spotting"] == 1


def test_original_columns_with_our_names_make_way(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", [ACTION], actions=["jump"], overlap=[0.5])
    filter_(manifest, tmp_path / "out", stages=("captions",))
    (row,) = rows(tmp_path / "out", "kept")
    assert (row["original_actions"], row["original_overlap"]) == ("jump", 0.5)
    assert row["actions"] == ["chasing"]


def test_shards_of_work_join_into_the_whole(usual: Counter[tuple[Any, ...]], tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "m.parquet", list(CAPTIONS[:120]))
    preset, dataset = load_preset("paper"), load_dataset("custom")
    for part in (0, 1):
        asked = RunSettings(
            dataset=dataset,
            input=str(manifest),
            output=tmp_path / "out",
            preset=preset,
            stages=("captions",),
            workers=1,
            unit_rows=25,
            shard=(part, 2),
        )
        assert run(asked, lambda line: None) is None
    said: list[str] = []
    filter_(manifest, tmp_path / "out", said, stages=("captions",), unit_rows=25)
    assert not any(line.startswith("captions ") for line in said), "all units were done by the shards"
    assert _by_caption(tmp_path / "out") == usual
