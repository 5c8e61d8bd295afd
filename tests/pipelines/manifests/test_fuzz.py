"""Manifests damaged at random: no error but those that are documented, and rows are conserved."""

import gzip
import io
import json
import random
import resource
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import (
    ManifestError,
    UnreadableFile,
    inspect,
    read,
    read_images,
    split,
)

CUSTOM = load_dataset("custom")
MOST_MIB = 2_048
"""More memory than any of these files may take."""
Chance = random.Random
Rows = tuple[list[tuple[int, str]], bool]


def words(chance: Chance) -> str:
    return chance.choice(
        ["a dog runs", "", "nan", "größer 😀", 'a "b" c', "x" * chance.randrange(3000), "a\tb", "0"]
    )


def parquet(chance: Chance) -> bytes:
    rows = chance.randrange(1, 400)
    columns: dict[str, pa.Array] = {
        "caption": pa.array([chance.choice([None, words(chance)]) for _ in range(rows)]),
        "url": pa.array([f"http://{row}" for row in range(rows)]),
        "n": pa.array(range(rows)),
        "image": pa.array([chance.randbytes(chance.randrange(2000)) for _ in range(rows)]),
        "box": pa.array([{"x": row, "name": words(chance)} for row in range(rows)]),
    }
    types = {
        "caption": [pa.string(), pa.string_view(), pa.large_string(), pa.binary_view(), pa.binary()]
    }
    types["url"] = [pa.string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
    tags = [pa.list_(pa.string()), pa.list_view(pa.string()), pa.large_list(pa.string_view())]
    for name, known in types.items():
        columns[name] = columns[name].cast(chance.choice(known))
    columns["tags"] = pa.array(
        [[words(chance)] * chance.randrange(3) for _ in range(rows)], chance.choice(tags)
    )
    chosen = {
        name: column
        for name, column in columns.items()
        if name == "caption" or chance.random() < 0.7
    }
    buffer = io.BytesIO()
    pq.write_table(
        pa.table(chosen),
        buffer,
        compression=chance.choice(["none", "snappy", "zstd", "gzip"]),
        row_group_size=chance.choice([7, 100, 1000]),
        data_page_size=chance.choice([64, 4096, 2**20]),
        use_dictionary=chance.random() < 0.5,
        data_page_version=chance.choice(["1.0", "2.0"]),
        write_page_checksum=chance.random() < 0.5,
    )
    return buffer.getvalue()


def text(separator: str, chance: Chance) -> bytes:
    lines = [separator.join(("caption", "url"))]
    lines += [
        separator.join((words(chance), f"http://{row}")) for row in range(chance.randrange(300))
    ]
    return chance.choice(["\n", "\r\n"]).join(lines).encode()


def json_lines(chance: Chance) -> bytes:
    lines = []
    for row in range(chance.randrange(1, 200)):
        item: dict[str, object] = {"caption": words(chance), "url": f"http://{row}"}
        item["n"] = chance.choice([1, 1.5, "1", None, [1], {"a": []}])
        lines.append(json.dumps(item, ensure_ascii=chance.random() < 0.5))
        if chance.random() < 0.02:
            depth = chance.randrange(2000)
            lines.append('{"caption": ' + "[" * depth + "]" * depth + "}")
    return "\n".join(lines).encode()


def tar(chance: Chance) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=chance.choice([0, 1, 2])) as archive:
        for row in range(chance.randrange(1, 150)):
            for ending in ("jpg", "json", "txt"):
                if chance.random() < 0.05:
                    continue
                content = {
                    "json": json.dumps({"caption": words(chance)}).encode(),
                    "txt": words(chance).encode(),
                }
                data = content.get(ending, chance.randbytes(chance.randrange(900)))
                member = tarfile.TarInfo(f"{row:04d}{'ü' * chance.choice([0, 0, 40])}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


KINDS: dict[str, tuple[str, Callable[[Chance], bytes]]] = {
    "parquet": (".parquet", parquet),
    "tsv": (".tsv", lambda chance: text("\t", chance)),
    "csv": (".csv", lambda chance: text(",", chance)),
    "jsonl": (".jsonl", json_lines),
    "tar": (".tar", tar),
}


def damaged(content: bytes, chance: Chance) -> bytes:
    """The content with up to five wounds: cut, bytes or stretches replaced, left out, doubled, or a
    number blown up."""
    data = bytearray(content)
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        at = (
            chance.randrange(len(data) + 1)
            if chance.random() < 0.7
            else max(len(data) - chance.randrange(1, 3000), 0)
        )
        length = chance.choice([1, 4, 40, 1000])
        match chance.randrange(6):
            case 0:
                del data[at:]
            case 1:
                data[at : at + length] = chance.randbytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = (
                    bytes([chance.choice([0, 0x22, 0x5B, 0x7F, 0x80, 0xFF])]) * length
                )
            case _:
                data[at : at + 4] = b"\xff\xff\xff\x07"
    return bytes(data)


def rows_of(what: object, batch_rows: int, images: bool) -> Rows:
    """Place and verdict of every row, and whether the file broke."""
    rows: list[tuple[int, str]] = []
    try:
        for batch in read(what, CUSTOM, batch_rows, images=images):  # type: ignore[arg-type]
            pairs = zip(batch.ordinals.tolist(), batch.captions, strict=True)
            good = [(place, caption or "") for place, caption in pairs]
            rows += sorted([*good, *((bad.ordinal, bad.error) for bad in batch.bad)])
    except UnreadableFile:
        return rows, True
    return rows, False


def check(path: Path, chance: Chance, seen: Counter[str]) -> None:
    try:
        info = inspect(str(path), CUSTOM)
        spans = split(info, chance.choice([5, 50, 1000]))
    except ManifestError as error:
        seen[f"{path.suffix} refused: {type(error).__name__}"] += 1
        return
    whole, broken = rows_of(info, 1000, False)
    places = [place for place, _ in whole]
    if broken:  # rows of damaged row groups are left out
        assert places == sorted(set(places))
    else:
        assert places == list(range(len(whole)))
    assert rows_of(info, chance.choice([1, 17, 256]), False) == (whole, broken)
    pieces = [rows_of(span, 100, False) for span in spans]
    if not broken:
        assert [row[1] for piece, _ in pieces for row in piece] == [row[1] for row in whole]
    with_images, broken_there = rows_of(info, 100, True)
    assert set(with_images) <= set(whole) and with_images == sorted(
        with_images, key=lambda row: row[0]
    )
    assert broken_there or len(with_images) == len(whole)
    try:
        found = list(read_images(info, CUSTOM, places))
        assert [place for place, _ in found] == places
    except UnreadableFile:
        assert broken or info.images
    seen[f"{path.suffix} {'broken' if broken else 'read'}"] += 1
    seen["rows"] += len(whole)


def fuzz(folder: Path, count: int, seed: int, seconds: float) -> Counter[str]:
    """Makes and reads files until `count` or the time is reached; what became of them."""
    seen: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > end:
            break
        chance = random.Random(f"{seed} {number}")
        ending, make = KINDS[chance.choice(list(KINDS))]
        content = damaged(make(chance), chance)
        if ending != ".parquet" and chance.random() < 0.2:
            content = damaged(gzip.compress(content), chance)
        path = folder / f"fuzzed{ending}"
        path.write_bytes(content)
        try:
            check(path, chance, seen)
        except BaseException as error:
            error.add_note(f"seed {seed}, file {number}: {path}")
            raise
        seen["files"] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak - before < MOST_MIB * 1024
    return seen


def test_damaged_manifests(tmp_path: Path) -> None:
    seen = fuzz(tmp_path, 40, seed=1, seconds=60)
    assert seen["files"] and seen["rows"]


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_many_damaged_manifests(tmp_path: Path) -> None:
    seen = fuzz(tmp_path, 20_000, seed=2, seconds=600)
    print(dict(sorted(seen.items())))
    assert all(any(name.startswith(ending) for name in seen) for ending, _ in KINDS.values())
