"""Which targets a run learns from, and that it does, without the teacher."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import open_clip
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import build
from open_diht.eval.fetch.archives import write_tar
from open_diht.trainer.config import Config, DistillationSettings
from open_diht.trainer.config_files import load_config
from open_diht.trainer.data import BadSource, ConceptMismatch, TooManyBad
from open_diht.trainer.inputs import concept_targets, distillation_of, embedding_targets, resolved
from open_diht.trainer.loop import train
from open_diht.trainer.losses import Distillation
from tests.trainer.conftest import drawn, entries, interrupted, write_embeddings


def config_of(*paths: str, **concepts: Any) -> Config:
    return load_config(
        "tiny", base={"data": {"sources": [{"path": path} for path in paths]}, "concepts": concepts}
    )


def test_auto_takes_what_lies_beside_the_data(tmp_path: Path) -> None:
    found, (said,) = resolved(config_of(str(tmp_path)))
    assert (
        found.concepts.path == ""
        and f"not all sources have concept targets, {tmp_path}/concepts" in said
    )
    (tmp_path / "concepts" / "targets").mkdir(parents=True)
    for path in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}", f"local://{tmp_path}"):
        found, (said,) = resolved(config_of(path))
        there = f"{path.rstrip('/')}/concepts"
        assert (found.concepts.path, said) == (there, f"concept targets: {there}")
    found, _ = resolved(config_of(str(tmp_path), str(tmp_path / "other")))
    assert found.concepts.path == ""  # all or none
    of_embeddings = replace(
        config_of(str(tmp_path)), distillation=DistillationSettings(path="auto")
    )
    with pytest.raises(
        ConceptMismatch,
        match=r"path is auto, but not all sources have embedding targets, .*embeddings",
    ):
        resolved(of_embeddings)
    (tmp_path / "embeddings" / "targets").mkdir(parents=True)
    found, lines = resolved(of_embeddings)
    there = f"{tmp_path}/embeddings"
    assert (found.distillation.path, lines[1]) == (there, f"embedding targets: {there}")


def test_auto_is_no_distillation_for_a_loader_of_ones_own() -> None:
    """Its path need not be a folder, and a folder `concepts` next to it need not hold targets."""
    own = {"sources": [], "loader": "package:Class", "path": "s3://bucket/rows.db"}
    config = load_config("tiny", base={"data": own, "concepts": {"path": "auto"}})
    found, said = resolved(config)
    assert found.concepts.path == "" and "concepts.path names the concept targets" in said[0]
    with pytest.raises(ConceptMismatch, match=r"distillation\.path names the embedding targets"):
        resolved(replace(config, distillation=DistillationSettings(path="auto")))


def test_auto_looks_beside_remote_data_too(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}"
    assert resolved(config_of(url))[0].concepts.path == ""
    memory.pipe_file(f"/{tmp_path.name}/concepts/targets/manifest.json", b"{}")
    try:
        assert resolved(config_of(url))[0].concepts.path == f"{url}/concepts"
    finally:
        memory.rm(f"/{tmp_path.name}", recursive=True)


def test_a_store_that_does_not_answer_at_the_start_is_wrong_use(dead_store: str) -> None:
    with pytest.raises(BadSource, match=r"s3://bucket/data/concepts/targets: .*check the address"):
        resolved(config_of(f"{dead_store}/data"))
    with pytest.raises(BadSource, match=r"s3://bucket/c.*check the address"):
        concept_targets(config_of("x", path=f"{dead_store}/c"))


def test_what_was_asked_for_must_be_there(targets: Path, tmp_path: Path) -> None:
    assert concept_targets(config_of("x", path="")) == []
    assert concept_targets(config_of("x", path=str(targets), objects=0, attributes=0)) == []
    with pytest.raises(
        ConceptMismatch,
        match="nowhere holds no concept targets; make them with `open-diht concepts`",
    ):
        concept_targets(config_of("x", path="nowhere"))
    with pytest.raises(ConceptMismatch, match="names 1 folders for 2 data sources"):
        concept_targets(config_of("x", "y", path=str(targets)))
    other = Path(shutil.copytree(targets, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "heads": {"objects": 4}}))
    with pytest.raises(ConceptMismatch, match=r"concepts needs attributes; .*other has objects"):
        concept_targets(config_of("x", path=str(other)))
    (one,) = concept_targets(config_of("x", path=str(other), attributes=0))
    assert one.heads == {"objects": 4}


@pytest.fixture
def taught(shards: Path, tmp_path: Path) -> Path:
    """Embeddings of `shards` by a teacher that knows shape and colour; those of pair 5 are
    missing."""
    of = {}
    for tar, first in zip(sorted(shards.glob("*.tar")), range(0, 96, 32), strict=True):
        numbers = np.arange(first, first + 32)
        vectors = np.concatenate([np.eye(4)[numbers % 4], np.eye(8)[numbers // 4 % 8]], axis=1)
        vectors[numbers == 5] = 0
        of[tar] = ([f"{n:032x}-{n:06d}" for n in numbers], vectors[:, None], vectors[:, None])
    return write_embeddings(tmp_path / "embeddings", of)


def test_a_run_learns_embeddings_and_counts_the_pairs_without(
    tiny_values, taught, targets, tmp_path
):
    """With concepts, in parts, stopped and resumed: bit-equal to an undisturbed run."""
    both = {
        "distillation": {"path": str(taught), "weight": 2.0},
        "concepts": {"path": str(targets)},
    }
    more = {
        "schedule": {"samples": 16 * 18, "micro_batches": 2},
        "optimizer": {"learning_rate": 3e-3},
    }
    config = build(Config, tiny_values(**both, **more))
    stopped, _ = interrupted(config, tmp_path / "w", 9)
    assert not stopped.finished
    said: list[str] = []
    assert train(config, tmp_path / "w", said.append).finished
    train(config, tmp_path / "calm")
    one, other = (entries(tmp_path / run, "step") for run in ("w", "calm"))
    assert [step["distillation"] for step in one] == [
        step["distillation"] for step in other
    ] and len(one) == 18
    weights = [
        (tmp_path / run / "export" / "open_clip_model.safetensors").read_bytes()
        for run in ("w", "calm")
    ]
    assert weights[0] == weights[1]
    assert sum(step["distillation"] for step in one[-6:]) < 0.8 * sum(
        step["distillation"] for step in one[:6]
    )
    first = one[0]
    parts = (
        first["contrastive"] + 2 * first["distillation"] + first["objects"] + first["attributes"]
    )
    assert first["loss"] == pytest.approx(parts, rel=1e-5)
    assert one[-1]["without_targets"] == 12, (
        "one of embeddings and three of concepts in each epoch of 96"
    )
    assert "12 of 288 samples had no targets of the teacher, and so no loss on them" in said
    assert (
        "distillation of embeddings (x2)" in (tmp_path / "w" / "export" / "README.md").read_text()
    )


def test_a_resumed_run_notices_other_embeddings_of_datacompdr(tiny_config, shards, tmp_path):
    """Also if their tars have the same size."""
    paug = json.dumps({"param_aug": [[[0, 0, 40, 40]]]}).encode()

    def write(seed: int) -> list[int]:
        generator = np.random.default_rng(seed)
        for first, tar in enumerate(sorted(shards.glob("*.tar"))):
            samples = []
            for number in range(32 * first, 32 * first + 32):
                content = io.BytesIO()
                np.savez(
                    content,
                    image_emb=generator.normal(size=(1, 8)),
                    text_emb=generator.normal(size=(1, 8)),
                )
                samples.append((f"{number:032x}", {"npz": content.getvalue(), "paug.json": paug}))
            write_tar(tmp_path / "dr" / tar.name, samples)
        return [path.stat().st_size for path in sorted((tmp_path / "dr").iterdir())]

    (tmp_path / "dr").mkdir()
    sizes = write(0)
    settings = {"path": str(tmp_path / "dr"), "teachers": 1}
    config = tiny_config(distillation=settings, schedule={"samples": 48})
    with pytest.raises(ConceptMismatch, match=r"of DataCompDR only .* set data\.captions=first"):
        embedding_targets(
            replace(config, data=replace(config.data, captions={"caption": 0.5, "synthetic": 0.5}))
        )
    assert interrupted(config, tmp_path / "w", 1)[0].step == 1
    assert write(1) == sizes
    with pytest.raises(
        WrongUse, match=r"the data changed since the run in .* began, or their targets did"
    ):
        train(config, tmp_path / "w")
    write(0)
    assert train(config, tmp_path / "w").finished


def test_without_distillation_a_run_is_what_it_was(tiny_config, taught, tmp_path):
    for name, distillation in (("none", {}), ("off", {"path": str(taught), "weight": 0.0})):
        train(tiny_config(distillation=distillation, schedule={"samples": 48}), tmp_path / name)
    logged = [entries(tmp_path / name, "step") for name in ("none", "off")]
    assert [step["loss"] for step in logged[0]] == [step["loss"] for step in logged[1]]
    assert not any(
        "distillation" in step or "without_targets" in step for step in logged[0] + logged[1]
    )


def test_embeddings_and_sources_fit(taught, tmp_path):
    assert distillation_of(config_of("x"), []) is None and embedding_targets(config_of("x")) == []
    config = replace(
        config_of("x"), distillation=DistillationSettings(path=str(taught), weight=3.0)
    )
    (one,) = embedding_targets(config)
    assert distillation_of(config, [one]) == Distillation(weight=3.0, temperature=0.1)
    sharper = replace(config, distillation=replace(config.distillation, temperature=0.02))
    assert distillation_of(sharper, [one]) == Distillation(weight=3.0, temperature=0.02)
    with pytest.raises(
        ConceptMismatch, match=r"distillation\.path names 1 folders for 2 data sources"
    ):
        embedding_targets(replace(config, data=config_of("x", "y").data))
    with pytest.raises(ConceptMismatch, match="nowhere holds no embedding targets; make them with"):
        embedding_targets(replace(config, distillation=DistillationSettings(path="nowhere")))


def test_a_run_learns_them_and_exports_no_head(tiny_values, targets, tmp_path):
    sections = {"concepts": {"path": str(targets)}, "schedule": {"samples": 16 * 60}}
    values = tiny_values(**sections, optimizer={"learning_rate": 2e-3})
    said: list[str] = []
    outcome = train(build(Config, values), tmp_path / "w", said.append)
    steps = entries(tmp_path / "w", "step")
    curves = {head: [step[head] for step in steps] for head in ("objects", "attributes")}
    assert all(len(curve) == 60 for curve in curves.values())
    colours = curves["attributes"]  # shapes take longer than this test
    assert sum(colours[-10:]) / 10 < 0.85 * sum(colours[:5]) / 5, (colours[:5], colours[-10:])
    assert any(
        "  contrastive " in line and "  objects " in line and "  attributes " in line
        for line in said
    )
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{outcome.export}")
    assert not [name for name in model.state_dict() if "head" in name]
    card = (tmp_path / "w" / "export" / "README.md").read_text()
    assert "concept distillation (objects x1, attributes x1)" in card


def numbered(folder: Path, uids: bool) -> Path:
    """Data as img2dataset writes it, with numbers for keys and uids in the JSON, or without
    them."""
    folder.mkdir()
    samples = []
    for number in range(32):
        image, text = drawn(number)
        about = {"uid": f"{number + 1:032x}"} if uids else {}
        samples.append(
            (f"{number:09d}", {"png": image, "txt": text, "json": json.dumps(about).encode()})
        )
    write_tar(folder / "00000.tar", samples)
    return folder


def test_datacompdr_is_learned_by_uid_and_a_training_without_it_is_refused(tiny_config, tmp_path):
    samples = []
    for number in range(32):
        content = io.BytesIO()
        vectors = np.random.default_rng(number).normal(size=(2, 1, 8))
        np.savez(content, image_emb=vectors[0], text_emb=vectors[1])
        paug = json.dumps({"param_aug": [[[0, 0, 40, 40]]]}).encode()
        samples.append((f"{number + 1:032x}", {"npz": content.getvalue(), "paug.json": paug}))
    (tmp_path / "dr").mkdir()
    write_tar(tmp_path / "dr" / "00000.tar", samples)

    def config(data: Path, **distillation: Any) -> Config:
        known = {"path": str(tmp_path / "dr"), "teachers": 2, **distillation}
        return tiny_config(
            data={"sources": [{"path": str(data)}]}, distillation=known, schedule={"samples": 32}
        )

    said: list[str] = []
    assert train(config(numbered(tmp_path / "uids", True)), tmp_path / "w", said.append).finished
    assert any(line.startswith("0 samples have no embedding targets") for line in said)
    assert not any(step["without_targets"] for step in entries(tmp_path / "w", "step"))
    other = numbered(tmp_path / "numbers", False)
    with pytest.raises(
        ConceptMismatch,
        match=r"32 samples .* 100\.00%, more than distillation\.max_missing_share 5\.00%",
    ):
        train(config(other), tmp_path / "x")
    assert train(config(other, max_missing_share=1.0), tmp_path / "y").finished
    with pytest.raises(
        ConceptMismatch, match=r"distillation\.teachers=2 for those that Apple published"
    ):
        train(config(tmp_path / "uids", teachers=None), tmp_path / "z")
    with pytest.raises(
        ConceptMismatch, match=r"distillation\.teachers is 3, but embeddings of 8 numbers"
    ):
        train(config(tmp_path / "uids", teachers=3), tmp_path / "z")


def test_concepts_count_too_and_what_no_sample_shows_ends_the_run_later(
    tiny_config, targets, tmp_path, monkeypatch
):
    """3 of 96 samples have no concepts, keys 0, 40 and 80; a look at one sample of each shard finds
    one of three."""
    settings = {"concepts": {"path": str(targets)}, "distillation": {"max_missing_share": 0.03}}
    with pytest.raises(
        ConceptMismatch,
        match=r"3 samples have no concept targets, .*3\.12%, .*max_missing_share 3\.00%",
    ):
        train(tiny_config(**settings), tmp_path / "w")
    monkeypatch.setattr("open_diht.trainer.data.loader._LOOKED_AT", 1)
    monkeypatch.setattr("open_diht.trainer.data.reader._LOOKED_AT", 32)
    allowed = tiny_config(
        **{**settings, "distillation": {"max_missing_share": 0.02}}, schedule={"samples": 96}
    )
    with pytest.raises(
        ConceptMismatch, match=r"1 of 32 samples looked at have no concept targets, and 0 of 96"
    ):
        train(allowed, tmp_path / "w")
    # Nothing is seen before the first step.
    monkeypatch.setattr("open_diht.trainer.data.reader._LOOKED_AT", 0)
    with pytest.raises(
        TooManyBad,
        match=r"[23] of \d+ samples had no targets of the teacher, .*max_missing_share 2\.00%",
    ):
        train(allowed, tmp_path / "w")
