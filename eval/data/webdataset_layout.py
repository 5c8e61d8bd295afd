"""The webdataset layout of CLIP_benchmark and DataComp.

    <set>/<split>/nshards.txt, 0.tar, 1.tar, ...    samples: an image such as <key>.jpg, and a label
    <set>/classnames.txt                            one class per line, in order of label
    <set>/zeroshot_classification_templates.txt     one template per line, slot {c}
    <set>/dataset_type.txt                          retrieval, multilabel or vqa; missing:
    classification

Label members: <key>.cls (a number), <key>.npy (multilabel: 0 or 1 per class), <key>.txt (retrieval:
a caption per line). `vqa` is ours: <key>.json with {"questions": [{"question", "kind", "answers",
"candidates"}, ...]}.

DataComp's copies of sets with groups have a <key>.npy next to the label: whole numbers such as
region, year and class.

Shards are indexed, and images are then read in any order, so that ranks and interrupted runs read
only the images that they need. A number of shards other than in nshards.txt is an error.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open_diht.common.image_formats import EXTENSIONS
from open_diht.common.tar_stream import BrokenTar, TarStream
from open_diht.eval.data.dataset import Annotation, DataSet, Question, decode
from open_diht.eval.data.files import text_of, usable
from open_diht.eval.errors import DataBroken, DataMissing, WrongUse
from open_diht.eval.records import Memo, sha256_of

# Value in dataset_type.txt -> (annotation, extension of its member)
TYPES: dict[str, tuple[Annotation, str]] = {
    "classification": ("labels", "cls"),
    "multilabel": ("labels", "npy"),
    "retrieval": ("captions", "txt"),
    "vqa": ("questions", "json"),
}
METADATA = "npy"
"""Extension of the member with DataComp's numbers about an image."""


def read_webdataset(
    folder: Path,
    split: str,
    needs: Annotation,
    memo: Memo,
    place: str,
    options: Mapping[str, Any] | None = None,
) -> DataSet:
    """Read the set in `folder`. Options, for classification: `group` and `burst`, the positions in
    <key>.npy of the numbers of an image's group and of its series; `group_name`, a word to put
    before a group's number.
    """
    options = options or {}
    if set(options) - {"group", "group_name", "burst"}:
        raise WrongUse(
            f"{place}: a webdataset takes the options group, group_name and burst; got"
            f" {dict(options)}"
        )
    shards = _shards(folder / split, place)
    type_file = folder / "dataset_type.txt"
    said = (
        text_of(type_file, f"{place}/{type_file.name}").strip()
        if type_file.is_file()
        else "classification"
    )
    if said not in TYPES:
        raise DataBroken(f"{place}/dataset_type.txt says {said!r}; known are {', '.join(TYPES)}")
    annotation, member = TYPES[said]
    if annotation != needs:
        raise DataBroken(f"{place} is a {said} set and cannot serve a task that needs {needs}")
    # Read the numbers only if an option needs them.
    numbered = said == "classification" and bool({"group", "burst"} & set(options))
    members = {"image": "", "label": member} | ({"numbers": METADATA} if numbered else {})
    samples = _samples(shards, members, memo, place)
    images = TarImages(shards, samples, place)
    labels = [_member(shards, sample, member, place) for sample in samples]
    if annotation == "labels":
        read = samples if numbered else []
        numbers = [
            _row(_content(shards, sample["numbers"]), sample, place).tolist() for sample in read
        ]
        group = options.get("group")
        burst = options.get("burst")
        name = str(options.get("group_name", "group"))
        return DataSet(
            images=images,
            layout="webdataset",
            place=place,
            labels=_classes(labels, said, samples, place),
            class_names=_lines(folder / "classnames.txt", place),
            templates=_lines(folder / "zeroshot_classification_templates.txt", place),
            groups=(
                None
                if group is None
                else tuple(f"{name} {one}" for one in _column(numbers, group, place))
            ),
            bursts=(
                None if burst is None else np.array(_column(numbers, burst, place), dtype=np.int64)
            ),
        )
    if annotation == "captions":
        captions = tuple(
            tuple(line for line in label.decode("utf-8").splitlines() if line) for label in labels
        )
        for sample, found in zip(samples, captions, strict=True):
            if not found:
                raise DataBroken(f"{place}, sample {sample['key']}: no caption")
        return DataSet(images=images, layout="webdataset", place=place, captions=captions)
    questions: list[Question] = []
    for index, label in enumerate(labels):
        key = samples[index]["key"]
        with usable(f"{place}, sample {key!r}, {member} member", None):
            questions += [
                Question(
                    key=f"{key}/{number}",
                    image=index,
                    question=raw["question"],
                    kind=raw["kind"],
                    answers=tuple(raw["answers"]),
                    candidates=tuple(raw["candidates"]),
                )
                for number, raw in enumerate(json.loads(label)["questions"])
            ]
    return DataSet(images=images, layout="webdataset", place=place, questions=tuple(questions))


class TarImages:
    """Images inside shards, read by their offset."""

    def __init__(self, shards: Sequence[Path], samples: Sequence[dict[str, Any]], place: str):
        self._shards = list(shards)
        self._place = place
        self._where = [tuple(sample["image"]) for sample in samples]
        self.keys: Sequence[str] = [sample["key"] for sample in samples]
        self.fingerprint = sha256_of([[sample["key"], sample["image"][3]] for sample in samples])

    def open(self, index: int) -> Image.Image:
        content = _content(self._shards, self._where[index])
        shard = self._shards[self._where[index][0]]
        return decode(content, f"{self._place}, {shard.name}, sample {self.keys[index]}")

    def stored_hash(self, index: int) -> str | None:
        return f"file:{self._where[index][3]}"

    def content(self, index: int) -> bytes | None:
        return _content(self._shards, self._where[index])


def _shards(folder: Path, place: str) -> list[Path]:
    place = f"{place}/{folder.name}"
    if not folder.is_dir():
        raise DataMissing(f"{place} is not there")
    count_file = folder / "nshards.txt"
    if not count_file.is_file():
        raise DataBroken(
            f"{place}/nshards.txt is missing: the download is incomplete, or the layout is another"
        )
    text = text_of(count_file, f"{place}/{count_file.name}").strip()
    if not text.isdecimal() or int(text) < 1:
        raise DataBroken(f"{place}/nshards.txt holds {text!r}, not a number of shards")
    promised = {f"{index}.tar" for index in range(int(text))}
    present = {path.name for path in folder.glob("*.tar")}
    if promised != present:
        lacking = sorted(promised - present)
        extra = sorted(present - promised)
        detail = (
            f"lacks {', '.join(lacking[:5])}" if lacking else f"has besides {', '.join(extra[:5])}"
        )
        raise DataBroken(
            f"{place}: nshards.txt says {text} shards, the folder {detail}; remove the folder and"
            " fetch the set again"
        )
    return [folder / f"{index}.tar" for index in range(int(text))]


def _index(shard: Path) -> list[list[Any]]:
    """Return [key, extension, offset, size, sha256] of every sample member. The sha256 is "" except
    for images."""
    members: list[list[Any]] = []
    try:
        with open(shard, "rb") as file:
            tar = TarStream(file, size=shard.stat().st_size)
            for member in tar:
                if parts := member.sample():
                    # Only images are hashed here; labels are hashed by `DataSet.label_hash`.
                    digest = (
                        hashlib.sha256(tar.content(member)).hexdigest()
                        if parts[1] in EXTENSIONS
                        else ""
                    )
                    members.append([*parts, member.content, member.size, digest])
    except BrokenTar as error:
        raise DataBroken(
            f"{shard} is not a readable tar file ({error}); remove it and its nshards.txt, and"
            " fetch the set again"
        ) from None
    return members


def _samples(
    shards: Sequence[Path], members: Mapping[str, str], memo: Memo, place: str
) -> list[dict[str, Any]]:
    """Return every sample in order: its "key", and for each name in `members` its [shard, offset,
    size, sha256 of an image or ""]. `members` maps names to extensions. Several extensions are an
    image, so "image" maps to "".
    """
    by_extension = {extension: what for what, extension in members.items()}
    samples: dict[str, dict[str, Any]] = {}
    for number, shard in enumerate(shards):
        for key, extension, offset, size, digest in memo.of(shard, "members of samples", _index):
            sample = samples.setdefault(key, {"key": key, "shard": number})
            what = "image" if extension in EXTENSIONS else by_extension.get(extension)
            if what is None:
                continue
            if what in sample or sample["shard"] != number:
                raise DataBroken(
                    f"{place}: two samples, or two images of a sample, have the key {key!r}"
                )
            sample[what] = [number, offset, size, digest]
    for sample in samples.values():
        for what, extension in members.items():
            if what not in sample:
                name = f".{extension}" if extension else what
                raise DataBroken(f"{place}, sample {sample['key']!r} has no {name} member")
    if not samples:
        raise DataBroken(f"{place} holds no samples")
    return list(samples.values())


def _classes(
    raw: Sequence[bytes], said: str, samples: Sequence[dict[str, Any]], place: str
) -> np.ndarray:
    """Return (n,) int64 labels, or (n, c) bool for multilabel sets."""
    rows: list[Any] = []
    for sample, content in zip(samples, raw, strict=True):
        try:
            rows.append(_row(content, sample, place) if said == "multilabel" else int(content))
        except ValueError:
            raise DataBroken(
                f"{place}, sample {sample['key']!r}: {content[:20]!r} is not a label"
            ) from None
    if said == "multilabel" and len({len(row) for row in rows}) > 1:
        raise DataBroken(f"{place}: its .npy members have different numbers of classes")
    return np.array(rows, dtype=bool if said == "multilabel" else np.int64)


def _row(content: bytes, sample: Mapping[str, Any], place: str) -> np.ndarray:
    """Return the (n,) int64 numbers of a .npy member. Raises `DataBroken` unless they are a row of
    whole numbers."""
    try:
        found = np.lib.format.read_array(io.BytesIO(content))
        whole = found.astype(np.int64)
        if found.ndim != 1 or not np.array_equal(found, whole):
            raise ValueError(f"shape {found.shape}, {found.dtype}")
    except (ValueError, TypeError) as error:
        raise DataBroken(
            f"{place}, sample {sample['key']!r}: its .npy member is not a row of whole numbers"
            f" ({error})"
        ) from None
    return whole


def _column(numbers: Sequence[Sequence[int]], column: int, place: str) -> list[int]:
    if not numbers:
        raise DataBroken(f"{place} has no groups: it is not a classification set")
    if any(len(row) <= column for row in numbers):
        raise DataBroken(f"{place}: its .{METADATA} members have no number {column}")
    return [row[column] for row in numbers]


def _member(shards: Sequence[Path], sample: dict[str, Any], label: str, place: str) -> bytes:
    content = _content(shards, sample["label"])
    try:
        if label != "npy":
            content.decode("utf-8")
    except UnicodeDecodeError:
        raise DataBroken(
            f"{place}, sample {sample['key']!r}: its .{label} member is not UTF-8"
        ) from None
    return content


def _content(shards: Sequence[Path], member: Sequence[Any]) -> bytes:
    """Return the content of a member, given as [shard, offset, size, ...]."""
    with shards[member[0]].open("rb") as file:
        file.seek(member[1])
        return file.read(member[2])


def _lines(path: Path, place: str) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    return tuple(
        line for line in text_of(path, f"{place}/{path.name}").splitlines() if line.strip()
    )
