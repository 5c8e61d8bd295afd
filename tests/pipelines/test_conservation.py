"""No row is lost, whatever is broken: rows in = kept + rejected by one reason + dead letters,
counted from the data."""

import gzip
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_diht.pipelines.verify.command import verify
from open_diht.pipelines.verify.options import parse
from tests.common.hostile_images import chunk, encode
from tests.pipelines.conftest import members_of, tar_of

SENTENCE = "A brown dog runs after a red ball"
REASONS = {
    *(
        "no_caption",
        "caption_length",
        "complexity",
        "action",
        "image_not_available",
        "image_too_small",
    ),
    *("text_spotting", "duplicate_pair"),
}


def _bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


_PLAIN = Image.new("RGB", (64, 48), (40, 90, 160))
_NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8))
_JPEG = encode(_NOISE, "JPEG")
_PALETTE = _PLAIN.convert("P")
_PALETTE.info["transparency"] = 0

IMAGES: dict[str, tuple[bytes | None, str]] = {
    "plain.jpg": (_JPEG, "kept"), "truncated.jpg": (_JPEG[: len(_JPEG) // 2], "dead"),
    "truncated.png": (encode(_NOISE, "PNG")[:-600], "dead"), "bomb.png": (_bomb(), "dead"),
    "animated.gif": (encode(_PLAIN, "GIF", save_all=True, append_images=[_NOISE]), "kept"),
    "cmyk.jpg": (encode(_PLAIN.convert("CMYK"), "JPEG"), "kept"),
    "sixteen.png": (encode(Image.fromarray(np.full((48, 64), 40_000, np.uint16)), "PNG"), "kept"),
    "one_pixel.png": (encode(Image.new("RGB", (1, 1)), "PNG"), "image_too_small"),
    "line.png": (encode(Image.new("RGB", (300, 3)), "PNG"), "image_too_small"),
    "palette.png": (encode(_PALETTE, "PNG", transparency=0), "kept"),
    "alpha.png": (encode(_PLAIN.convert("RGBA"), "PNG"), "kept"),
    "grey_alpha.png": (encode(_PLAIN.convert("LA"), "PNG"), "kept"),
    "bilevel.png": (encode(_PLAIN.convert("1"), "PNG"), "kept"),
    "png_called.jpg": (encode(_PLAIN, "PNG"), "kept"),
    "webp_called.png": (encode(_PLAIN, "WEBP"), "kept"),
    "html.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "dead"),
    "empty.jpg": (b"", "dead"),
    "vector.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
                   "dead"),
    "random.jpg": (np.random.default_rng(2).bytes(5_000), "dead"),
    "random_with_magic.jpg": (b"\xff\xd8\xff\xe0" + np.random.default_rng(3).bytes(5_000), "dead"),
    "text.jpg": (b"just text", "dead"), "document.jpg": (b"%PDF-1.7\n", "dead"),
    "missing.jpg": (None, "dead"), "no/such/folder.jpg": (None, "dead"),
    "folder.jpg": (None, "dead"), "http://example.org/a.jpg": (None, "image_not_available"),
    "https://example.org/b.jpg?x=1": (None, "image_not_available"),
    "../../outside.jpg": (None, "dead"), "/etc/passwd": (None, "dead"),
    "": (None, "image_not_available"), "   ": (None, "image_not_available"),
    "x" * 300 + ".jpg": (None, "dead"),
}  # fmt: skip
"""Path of an image in the manifest: its bytes (None: no such file), and what becomes of a good
caption with it."""

CAPTIONS: dict[str, tuple[str | None, str]] = {
    "null": (None, "no_caption"), "empty": ("", "no_caption"), "blank": ("   ", "no_caption"),
    "no-break space": ("\u00a0\u2003", "no_caption"), "nan": ("nan", "no_caption"),
    "NaN": ("NaN", "no_caption"), "None": ("None", "no_caption"),
    "null as text": ("null", "no_caption"), "100 kB": ("a dog runs " * 10_000, "caption_length"),
    "one long word": ("a" * 4_000, "any"), "4,097 characters": ("a" * 4_097, "caption_length"),
    "zero width": ("\u200b\u200d\ufeff", "any"), "directions": (f"\u202e{SENTENCE}\u202c", "any"),
    "combining": ("e" + "\u0301" * 500, "any"),
    "emoji": ("\U0001f415\U0001f3c3\u200d\u2642\ufe0f", "any"),
    "noncharacter": ("\U0010ffff\ufffe", "any"),
    "entities": ("&lt;b&gt;A dog&nbsp;runs&#x1F415;&amp;&#0;&#xD800;", "any"),
    "control characters": ("\x01\x02 A dog runs \x7f\x9b", "any"),
    "punctuation": ("!!! ??? ... ---", "any"), "digits": ("0123456789", "any"),
    "chinese": ("\u4e00\u53ea\u72d7\u5728\u8dd1", "any"),
    "script": ("<script>alert(1)</script> A dog runs", "any"),
    "braces": ("{'$where': 1} {{7*7}} %s %n", "any"),
    "many brackets": ("(" * 1_000 + ")" * 1_000, "any"),
    "lines": ("A dog\nruns\r\nafter\u2028a ball", "any"), "tab": ("A dog\truns", "any"),
}  # fmt: skip

JSON_LINES: dict[str, tuple[bytes, str]] = {
    "good": (
        b'{"n": 0, "caption": "A brown dog runs after a red ball", "image_path": "plain.jpg"}',
        "kept",
    ),
    "lone surrogate": (
        b'{"n": 1, "caption": "A dog \\ud83d runs", "image_path": "plain.jpg"}',
        "dead",
    ),
    "surrogate in another column": (b'{"n": 2, "caption": "A dog runs", "note": "\\udfff"}', "any"),
    "invalid": (b'{"n": 3, "caption": "A dog', "dead"),
    "not an object": (b'["n", 4]', "dead"),
    "number as caption": (b'{"n": 5, "caption": 5}', "dead"),
    "object as caption": (b'{"n": 6, "caption": {"text": "A dog runs"}}', "dead"),
    "list as caption": (b'{"n": 7, "caption": ["A dog runs", "A cat"]}', "any"),
    "null caption": (b'{"n": 8, "caption": null}', "no_caption"),
    "no caption": (b'{"n": 9}', "no_caption"),
    "invalid UTF-8": (b'{"n": 10, "caption": "A dog \xff runs"}', "dead"),
    "NUL": (b'{"n": 11, "caption": "A dog \x00 runs"}', "dead"),
    "escaped NUL": (b'{"n": 12, "caption": "A dog \\u0000 runs"}', "any"),
    "not a number": (b'{"n": 13, "caption": NaN}', "any"),
    "huge number": (b'{"n": 14, "caption": "A dog runs", "size": 1' + b"0" * 400 + b"}", "any"),
    "twice the key": (b'{"n": 15, "caption": "A dog runs", "caption": "A cat sleeps"}', "any"),
    "deep": (b'{"n": 16, "caption": ' + b"[" * 2_000 + b"]" * 2_000 + b"}", "any"),
    "another type": (b'{"n": "seventeen", "caption": "A dog runs"}', "any"),
}

TSV_LINES: dict[str, bytes] = {
    "one field": b"only a caption",
    "four fields": b"1\tA dog runs\tplain.jpg\tmore",
    "invalid UTF-8": b"2\tA dog \xff\xfe runs\tplain.jpg",
    "NUL": b"3\tA dog \x00 runs\tplain.jpg",
    "cut character": b"4\tA caf\xc3\tplain.jpg",
    "encoded surrogate": b"5\tA dog \xed\xa0\x80 runs\tplain.jpg",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken")
    for name, (content, _) in IMAGES.items():
        if content is not None:
            (root / name).write_bytes(content)
    (root / "folder.jpg").mkdir()
    rows: list[dict[str, str | None]] = [
        {"n": f"image {name}", "caption": SENTENCE, "image_path": name} for name in IMAGES
    ]
    rows += [
        {"n": f"caption {name}", "caption": text, "image_path": "plain.jpg"}
        for name, (text, _) in CAPTIONS.items()
    ]
    rows += [{"n": f"null path {n}", "caption": SENTENCE, "image_path": None} for n in range(2)]
    (root / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), root / "in" / "rows.parquet", row_group_size=9)
    (root / "in" / "lines.jsonl").write_bytes(
        b"\n".join(line for line, _ in JSON_LINES.values()) + b"\n"
    )
    good = [f"good {n}\t{SENTENCE}\tplain.jpg".encode() for n in range(5)]
    lines = [b"n\tcaption\timage_path", *good[:3], *TSV_LINES.values(), *good[3:]]
    (root / "in" / "lines.tsv").write_bytes(b"\n".join(lines) + b"\n")
    return root


def _balance(result: Any) -> int:
    """Check the balance from the data; returns how many rows came in."""
    kept, rejected, dead = (result.rows(kind) for kind in ("kept", "rejected", "dead_letter"))
    assert {row["reason"] for row in rejected} <= REASONS
    rows_dead = [row for row in dead if row["ordinal"] is not None]
    places = [(row["unit"], row["ordinal"]) for row in rows_dead]
    assert len(places) == len(set(places)), "a dead letter was written twice"
    total = len(kept) + len(rejected) + len(rows_dead)
    funnel = result.funnel
    unread = funnel["not_decided"]["rows"]
    assert funnel["rows_in"] == total + unread
    assert (funnel["kept"], funnel["dead_letter"]["rows"]) == (len(kept), len(rows_dead))
    assert {r: n for r, n in funnel["rejected"].items() if n} == dict(
        Counter(row["reason"] for row in rejected)
    )
    left = total + unread
    for step in funnel["steps"]:
        left -= step["rejected"] + step.get("lost", 0)
        assert step["left"] == left, step
    assert left == len(kept)
    assert sum(step.get("lost", 0) for step in funnel["steps"]) == len(rows_dead) + unread
    return total


@pytest.fixture(scope="module")
def parquet(folder: Path, filtering: Callable[..., Any], ocr_models: None) -> Any:
    from open_diht.pipelines.datasets import load_dataset

    dataset = load_dataset("custom").with_roles(images_root=str(folder))
    return filtering(
        folder / "in" / "rows.parquet", folder / "out-parquet", dataset=dataset, unit_rows=18
    )


def test_rows_with_broken_captions_and_images(parquet: Any) -> None:
    assert len(IMAGES) + len(CAPTIONS) + len(JSON_LINES) + len(TSV_LINES) >= 40
    assert _balance(parquet) == len(IMAGES) + len(CAPTIONS) + 2
    assert parquet.status == 1, "more than 5 % are dead letters"
    places = [(step["stage"], step["reason"]) for step in parquet.funnel["steps"]]
    assert places.index(("spotting", "dead_letter")) == places.index(("captions", "action")) + 1


@pytest.mark.parametrize("name", IMAGES)
def test_what_becomes_of_an_image(parquet: Any, name: str) -> None:
    expected = IMAGES[name][1]
    found = parquet.verdicts().get(f"image {name}", "dead")
    assert found == expected
    if expected == "dead":
        dead_letters = [row for row in parquet.rows("dead_letter") if row["caption"] == SENTENCE]
        assert len(dead_letters) == sum(fate == "dead" for _, fate in IMAGES.values())
        assert all(
            row["error"] and row["message"] and row["uid"] and row["file"] for row in dead_letters
        )


@pytest.mark.parametrize("name", CAPTIONS)
def test_what_becomes_of_a_caption(parquet: Any, name: str) -> None:
    expected = CAPTIONS[name][1]
    found = parquet.verdicts()[f"caption {name}"]
    assert found == expected or (expected == "any" and found in {"kept", *REASONS})


def test_json_lines(folder: Path, filtering: Callable[..., Any], ocr_models: None) -> None:
    result = filtering(
        folder / "in" / "lines.jsonl",
        folder / "out-jsonl",
        stages=("captions", "export"),
        unit_rows=5,
    )
    assert _balance(result) == len(JSON_LINES)
    where = {str(n): fate for n, fate in result.verdicts().items()}
    for index, (name, (_, expected)) in enumerate(JSON_LINES.items()):
        found = where.get("seventeen" if name == "another type" else str(index), "dead")
        assert found == expected or expected == "any", name
    assert all(row["error"] and row["raw"] is not None for row in result.rows("dead_letter"))


def test_lines_of_text(folder: Path, filtering: Callable[..., Any]) -> None:
    result = filtering(
        folder / "in" / "lines.tsv", folder / "out-tsv", stages=("captions",), unit_rows=3
    )
    assert _balance(result) == 5 + len(TSV_LINES)
    assert set(result.verdicts()) == {f"good {n}" for n in range(5)}
    raw = {row["raw"] for row in result.rows("dead_letter")}
    assert raw == set(TSV_LINES.values())


def _tar(path: Path, samples: int, first: int = 0) -> bytes:
    members = (
        (f"{n:05d}.{ending}", content)
        for n in range(first, first + samples)
        for ending, content in (
            ("jpg", _JPEG),
            ("txt", SENTENCE.encode()),
            ("json", b'{"n": %d}' % n),
        )
    )
    return tar_of(path, members).read_bytes()


def _cut_parquet(path: Path) -> bytes:
    pq.write_table(pa.table({"caption": [SENTENCE] * 50, "n": range(50)}), path)
    return path.read_bytes()[:-40]


def _spoiled_pages(path: Path) -> bytes:
    """A file with a good footer, whose last row group is overwritten."""
    table = pa.table({"caption": [f"{SENTENCE} {n}" for n in range(40)], "n": range(40)})
    pq.write_table(table, path, row_group_size=10, compression="zstd")
    group = pq.read_metadata(path).row_group(3).column(0)
    content = bytearray(path.read_bytes())
    begin = group.dictionary_page_offset or group.data_page_offset
    content[begin : begin + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    return bytes(content)


def _cut_gzip(path: Path) -> bytes:
    lines = "".join(f"{n}\t{SENTENCE} {n * n}\n" for n in range(3_000))
    return gzip.compress(f"n\tcaption\n{lines}".encode())[:-2_000]


FILES: dict[str, tuple[str, Callable[[Path], bytes], bool]] = {
    "footer of parquet cut off": ("a.parquet", _cut_parquet, False),
    "pages of parquet overwritten": ("a.parquet", _spoiled_pages, True),
    "empty parquet": ("a.parquet", lambda _: b"", False),
    "HTML as parquet": ("a.parquet", lambda _: b"<!DOCTYPE html><html>404</html>", False),
    "random bytes as parquet": (
        "a.parquet",
        lambda _: np.random.default_rng(4).bytes(3_000),
        False,
    ),
    "gzip cut off": ("a.tsv.gz", _cut_gzip, True),
    "gzip of nothing": ("a.tsv.gz", lambda _: b"", False),
    "not gzip": ("a.tsv.gz", lambda _: b"n\tcaption\n1\tA dog runs\n", False),
    "tar cut off in an image": ("a.tar", lambda path: _tar(path, 8)[:37_000], True),
    "HTML as tar": ("a.tar", lambda _: b"<!DOCTYPE html><html>404</html>", False),
}
"""What is wrong: the file's name, its bytes, and whether some of its rows can be read."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_a_broken_file_costs_that_file_and_no_other(kind, tmp_path, filtering, tsv, ocr_models):
    name, content, partly = FILES[kind]
    (tmp_path / "in").mkdir()
    broken = tmp_path / "in" / name
    broken.write_bytes(content(broken))
    stages = ["captions"]
    if kind == "tar cut off in an image":
        stages.append("spotting")
        _tar(tmp_path / "in" / "good.tar", 4, first=1_000_000)
    else:
        tsv(
            tmp_path / "in" / "good.tsv",
            [{"n": 1_000_000 + n, "caption": f"{SENTENCE} {n}"} for n in range(4)],
        )
    result = filtering(tmp_path / "in", tmp_path / "out", stages=stages)
    assert result.status == 1
    total = _balance(result)
    assert (total > 4) == partly
    if kind == "pages of parquet overwritten":
        assert total == 34 and result.funnel["not_decided"]["rows"] == 10, (
            "the footer has counted them"
        )
    dead_letters = [row for row in result.rows("dead_letter") if row["file"] == str(broken)]
    assert dead_letters and all(row["error"] and row["message"] for row in dead_letters)
    assert result.funnel["dead_letter"]["units"] >= 1
    assert any(
        f"could not be read completely ({broken}: " in row
        for row in result.said
        if row.startswith("error:")
    )
    verdicts = [
        row["n"]
        for kind in ("kept", "rejected")
        for row in result.rows(kind)
        if str(row["n"]).startswith("10000")
    ]
    assert len(verdicts) == 4
    again = filtering(tmp_path / "in", tmp_path / "out", stages=stages)
    assert again.status == 1 and again.tables() == result.tables()


@pytest.mark.parametrize("damaged", ["caption", "image", "both"])
def test_a_damaged_row_group_costs_its_own_rows(tmp_path, filtering, ocr_models, damaged):
    """The groups behind it are read, all in one unit of several image units."""
    path = tmp_path / "rows.parquet"
    captions = [f"{SENTENCE} {n}" for n in range(480)]
    table = pa.table({"caption": captions, "n": range(480), "image": [_JPEG] * 480})
    # 128 rows are read at a time; those before the damage stay.
    small = {
        "data_page_size": 512,
        "write_batch_size": 8,
    }
    pq.write_table(
        table, path, row_group_size=160, compression="zstd", use_dictionary=False, **small
    )
    group = pq.read_metadata(path).row_group(1)
    with open(path, "r+b") as file:
        for column in [0, 2] if damaged == "both" else [{"caption": 0, "image": 2}[damaged]]:
            chunk = group.column(column)
            begin = (
                chunk.total_compressed_size * 9 // 10 if column == 0 and damaged == "both" else 0
            )
            file.seek(chunk.data_page_offset + begin)
            file.write(b"\xff" * (chunk.total_compressed_size - begin))
    result = filtering(path, tmp_path / "out")
    total = _balance(result)
    undecided = result.funnel["not_decided"]["rows"]
    assert total + undecided == 480 and result.status == 1
    read = set(result.verdicts())
    assert read == {*range(160), *range(320, 480)}
    assert all(row["n"] == captions.index(row["caption"]) for row in result.rows("kept"))
    lost = [row["caption"] for row in result.rows("dead_letter") if row["ordinal"] is not None]
    assert lost == {"caption": [], "image": captions[160:320], "both": captions[160:288]}[damaged]
    assert undecided == {"caption": 160, "image": 0, "both": 32}[damaged]
    assert any("row group 1 is damaged" in row["message"] for row in result.rows("dead_letter"))
    stored = sorted(path.name for path in (tmp_path / "out" / "shards").glob("*.tar"))
    names = members_of(tmp_path / "out" / "shards" / stored[0])
    assert sum(name.endswith(".jpg") for name in names) == result.funnel["kept"]
    found = verify(tmp_path / "out", parse([str(tmp_path / "out")]))
    assert not found.differences and found.sampled == 480 - undecided, [*found.lines()]


def test_nothing_but_a_broken_file(tmp_path: Path, filtering: Callable[..., Any]) -> None:
    (tmp_path / "a.parquet").write_bytes(b"<html>")
    result = filtering(tmp_path / "a.parquet", tmp_path / "out")
    assert result.status == 1
    assert [row["file"] for row in result.rows("dead_letter")] == [str(tmp_path / "a.parquet")]
    assert result.funnel["rows_in"] == result.funnel["kept"] == 0
    assert (tmp_path / "out" / "report.html").exists()
