"""Sets in the webdataset layout that `open_diht.eval.data` reads, for tests."""

import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from open_diht.common.files import published_folder
from open_diht.eval.fetch.archives import Sample, write_tar


def questions_member(questions: Sequence[Mapping[str, Any]]) -> str:
    """The .json member of a vqa set."""
    return json.dumps({"questions": list(questions)}, ensure_ascii=False)


def numbers_member(*values: Any) -> bytes:
    """The .npy member of an image with several labels, or with groups and bursts."""
    out = io.BytesIO()
    np.save(out, np.array(values))
    return out.getvalue()


def write_webdataset(
    folder: Path,
    samples: Iterable[Sample],
    *,
    split: str = "test",
    kind: str = "classification",
    class_names: Sequence[str] = (),
    templates: Sequence[str] = (),
    per_shard: int = 1000,
) -> int:
    """Write samples (key, {extension: content}) to `folder` and return how many; `kind` goes to
    dataset_type.txt."""
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
                (building / name).write_text(
                    "".join(f"{line}\n" for line in lines), encoding="utf-8"
                )
    return count


def _parts(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    remaining = iter(samples)
    while part := list(itertools.islice(remaining, size)):
        yield part
