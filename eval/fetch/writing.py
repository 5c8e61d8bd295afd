"""Writing a data set in the webdataset layout that `open_diht.eval.data` reads; it appears under its name when it is
whole."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from open_diht.common.files import published_folder

Sample = tuple[str, Mapping[str, Any]]
"""Key, and by extension the content, bytes or text, of the members."""
PER_SHARD = 1000


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """An RGB image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def questions_member(questions: Sequence[Mapping[str, Any]]) -> str:
    """The .json member of a vqa set."""
    return json.dumps({"questions": list(questions)}, ensure_ascii=False)


def write_webdataset(
    folder: Path,
    samples: Iterable[Sample],
    *,
    split: str = "test",
    kind: str = "classification",
    class_names: Sequence[str] = (),
    templates: Sequence[str] = (),
    per_shard: int = PER_SHARD,
) -> int:
    """Write samples (key, {extension: content}) to `folder` and return how many; `kind` goes to dataset_type.txt."""
    with published_folder(folder) as building:
        (building / split).mkdir()
        count = 0
        for shard, part in enumerate(_parts(samples, per_shard)):
            count += write_tar(building / split / f"{shard}.tar", part)
        lists = {
            f"{split}/nshards.txt": [str(-(-count // per_shard))],
            "dataset_type.txt": [] if kind == "classification" else [kind],
            "classnames.txt": class_names,
            "zeroshot_classification_templates.txt": templates,
        }
        for name, lines in lists.items():
            if lines:
                (building / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return count


def write_tar(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples (key, {extension: content}) to one tar and return how many."""
    count = 0
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            count += 1
            for extension, content in members.items():
                raw = content.encode("utf-8") if isinstance(content, str) else content
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(raw)
                tar.addfile(entry, io.BytesIO(raw))
    return count


def _parts(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    remaining = iter(samples)
    while part := list(itertools.islice(remaining, size)):
        yield part
