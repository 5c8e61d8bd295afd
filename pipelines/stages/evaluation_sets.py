"""Evaluation sets that `--decontaminate` names, and the table of their fingerprints in OUTPUT.

Names of tasks are the evaluation's, whose `eval.images` reads their data. It is imported where the
driver reads sets, since workers import this module too and `eval` does not travel to them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.common.files import sha256_file
from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.naming import counted, listing
from open_diht.common.shard_index import stamp_of
from open_diht.common.spelling import spelled_option
from open_diht.common.stores import in_words, translated
from open_diht.filters import copies
from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.pipelines.stages.encoders import BATCH, Encoder, find_encoder
from open_diht.pipelines.stages.encoding import READABLE
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import fingerprint_of
from open_diht.pipelines.store.storage import StorePath, read_table

EVALUATION = "evaluation"
"""Name of the stage that compares rows with the sets, whose folder has the table."""
_IMAGES = ("image", "jpg", "jpeg", "png", "webp")
_CAPTIONS = ("caption", "captions", "text", "txt")
_SUITES = (".yaml", ".yml")
_KEYS = ("key", "uid", "id", "__key__", "name", "image_path")
_TABLE = pa.schema(
    [
        ("set", pa.string()),
        ("item", pa.string()),
        ("sha256", pa.binary()),
        ("pixels", pa.binary()),
        ("hashes", pa.binary()),
        ("embedding", pa.list_(pa.float16())),
        ("captions", pa.list_(pa.string())),
    ]
)
Row = tuple[str, str, bytes, list[str]]
"""Set, item, image file, captions."""


@dataclass(frozen=True)
class EvaluationSet:
    """A set of images, and a hash that changes with them."""

    name: str
    images: int
    sha256: str
    tasks: tuple[str, ...] = ()
    """Names of the tasks on these images."""


def find_sets(text: str) -> list[EvaluationSet]:
    """Return the sets that --decontaminate names. Raise WrongUse, with one line that names the
    command that fetches it, if the data of one is not on this machine."""
    paths, tasks = _divided(text)
    found = []
    for path, word in paths.items():
        with _reading(word):
            found.append(_of_path(path, word))
    if tasks:
        from open_diht.eval.images import image_sets

        with _reading_tasks(text):
            sets = image_sets(tasks)
        for one in sets:
            about = {
                "set": one.tasks[0],
                "images": len(one.data),
                "sha256": one.data.images.fingerprint,
                "labels": one.data.label_hash,
                "tasks": one.tasks,
            }
            found.append(
                EvaluationSet(one.tasks[0], len(one.data), fingerprint_of(about), tuple(one.tasks))
            )
    if not sum(one.images for one in found):
        raise WrongUse(
            f"{spelled_option('decontaminate', text)}: there is no image; name tasks, a folder or a"
            " file"
        )
    return found


def _divided(text: str) -> tuple[dict[Path, str], str]:
    """Return the folders and files that --decontaminate names, each once, with the user's words
    for them, and the words for the evaluation: tasks, suites and suite files. Raise WrongUse for
    a URL."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if urls := [word for word in words if "://" in word]:
        raise WrongUse(
            f"{spelled_option('decontaminate', urls[0])}: a set is read on this machine; download"
            " it first"
        )
    tasks = [
        word
        for word in words
        if word.endswith(_SUITES) or not ("/" in word or word.endswith(".parquet"))
    ]
    paths = {
        Path(os.path.abspath(os.path.expanduser(word))): word for word in words if word not in tasks
    }
    return paths, ",".join(tasks)


def _reading(word: str) -> AbstractContextManager[None]:
    """Turn errors of a disk and of a damaged Parquet file into WrongUse, in one line."""

    def translation(error: Exception) -> WrongUse | None:
        if not isinstance(error, OSError | pa.ArrowException):
            return None
        what = f"cannot be read ({in_words(error)}); repair, remove or replace that file"
        return WrongUse(f"{spelled_option('decontaminate', word)}: {what}")

    return translated(translation)


def _reading_tasks(text: str, what: str = "") -> AbstractContextManager[None]:
    """Turn errors of the evaluation's data into WrongUse, in one line, with `what` before the
    cause."""
    from open_diht.eval.errors import DataBroken

    def translation(error: Exception) -> WrongUse | None:
        if not isinstance(error, WrongUse | DataBroken | OSError):
            return None
        why = in_words(error) if isinstance(error, OSError) else str(error)
        hint = "; a folder has a / in its name, as ./mine" if "unknown task" in why else ""
        return WrongUse(f"{spelled_option('decontaminate', text)}: {what}{why}{hint}")

    return translated(translation)


def _of_path(path: Path, word: str) -> EvaluationSet:
    if path.is_dir():
        _check_readable((file.read_bytes() for file in _files(path)), word)
        state = [
            (_item(file, path), _sha256(file, stamp_of(file)), _captions_beside(file))
            for file in _files(path)
        ]
        return EvaluationSet(path.resolve().name, len(state), fingerprint_of(state))
    if not path.is_file():
        raise WrongUse(
            f"{spelled_option('decontaminate', word)}: no such folder or file; check the path"
        )
    with pq.ParquetFile(path) as file:
        _columns(file.schema_arrow, word)
        _check_readable((image for _, _, image, _ in _of_file(path, word)), word)
        return EvaluationSet(path.stem, file.metadata.num_rows, _sha256(path, stamp_of(path)))


def _check_readable(images: Iterable[bytes], word: str) -> None:
    """Raise WrongUse if no image of a set can be decoded, because nothing would be compared with
    it."""
    if not any(fingerprints_of(image, copies.variants)["status"] == READABLE for image in images):
        raise WrongUse(
            f"{spelled_option('decontaminate', word)}: there is no image in it that can be read;"
            " name a folder or file of images, or leave it out"
        )


@cache
def _sha256(path: Path, stamp: str) -> str:
    """Return the SHA-256 of a file. A run finds its sets when it begins and when it decides."""
    return sha256_file(path)


def _files(folder: Path) -> list[Path]:
    found = (
        file for file in folder.rglob("*") if file.suffix.lower().removeprefix(".") in EXTENSIONS
    )
    return sorted(file for file in found if not file.is_dir())


def _item(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _captions_beside(image: Path) -> list[str]:
    """Return the lines of the text file of an image."""
    text = image.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").splitlines() if text.is_file() else []


def _columns(schema: pa.Schema, word: str) -> tuple[str, str | None, str | None]:
    """Return the columns of a file with the images, with their captions and with their names. Raise
    WrongUse for types that have no images or captions."""
    some = schema.names
    where = spelled_option("decontaminate", word)
    image, caption, key = (
        next((n for n in known if n in some), None) for known in (_IMAGES, _CAPTIONS, _KEYS)
    )
    if image is None:
        raise WrongUse(
            f"{where}: no column of images ({', '.join(_IMAGES)}) among {listing(some)}; rename the"
            " column"
        )
    if not _is_image(kind := schema.field(image).type):
        raise WrongUse(
            f"{where}: column {image} has {_shown(kind)}, not the bytes of image files; store these"
            " there"
        )
    if caption and not _is_caption(kind := schema.field(caption).type):
        raise WrongUse(
            f"{where}: column {caption} has {_shown(kind)}, not text or lists of it; rename the"
            " column"
        )
    return image, caption, key


def _shown(kind: pa.DataType) -> str:
    return f"the type {' '.join(str(kind).split())}"


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_image(kind.field(place).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_caption(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def _rows(text: str) -> Iterator[Row]:
    """Yield the images of all sets, in order."""
    paths, tasks = _divided(text)
    for path, word in paths.items():
        with _reading(word):
            yield from _of_folder(path) if path.is_dir() else _of_file(path, word)
    if tasks:
        from open_diht.eval.images import image_sets

        with _reading_tasks(text, "images cannot be read: "):
            for one in image_sets(tasks):
                for item, image, captions in one.rows():
                    yield one.tasks[0], item, image, captions


def _of_folder(folder: Path) -> Iterator[Row]:
    for file in _files(folder):
        yield folder.resolve().name, _item(file, folder), file.read_bytes(), _captions_beside(file)


def _of_file(path: Path, word: str) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        image, caption, key = _columns(file.schema_arrow, word)
        number = 0
        for batch in file.iter_batches(
            256, columns=[name for name in (image, caption, key) if name]
        ):
            for row in batch.to_pylist():
                data = row[image]
                said = row.get(caption or "") or []
                data = data.get("bytes") if isinstance(data, dict) else data
                captions = [said] if isinstance(said, str) else said
                yield path.stem, str(row[key] if key else number), data or b"", captions
                number += 1


def table_of_sets(
    text: str, layout: Layout, encoder: str | None, say: Callable[[str], None]
) -> tuple[StorePath, list[EvaluationSet], Counter[str]]:
    """Return the path of the table of fingerprints, which is made if it is not there, the sets in
    it, and by the name of a set the number of its images that cannot be decoded. With `encoder`, a
    name, images are embedded too.
    """
    sets = find_sets(text)
    identity = find_encoder(encoder).identity() if encoder else None
    name = fingerprint_of(copies.VERSION, [asdict(one) for one in sets], identity)
    path = layout.data(EVALUATION, f"sets-{name}")
    if not path.exists():
        say(
            f"reading the {counted(sum(one.images for one in sets), 'image')} of"
            f" {listing([one.name for one in sets])}"
        )
        model = Encoder(find_encoder(encoder)) if encoder else None
        rows = _rows(text)
        unread = 0
        with TableFile(path, _TABLE) as out:
            while some := list(islice(rows, BATCH)):
                table = _table(some, model)
                unread += table["hashes"].null_count
                out.write(table)
        if unread:
            say(
                f"{counted(unread, 'evaluation image')} cannot be decoded, and are compared by"
                " their bytes alone"
            )
    table = read_table(path, ["set", "hashes"])
    return path, sets, Counter(table.filter(table["hashes"].is_null())["set"].to_pylist())


def _table(some: Sequence[Row], model: Encoder | None) -> pa.Table:
    """Return the rows of the table for some images."""
    embedded: list[Any] = (
        model.encode([image for _, _, image, _ in some]) if model else [None] * len(some)
    )
    rows = []
    for (of_set, item, image, captions), vector in zip(some, embedded, strict=True):
        row = {
            "set": of_set,
            "item": item,
            "captions": captions,
            **fingerprints_of(image, copies.variants),
        }
        if row["status"] == READABLE and isinstance(vector, np.ndarray):
            row["embedding"] = vector
        rows.append(row)
    return pa.Table.from_pylist(rows, _TABLE)


def fingerprints_of(
    image: bytes, hashed: Callable[[Image.Image], NDArray[Any]]
) -> dict[str, object]:
    """Return the SHA-256 of an image file and its status, and if it can be decoded `Look.pixels`
    and the hashes that `hashed` makes of the luma. An empty file has no SHA-256, because nothing is
    not a copy of nothing.
    """
    row: dict[str, object] = {"sha256": hashlib.sha256(image).digest() if image else None}
    try:
        seen = copies.look(image)
    except UnreadableImage as error:
        return {**row, "status": str(error.reason)}
    return {**row, "status": READABLE, "pixels": seen.pixels, "hashes": hashed(seen.luma).tobytes()}


def normalized(caption: str | None) -> str:
    """Return a caption as captions are compared: in lower case, with single blanks."""
    return " ".join((caption or "").casefold().split())
