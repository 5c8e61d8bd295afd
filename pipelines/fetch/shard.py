"""Fetch the images of a table of rows into one webdataset shard, with img2dataset's downloader.

img2dataset provides the threads, the resizing and the tar. The requests (opener.py) and the
decoding (tool.py) are ours, because both handle untrusted data. The verification of hashes
(opener.py) is ours too, because rows that share a URL may expect different files.
"""

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.opener import MISMATCH, Notes, expected_of, opening_by
from open_diht.pipelines.fetch.records import ARRIVED, FETCHED, REQUESTED, FetchedRow, RequestedRow
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.tool import load_tool
from open_diht.pipelines.fetch.urls import parse_url

_CODES = frozenset(reason.value for reason in Reason)
_SWAPPED: FetchedRow = {"status": str(Reason.HASH_MISMATCH), "message": MISMATCH}


def fetch_shard(
    rows: pa.Table,
    folder: Path,
    name: str,
    settings: DownloadSettings,
    fetcher: Fetcher,
    beat: Callable[[int], None] = lambda done: None,
) -> tuple[pa.Table, Path | None]:
    """Fetch the images of `rows`, a table of schema `REQUESTED`, into a tar `name`.tar in an empty
    local folder. Return the records, a table of schema `FETCHED` sorted by ordinal, and the tar.
    The tar is None if no image was fetched.

    The tar has members jpg, txt (the caption) and json (with uid) for each image, in order of
    completion. A URL that several rows share is fetched once, and its image stored once under the
    caption of the first row. The records assign the image to all these rows, except those with
    another hash.

    Failed requests become records. Raise RuntimeError if img2dataset is not installed, did not
    report every row, or failed in an unknown way; any other exception of the fetcher is raised too.
    """
    records: list[FetchedRow] = []
    shared: dict[str, list[RequestedRow]] = {}
    for row in rows.to_pylist():
        try:
            shared.setdefault(_address(row["url"]), []).append(row)
        except FetchError as error:  # refused before any request
            records.append(
                _record(row, {"status": str(error.reason), "message": error.message, "attempts": 0})
            )
    if shared:
        expected = {
            address: [expected_of(row) for row in group] for address, group in shared.items()
        }
        with opening_by(fetcher, expected) as notes:
            _download([group[0] for group in shared.values()], folder, settings, beat)
        if notes.bug is not None:
            raise notes.bug
        tar = (folder / "00000.tar").rename(folder / f"{name}.tar")
        records += _records(shared, pq.read_table(folder / "00000.parquet"), tar, notes)
    if len(records) != rows.num_rows:
        raise RuntimeError(
            f"img2dataset returned {len(records)} records for {rows.num_rows} rows; see the"
            " worker's log"
        )
    stored = any(record["status"] == ARRIVED for record in records)
    return pa.Table.from_pylist(records, FETCHED).sort_by("ordinal"), tar if stored else None


def _address(url: str | None) -> str:
    """Return the normalized URL. Raises FetchError if `parse_url` refuses it."""
    parse_url(url)
    return str(parse_url((url or "").strip()))  # strip all Unicode white space, as urllib does


def _download(
    rows: list[RequestedRow], folder: Path, settings: DownloadSettings, beat: Callable[[int], None]
) -> None:
    """Write one shard with img2dataset: 00000.tar and 00000.parquet in `folder`."""
    downloader, resizer, writer = load_tool()
    columns = ["ordinal", "uid", "caption", "url"]
    table = pa.Table.from_pylist(rows, REQUESTED).select(columns)
    with (
        pa.OSFile(str(folder / "asked.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as asked,
    ):
        asked.write_table(table)
    downloader(
        sample_writer_class=partial(writer, beat),
        resizer=resizer(settings),
        thread_count=settings.threads,
        save_caption=True,
        extract_exif=False,
        output_folder=str(folder),
        column_list=columns,
        timeout=settings.timeout,
        number_sample_per_shard=max(10, len(rows)),
        oom_shard_count=5,
        # the opener computes hashes, which are checked for every row that shares an image
        compute_hash=None,
        verify_hash_type=None,
        encode_format="jpg",
        # the fetcher retries; img2dataset would retry permanent failures too, and without waiting
        retries=0,
        user_agent_token=None,  # the fetcher sets the user agent and obeys opt-outs
        disallowed_header_directives=None,
    ).download_shard((0, str(folder / "asked.arrow")))


def _records(
    shared: dict[str, list[RequestedRow]], written: pa.Table, tar: Path, notes: Notes
) -> Iterator[FetchedRow]:
    """Yield the records of all rows, given img2dataset's result for the first row of each URL."""
    addresses = {group[0]["ordinal"]: address for address, group in shared.items()}
    with tarfile.open(tar) as members:
        places = {
            member.name.removesuffix(".jpg"): (member.offset_data, member.size)
            for member in members
            if member.name.endswith(".jpg")
        }
    for result in written.to_pylist():
        address = addresses[result["ordinal"]]
        found = _found(result, places, tar.name)
        digests = notes.digests.get(address, {})
        told: FetchedRow = {"attempts": notes.attempts[address], "sha256": digests.get("sha256")}
        for row in shared[address]:
            expected = expected_of(row)
            swapped = digests and expected is not None and not expected.holds(digests)
            yield _record(row, {**(_SWAPPED if swapped else found), **told})


def _found(result: dict[str, Any], places: dict[str, tuple[int, int]], tar: str) -> FetchedRow:
    """Return the part of a record that describes a URL's result: the image's location, or the
    failure."""
    if result["status"] != "success":
        reason, message = _reason(result["status"], result["error_message"] or "")
        return {"status": str(reason), "message": message}
    offset, size = places[result["key"]]
    return {
        "status": ARRIVED,
        "message": "",
        "width": result["original_width"],
        "height": result["original_height"],
        "shard": tar,
        "offset": offset,
        "bytes": size,
    }


def _record(row: RequestedRow, said: FetchedRow) -> FetchedRow:
    return {"ordinal": row["ordinal"], "uid": row["uid"], "url": row["url"], **said}


def _reason(status: str, text: str) -> tuple[Reason, str]:
    """Return the reason and message in img2dataset's error text, which for our own errors begins
    with the reason. Raise RuntimeError if it has no known reason, unless the resizer refused the
    image."""
    head, colon, message = text.partition(": ")
    if colon and head in _CODES:
        return Reason(head), message
    if status == "failed_to_resize":
        return Reason.NOT_AN_IMAGE, text[:300]
    raise RuntimeError(f"img2dataset failed with an unknown message: {text[:300]!r}")
