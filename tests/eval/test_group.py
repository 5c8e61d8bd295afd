"""Several ranks share the encoding and the ranking, and get what one process gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from eval.fetch.writing import jpeg, write_webdataset
from eval.group import Group
from tests.eval.conftest import picture

SUITE = """
name: two
about: for two ranks
tasks:
  - {name: i2t, kind: retrieval, title: T, metric: recall@1, direction: image_to_text, licence: CC0-1.0, get: no,
     sources: [{layout: webdataset, path: told}]}
  - {name: t2i, kind: retrieval, title: T, metric: recall@1, direction: text_to_image, licence: CC0-1.0, get: no,
     sources: [{layout: webdataset, path: told}]}
"""


def test_one_process_is_a_group_of_its_own() -> None:
    alone = Group()
    assert alone.leads and list(alone.share(3)) == [0, 1, 2]
    assert alone.from_leader("x") == "x" and alone.gather(5) == [5]
    with pytest.raises(ValueError, match="told"):
        alone.all_or_error(ValueError("told"))


def test_shares_cover_everything_once() -> None:
    assert sorted(index for rank in range(3) for index in Group(rank, 3).share(8)) == list(range(8))


@pytest.mark.slow
def test_two_ranks_encode_every_picture_once_and_agree_with_one(tmp_path: Any, tiny_folder: Any) -> None:
    told = [(f"t{i}", {"jpg": jpeg(picture("red", i)), "txt": f"one {i}\ntwo {i}"}) for i in range(31)]
    write_webdataset(tmp_path / "data" / "told", told, kind="retrieval")
    (tmp_path / "two.yaml").write_text(SUITE, encoding="utf-8")
    found = {}
    for ranks in (1, 2):
        found[ranks] = _run(tmp_path, tiny_folder, ranks)
    assert found[1] == found[2]
    (folder,) = [path for path in (tmp_path / "features2").iterdir() if len(list(path.glob("*.npy"))) == 8]
    spans = sorted(tuple(int(part) for part in path.stem.split("-")) for path in folder.glob("*.npy"))
    assert spans == [(start, min(start + 4, 31)) for start in range(0, 31, 4)]
    assert all(len(np.load(path)) for path in folder.glob("*.npy"))


def _run(tmp_path: Path, model: Path, ranks: int) -> list[tuple[Any, ...]]:
    starter = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "eval"]
    out = tmp_path / f"out{ranks}"
    command = [*starter, "--model", str(model), "--tasks", str(tmp_path / "two.yaml"), "--data", str(tmp_path / "data")]
    command += ["--output", str(out), "--cache", str(tmp_path / f"features{ranks}"), "--batch", "4", "--workers", "0"]
    done = subprocess.run(
        [*command, "--device", "cpu"], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("2 of 2 tasks measured") == 1
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return [(row["task"], row["metric"], row["value"], row["low"], row["high"], row["n"]) for row in rows]
