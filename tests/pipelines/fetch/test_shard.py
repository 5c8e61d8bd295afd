"""Rows to a webdataset shard by img2dataset: what is stored, and what is said of each row."""

import dataclasses
import hashlib
import io
import json
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.opener import opening_by
from open_diht.pipelines.fetch.settings import DownloadSettings

pytest.importorskip("img2dataset", reason="img2dataset is not installed: pip install '.[download]'")

from open_diht.pipelines.fetch.records import FETCHED, REQUESTED
from open_diht.pipelines.fetch.shard import fetch_shard
from tests.common.hostile_images import encode

Rows = list[dict[str, Any]]
Shard = Callable[..., tuple[Rows, Path | None]]


def _row(ordinal: int, url: str | None, **more: Any) -> dict[str, Any]:
    return {
        "ordinal": ordinal,
        "uid": f"{ordinal:032x}",
        "caption": f"Caption {ordinal}, grün",
        "url": url,
        **more,
    }


@pytest.fixture
def shard(tmp_path: Path, settings: DownloadSettings) -> Iterator[Shard]:
    def fetch(rows: Rows, **more: Any) -> tuple[Rows, Path | None]:
        asked = dataclasses.replace(settings, **more)
        fetcher = Fetcher(asked)
        records, tar = fetch_shard(
            pa.Table.from_pylist(rows, REQUESTED), tmp_path, "00000-00000.0000.g0", asked, fetcher
        )
        fetcher.close()
        assert records.schema == FETCHED
        return records.to_pylist(), tar

    yield fetch


def _stored(record: dict[str, Any], tar: Path | None) -> bytes:
    assert tar is not None and tar.name == record["shard"]
    with open(tar, "rb") as file:
        file.seek(record["offset"])
        return file.read(record["bytes"])


def test_a_shard(web: Any, shard: Shard, make_jpeg: Callable[..., bytes]) -> None:
    images = {place: make_jpeg(size=(40 + place, 30)) for place in range(12)}
    rows = [_row(place, web.page(f"/{place}.jpg", body)) for place, body in images.items()]
    rows[3:3] = [_row(50, web.url("/none.jpg")), _row(51, "http://10.0.0.1/a.jpg"), _row(52, None)]
    records, tar = shard(rows)
    assert [record["ordinal"] for record in records] == [*range(12), 50, 51, 52]
    assert [record["status"] for record in records[12:]] == [
        "http_status",
        "blocked_address",
        "bad_url",
    ]
    assert records[12]["message"] == "404 Not Found" and records[14]["attempts"] == 0
    for record in records[:12]:
        body = images[record["ordinal"]]
        assert record["status"] == "ok" and record["attempts"] == 1
        assert record["sha256"] == hashlib.sha256(body).hexdigest()
        assert (record["width"], record["height"]) == (40 + record["ordinal"], 30)
        assert _stored(record, tar) == body, "a small JPEG is stored as it came"
    samples: dict[str, dict[str, bytes]] = {}
    assert tar is not None
    with tarfile.open(tar) as members:
        for member in members:
            key, ending = member.name.split(".", 1)
            content = members.extractfile(member)
            assert content is not None
            samples.setdefault(key, {})[ending] = content.read()
    assert len(samples) == 12
    for sample in samples.values():
        meta = json.loads(sample["json"])
        assert meta["uid"] == f"{meta['ordinal']:032x}" and sample["jpg"] == images[meta["ordinal"]]
        assert sample["txt"].decode() == f"Caption {meta['ordinal']}, grün" == meta["caption"]


def test_large_turned_and_odd_images(web: Any, shard: Shard) -> None:
    """Stored upright, as JPEG, the longest side reduced; the record has the size of the
    original."""
    turned = Image.new("RGB", (900, 300), (250, 250, 250))
    # Red on the left, which is the top once it stands upright.
    turned.paste((255, 0, 0), (0, 0, 450, 300))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: dict[str, bytes] = {}
    for name, image, more in (
        ("JPEG", turned, {"exif": exif}),
        ("PNG", Image.new("RGBA", (600, 900), (0, 0, 0, 0)), {}),
        ("GIF", Image.new("P", (50, 90)), {}),
        ("BMP", Image.new("RGB", (64, 48), (9, 9, 9)), {}),
        ("WEBP", Image.new("RGB", (64, 48), (1, 2, 3)), {}),
    ):
        kinds[name] = encode(image, name, **more)
    rows = [
        _row(index, web.page(f"/{name}", body)) for index, (name, body) in enumerate(kinds.items())
    ]
    records, tar = shard(rows, image_size=512)
    assert {r["status"] for r in records} == {"ok"}
    sizes = [(r["width"], r["height"]) for r in records]
    assert sizes == [(300, 900), (600, 900), (50, 90), (64, 48), (64, 48)]
    stored = [Image.open(io.BytesIO(_stored(record, tar))) for record in records]
    assert all(image.format == "JPEG" for image in stored)
    assert [image.size for image in stored] == [
        (171, 512),
        (341, 512),
        (50, 90),
        (64, 48),
        (64, 48),
    ]
    pixels: list[Any] = [image.convert("RGB") for image in stored[:2]]
    assert pixels[0].getpixel((85, 60))[1] < 90 < pixels[0].getpixel((85, 450))[1], "upright"
    assert min(pixels[1].getpixel((9, 9))) > 240, "transparent on white"


def test_an_address_of_many_rows_is_asked_once(
    web: Any, shard: Shard, make_jpeg: Callable[..., bytes]
) -> None:
    """However it is spelled; every row has the image, or the reason."""
    body = make_jpeg()
    url = web.page("/a b", body)
    gone = web.url("/gone")
    html = web.page("/html", b"<html>")
    spelled = [
        url,
        f" {url}",
        f"{url}#top",
        f"{url}\xa0",
        url.replace("http:", "HTTP:"),
        url.replace(" ", "%20"),
    ]
    web.pages["/a%20b"] = web.pages["/a b"]
    rows = [_row(index, spelling) for index, spelling in enumerate([*spelled, *[gone, html] * 2])]
    records, tar = shard(rows)
    assert sorted(web.asked) == ["/a%20b", "/gone", "/html"]
    assert [(record["url"], record["uid"]) for record in records] == [
        (row["url"], row["uid"]) for row in rows
    ]
    assert [record["status"] for record in records] == ["ok"] * 6 + [
        "http_status",
        "not_an_image",
    ] * 2
    assert {record["attempts"] for record in records} == {1}
    assert {_stored(record, tar) for record in records[:6]} == {body} and len(
        {r["offset"] for r in records[:6]}
    ) == 1
    assert {record["sha256"] for record in records[:6]} == {hashlib.sha256(body).hexdigest()}
    assert [record["message"] for record in records[6::2]] == ["404 Not Found"] * 2


def test_rows_of_one_address_differ_in_what_they_expect_there(web, shard, make_jpeg):
    body = make_jpeg()
    url = web.page("/a", body)
    swapped = web.page("/b", make_jpeg(colour=(0, 0, 99)))
    sha = hashlib.sha256(body).hexdigest()
    md5 = hashlib.md5(body).hexdigest()
    ours = [
        {"sha256": "0" * 64},
        {"md5": md5.upper()},
        {"sha256": sha},
        {},
        {"md5": "0" * 32},
        {"sha256": "  "},
    ]
    rows = [_row(index, url, **more) for index, more in enumerate(ours)]
    rows += [_row(10, swapped, sha256=sha), _row(11, swapped, md5=md5)]
    records, tar = shard(rows)
    assert sorted(web.asked) == ["/a", "/b"]
    other = "hash_mismatch"
    assert [record["status"] for record in records] == [
        other,
        "ok",
        "ok",
        "ok",
        other,
        "ok",
        other,
        other,
    ]
    assert {_stored(record, tar) for record in records if record["status"] == "ok"} == {body}
    assert {record["sha256"] for record in records[:6]} == {sha} and sha not in {
        r["sha256"] for r in records[6:]
    }
    assert tar is not None
    with tarfile.open(tar) as members:
        stored = [name for name in members.getnames() if name.endswith(".jpg")]
    assert len(stored) == 1, "an image that is nobody's is not stored"


def test_what_servers_fail_with_is_said_before_hashes(web: Any, shard: Shard) -> None:
    records, tar = shard([_row(0, web.url("/gone"), sha256="0" * 64), _row(1, web.url("/gone"))])
    assert [record["status"] for record in records] == [
        "http_status",
        "http_status",
    ] and tar is None


def test_our_own_errors_fail_the_shard(
    web: Any, settings: DownloadSettings, tmp_path: Path
) -> None:
    """An error that is not the web's must not pass for a dead link."""

    def broken(host: str, port: int, timeout: float) -> list[str]:
        raise KeyError("a bug")

    fetcher = Fetcher(settings, resolve=broken)
    table = pa.Table.from_pylist([_row(0, web.url("/a"))], REQUESTED)
    with pytest.raises(KeyError, match="a bug"):
        fetch_shard(table, tmp_path, "s", settings, fetcher)


def test_urllib_is_as_before_afterwards(web: Any, fetcher: Fetcher) -> None:
    web.page("/a", b"x")
    with opening_by(fetcher), urllib.request.urlopen(web.url("/a")) as answer:
        assert answer.read() == b"x"
    assert web.seen[-1]["User-Agent"].startswith("diht/")
    with urllib.request.urlopen(web.url("/a")) as answer:
        assert answer.read() == b"x"
    assert web.seen[-1]["User-Agent"].startswith("Python-urllib")
