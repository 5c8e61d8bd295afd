"""Which targets a run learns from, and that it does, without the teacher."""

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import open_clip
import pytest

from open_diht.common.fields import build
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import load_config
from open_diht.trainer.data import BadSource, ConceptMismatch
from open_diht.trainer.inputs import concept_targets, resolved
from open_diht.trainer.loop import train
from tests.trainer.conftest import entries


def config_of(*paths: str, **concepts: Any) -> Config:
    return load_config("tiny", base={"data": {"sources": [{"path": path} for path in paths]}, "concepts": concepts})


def test_auto_takes_what_lies_beside_the_data(tmp_path: Path) -> None:
    found, said = resolved(config_of(str(tmp_path)))
    assert found.concepts.path == "" and f"not all sources have concept targets, {tmp_path}/concepts" in said
    (tmp_path / "concepts" / "targets").mkdir(parents=True)
    for path in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}", f"local://{tmp_path}"):
        found, said = resolved(config_of(path))
        there = f"{path.rstrip('/')}/concepts"
        assert (found.concepts.path, said) == (there, f"concept targets: {there}")
    found, _ = resolved(config_of(str(tmp_path), str(tmp_path / "other")))
    assert found.concepts.path == ""  # all or none


def test_auto_is_no_distillation_for_a_loader_of_ones_own() -> None:
    """Its path need not be a folder, and a folder `concepts` next to it need not hold targets."""
    own = {"sources": [], "loader": "package:Class", "path": "s3://bucket/rows.db"}
    config = load_config("tiny", base={"data": own, "concepts": {"path": "auto"}})
    found, said = resolved(config)
    assert found.concepts.path == "" and "concepts.path names the targets" in said


def test_auto_looks_beside_remote_data_too(tmp_path: Path) -> None:
    memory, url = fsspec.filesystem("memory"), f"memory://{tmp_path.name}"
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
    with pytest.raises(ConceptMismatch, match="nowhere holds no concept targets; make them with `open-diht concepts`"):
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
    assert any("  contrastive " in line and "  objects " in line and "  attributes " in line for line in said)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{outcome.export}")
    assert not [name for name in model.state_dict() if "head" in name]
    card = (tmp_path / "w" / "export" / "README.md").read_text()
    assert "concept distillation (objects x1, attributes x1)" in card
