"""Stored predictions: what is kept and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from open_diht.trainer.concepts.cli import _alone, main, make_targets
from open_diht.trainer.concepts.heads import Head
from open_diht.trainer.concepts.predict import top_k
from open_diht.trainer.concepts.store import BadConcepts, ConceptStore
from open_diht.trainer.concepts.targets import ShardTargets, about, open_targets, packed, unpacked
from open_diht.trainer.data import ConceptMismatch
from open_diht.trainer.head_options import HeadSettings

FAST = HeadSettings(epochs=1, min_steps=1)


def some_head(classes: int) -> Head:
    torch.manual_seed(classes)
    return Head(torch.randn(classes, 4), torch.randn(classes), {})


def test_top_k_is_the_softmax_cut_and_renormalized() -> None:
    head = some_head(7)
    features = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float16)
    ids, probabilities = top_k(head, features, 3)
    whole = (torch.from_numpy(features).float() @ head.weight.T + head.bias).softmax(1).numpy()
    for row in range(5):
        best = np.argsort(-whole[row])[:3]
        assert ids[row].tolist() == best.tolist()
        assert np.allclose(probabilities[row], whole[row][best] / whole[row][best].sum(), atol=1e-3)
    assert ids.dtype == np.uint32 and probabilities.dtype == np.float16


def test_a_head_of_fewer_concepts_is_padded() -> None:
    ids, probabilities = top_k(some_head(2), np.ones((3, 4), np.float16), 5)
    assert ids.shape == probabilities.shape == (3, 5)
    assert not probabilities[:, 2:].any() and np.allclose(probabilities.sum(1), 1, atol=1e-3)


def test_files_are_read_back_and_equal_content_gives_equal_bytes() -> None:
    numbers = np.array([[1, 2], [0, 0]], np.uint32)
    p = np.array([[0.7, 0.3], [0, 0]], np.float16)
    targets = ShardTargets("a.tar", ("x", "ÿ\n"), {"objects": numbers}, {"objects": p})
    content = packed(targets, {"k": 2})
    assert content == packed(targets, {"k": 2})
    again = unpacked(content)
    assert (again.shard, again.keys) == ("a.tar", ("x", "ÿ\n"))
    ids, probabilities = again.head("objects", again.rows(["ÿ\n", "x"]))
    assert ids.dtype == np.int64 and probabilities.dtype == np.float32
    assert ids.tolist() == [[0, 0], [1, 2]]
    assert probabilities[0].tolist() == [0, 0] and probabilities[1].sum() == pytest.approx(
        1, abs=1e-7
    )
    with pytest.raises(
        ConceptMismatch, match=r"shard a\.tar has a sample 'z' without concept targets"
    ):
        again.rows(["x", "z"])


IDS, P = ({"objects": np.ones((2, 3), kind)} for kind in (np.uint32, np.float16))
PACKED = packed(ShardTargets("a.tar", ("x", "y"), IDS, P), {"k": 3})  # type: ignore[arg-type]


@given(place=st.integers(0, len(PACKED) - 1), flip=st.integers(1, 255))
# The first array's entry in the directory hides the others.
@example(place=PACKED.index(b"PK\1\2") + 32, flip=255)
@example(place=PACKED.index(b"PK\1\2") + 8, flip=1)  # an encrypted array
def test_a_file_with_a_damaged_byte_is_made_again_or_reads_as_before(place: int, flip: int) -> None:
    content = PACKED[:place] + bytes([PACKED[place] ^ flip]) + PACKED[place + 1 :]
    if found := about(content, ["objects"]):
        assert found == about(PACKED, ["objects"]) != {}
        was = unpacked(PACKED)
        now = unpacked(content)
        assert now.keys == was.keys and np.array_equal(now.ids["objects"], was.ids["objects"])
        assert np.array_equal(now.probabilities["objects"], was.probabilities["objects"])


def test_a_run_writes_all_shards_and_keeps_them(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store()
    folder = tmp_path
    manifest = make_targets(folder, FAST, 3)
    said = capsys.readouterr().out
    assert "objects" in said and "recall@10" in said
    assert (manifest["k"], manifest["samples"], manifest["heads"]) == (
        3,
        360,
        {"objects": 6, "attributes": 2},
    )
    assert manifest["vocabulary_hash"] == "h" and manifest["teacher"] == {"name": "t"}
    files = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.suffix in (".npz", ".safetensors")
    }
    assert make_targets(folder, FAST, 3) == manifest
    assert {path: path.stat().st_mtime_ns for path in files} == files
    lost = folder / "targets" / "00001.npz"
    content = lost.read_bytes()
    middle = len(content) // 2
    for damaged in (
        content[:100],
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
    ):
        lost.write_bytes(damaged)
        assert make_targets(folder, FAST, 3) == manifest and lost.read_bytes() == content
    assert make_targets(folder, FAST, 2)["k"] == 2
    targets = open_targets(folder)
    shard = targets.shard("00000.tar")
    assert shard is not None
    _, probabilities = shard.head("objects", np.arange(120))
    # The bad images.
    assert np.flatnonzero(probabilities.sum(1) == 0).tolist() == [
        7,
        27,
        47,
        67,
        87,
        107,
    ]


def test_one_run_at_a_time_and_what_a_killed_one_left_is_swept(store, tmp_path, capsys):
    folder = store().folder
    words = ["--concepts", str(tmp_path), "--epochs", "1", "--min-steps", "1"]
    with _alone(folder):
        assert main(words) == 1
    assert f"error: another run is working in {tmp_path}; wait for it" in capsys.readouterr().err
    for place in (tmp_path, tmp_path / "targets", tmp_path / "work" / "heads"):
        place.mkdir(exist_ok=True)
        (place / ".tmp-diht-heads.json-12345678").write_bytes(b"torn")
    assert main(words) == 0
    assert not [*tmp_path.rglob(".tmp-*")]


def test_a_remote_folder_is_as_good_as_a_local_one(store: Any, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    store()
    url = f"memory://{tmp_path.name}/concepts"
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), f"/{tmp_path.name}/concepts", recursive=True)
    try:
        manifest = make_targets(url, FAST, 3)
        assert make_targets(tmp_path, FAST, 3) == manifest
        for entry in manifest["shards"]:
            name = f"targets/{entry['file']}"
            assert (
                memory.cat_file(f"/{tmp_path.name}/concepts/{name}")
                == (tmp_path / name).read_bytes()
            )
        before = memory.modified(f"/{tmp_path.name}/concepts/targets/00001.npz")
        memory.pipe_file(f"/{tmp_path.name}/concepts/targets/stale.npz", b"")
        assert make_targets(url, FAST, 3) == manifest  # nothing is done twice
        assert memory.modified(f"/{tmp_path.name}/concepts/targets/00001.npz") == before
        assert not memory.exists(f"/{tmp_path.name}/concepts/targets/stale.npz")
        assert not memory.glob(f"/{tmp_path.name}/concepts/work/heads/*.pt")
        shard = open_targets(url).shard("00001.tar")
        assert shard is not None and len(shard.keys) == 120
        with pytest.raises(ConceptMismatch, match=r"memory://.*/nowhere holds no concept targets"):
            open_targets(f"{url}/nowhere")
    finally:
        memory.rm(f"/{tmp_path.name}", recursive=True)


def test_what_cannot_be_used_is_said(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        ConceptMismatch, match="holds no concept targets; make them with `open-diht concepts`"
    ):
        open_targets(tmp_path)
    assert main(["--concepts", str(tmp_path / "nowhere")]) == 1
    assert "run `open-diht concepts`" in capsys.readouterr().err
    assert main(["--concepts", str(tmp_path), "--k", "0"]) == 2
    assert main(["--concepts", str(tmp_path), "--epochs", "0"]) == 2
    known = store()
    labels = tmp_path / "work" / "labels" / "data" / "00001.npz"
    labels.write_bytes((labels.parent / "00000.npz").read_bytes())
    with pytest.raises(
        BadConcepts,
        match=r"shard 00001\.tar: features and labels are of different samples from 0 on",
    ):
        known.load(known.shards[1])


def test_a_path_that_is_no_output_of_concepts_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "concepts.json").write_text("{}", encoding="utf-8")
    (tmp_path / "vocabulary.json").write_text("{}", encoding="utf-8")
    (tmp_path / "manifest.json").write_text('{"samples": 3}', encoding="utf-8")
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(BadConcepts, match="run `open-diht concepts`"):
            ConceptStore(path)
        with pytest.raises(
            ConceptMismatch, match="holds no concept targets; make them with `open-diht concepts`"
        ):
            open_targets(path)
