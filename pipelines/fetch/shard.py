"""Rows with addresses to one webdataset shard, by img2dataset's downloader.

img2dataset brings the threads, the resizing, the verification of hashes and the tar. What it fetches with is ours
(opener.py), and so is the decoding of what came (tool.py), for both meet the web.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.fetch.fetcher import Fetcher
from pipelines.fetch.opener import Notes, opening_by
from pipelines.fetch.opt_out import DIRECTIVES, robot_names
from pipelines.fetch.reasons import FetchError, Reason
from pipelines.fetch.records import ASKED, FETCHED, OK
from pipelines.fetch.settings import DownloadSettings
from pipelines.fetch.tool import load_tool
from pipelines.fetch.urls import parse_url

_CODES = frozenset(reason.value for reason in Reason)


def fetch_shard(
    rows: pa.Table,
    folder: Path,
    name: str,
    settings: DownloadSettings,
    fetcher: Fetcher,
    beat: Callable[[int], None] = lambda done: None,
) -> tuple[pa.Table, list[Path]]:
    """Fetches the pictures of `rows`, a table of schema `ASKED`, into tars.

    A tar has members jpg, txt (the caption) and json (with uid) for each picture. There is one tar, unless only some
    rows have a hash to verify: img2dataset verifies one kind of hash for all rows of a shard, or none.

    Args:
        rows: what is asked for.
        folder: an empty local folder to work in.
        name: of the tars, without number and ending.
        settings: as those of `fetcher`.
        fetcher: asks the servers.
        beat: called with the number of rows done so far.

    Returns:
        The records, a table of schema `FETCHED` by ordinal, and the tars. The order inside a tar is that of completion.

    Raises:
        RuntimeError, or whatever was raised: an error that is not the web's. Failures of the web are records.
    """
    records: list[dict[str, Any]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        try:
            parse_url(row["url"])
        except FetchError as error:  # nobody is asked
            records.append(_record(row, error.reason, error.message, attempts=0))
            continue
        kind = "sha256" if row["sha256"] else "md5" if row["md5"] else ""
        groups.setdefault(kind, []).append(row)
    tars = []
    for number, (kind, group) in enumerate(sorted(groups.items())):
        done = len(records)
        work = folder / str(number)
        work.mkdir(parents=True)
        # img2dataset hashes by the kind that it verifies; the records have the SHA-256 in any case.
        with opening_by(fetcher, hashing=kind == "md5") as notes:
            _download(group, kind, work, settings, functools.partial(_beat_from, beat, done))
        if notes.bug is not None:
            raise notes.bug
        tar = folder / f"{name}-{number}.tar"
        (work / "00000.tar").rename(tar)
        found = list(_records(group, pq.read_table(work / "00000.parquet"), tar, notes))
        if any(record["status"] == OK for record in found):
            tars.append(tar)
        records += found
    if len(records) != rows.num_rows:
        raise RuntimeError(
            f"{rows.num_rows} addresses were asked for, img2dataset wrote records of {len(records)}; "
            "see the worker's log for what it met"
        )
    return pa.Table.from_pylist(records, FETCHED).sort_by("ordinal"), tars


def _beat_from(beat: Callable[[int], None], before: int, count: int) -> None:
    beat(before + count)


def _download(
    rows: list[dict[str, Any]], kind: str, work: Path, settings: DownloadSettings, beat: Callable[[int], None]
) -> None:
    """One shard by img2dataset: 00000.tar and 00000.parquet in `work`."""
    tool = load_tool()
    columns = ["ordinal", "uid", "caption", "url", *([kind] if kind else [])]
    table = pa.Table.from_pylist(rows, ASKED).select(columns)
    if kind:
        place = table.schema.get_field_index(kind)
        table = table.set_column(place, kind, pc.utf8_lower(pc.utf8_trim_whitespace(table[kind])))
    with pa.OSFile(str(work / "asked.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    downloader = tool.Downloader(
        sample_writer_class=tool.beating_writer(beat),
        resizer=tool.Resizer(settings),
        thread_count=settings.threads,
        save_caption=True,
        extract_exif=False,
        output_folder=str(work),
        column_list=columns,
        timeout=settings.timeout,
        number_sample_per_shard=max(10, len(rows)),
        oom_shard_count=5,
        compute_hash=kind or "sha256",
        verify_hash_type=kind or None,
        encode_format="jpg",
        retries=0,  # the fetcher's own: img2dataset would repeat what cannot succeed, at once
        user_agent_token=robot_names(settings.user_agent)[0],
        disallowed_header_directives=list(DIRECTIVES) if settings.respect_opt_out else None,
    )
    downloader.download_shard((0, str(work / "asked.arrow")))


def _records(rows: list[dict[str, Any]], written: pa.Table, tar: Path, notes: Notes) -> Iterator[dict[str, Any]]:
    asked = {row["ordinal"]: row for row in rows}
    with tarfile.open(tar) as members:
        places = {
            member.name.removesuffix(".jpg"): (member.offset_data, member.size)
            for member in members
            if member.name.endswith(".jpg")
        }
    for result in written.to_pylist():
        row = asked[result["ordinal"]]
        attempts, sha256 = notes.attempts[row["url"]], result.get("sha256") or notes.sha256.get(row["url"])
        if result["status"] == "success":
            offset, size = places[result["key"]]
            yield {
                **_record(row, OK, "", attempts=attempts, sha256=sha256),
                "width": result["original_width"],
                "height": result["original_height"],
                "shard": tar.name,
                "offset": offset,
                "bytes": size,
            }
        else:
            reason, message = _reason(result["status"], result["error_message"] or "")
            yield _record(row, reason, message, attempts=attempts, sha256=sha256)


def _record(
    row: dict[str, Any], status: str, message: str, *, attempts: int, sha256: str | None = None
) -> dict[str, Any]:
    return {
        **{field.name: None for field in FETCHED},
        **{name: row[name] for name in ("ordinal", "uid", "url")},
        **{"status": str(status), "message": message, "attempts": attempts, "sha256": sha256},
    }


def _reason(status: str, text: str) -> tuple[Reason, str]:
    """Our own texts begin with the reason; img2dataset has three more."""
    head, colon, message = text.partition(": ")
    if colon and head in _CODES:
        return Reason(head), message
    if text == "hash mismatch":
        return Reason.HASH_MISMATCH, "the picture is another than the manifest's"
    if text.startswith("Use of image disallowed"):
        return Reason.OPT_OUT, text
    if status == "failed_to_resize":
        return Reason.NOT_A_PICTURE, text[:300]
    raise RuntimeError(f"img2dataset failed with a text that is not known: {text[:300]!r}")
