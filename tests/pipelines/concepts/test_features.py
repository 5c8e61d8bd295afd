"""Features by RunInference: rows fail one by one, units are committed and resumed."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.command_line import WrongUse
from pipelines.concepts.features import FeatureStage, _Read, _Write
from pipelines.concepts.handler import Features, Images, TeacherHandler
from pipelines.concepts.teacher import LoadedTeacher, Teacher, find_teacher
from pipelines.engine.jobs import run_units
from pipelines.store.layout import Layout


def damage(number: int, members: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Of 24 samples one has HTML for an image, one a cut image, one none, one an empty one."""
    (name, image), *rest = members
    if number == 3:
        return [(name, b"<html>not here</html>"), *rest]
    if number == 7:
        return [(name, image[: len(image) // 2]), *rest]
    if number == 11:
        return rest
    if number == 15:
        return [(name, b""), *rest]
    return members


def features(data: Path, unit: str) -> tuple[Any, Any, list[str]]:
    folder = data / "concepts" / "work" / "features" / "data"
    with np.load(folder / f"{unit}.npz") as status:
        return np.load(folder / f"{unit}.npy"), status["good"], status["keys"].tobytes().decode().split("\n")


def test_bad_images_cost_their_row_and_never_their_batch(filtered: Any, make: Any) -> None:
    data = filtered.write([24, 3], damage)
    status, said = make(data, max_bad_share=0.2, batch_size=8)
    assert status == 0
    rows, good, keys = features(data, "00000-00000-000")
    assert len(rows) == len(good) == len(keys) == 24
    assert np.flatnonzero(~good).tolist() == [3, 7, 11, 15]
    assert not rows[~good].any() and rows[good].any(axis=1).all()
    record = json.loads((data / "concepts/work/features/commits/00000-00000-000.json").read_text())
    assert [entry["error"] for entry in record["bad"]] == ["not_an_image", "truncated", "missing_image", "empty"]
    assert record["bad"][0]["key"] == keys[3] and "html" in record["bad"][0]["message"]
    assert any("4 of 27 images could not be read (empty 1, missing_image 1, not_an_image 1" in line for line in said)
    status, said = make(data, max_bad_share=0.1)
    assert status == 1 and "error: more than the allowed 10.0%; see --max-bad-share" in said


def test_features_are_the_teachers_own(filtered: Any, make: Any, tiny: tuple[str, str]) -> None:
    data = filtered.write([5])
    make(data, batch_size=2)
    rows, _, _ = features(data, "00000-00000-000")
    loaded = find_teacher(*tiny).load()
    for number in range(5):
        image = Image.open(_image_of(data, number)).convert("RGB")
        assert np.allclose(rows[number], loaded.features([image])[0], atol=2e-2, rtol=1e-2)


def _image_of(data: Path, number: int) -> Any:
    with tarfile.open(data / "shards" / "00000-00000-000.tar") as tar:
        names = [member for member in tar if member.name.endswith(".png")]
        return io.BytesIO(tar.extractfile(names[number]).read())  # type: ignore[union-attr]


def test_a_second_run_does_nothing_and_another_vocabulary_only_labels(filtered: Any, make: Any) -> None:
    data = filtered.write([9, 9])
    make(data)
    stamp = {path: path.stat().st_mtime_ns for path in (data / "concepts" / "work").rglob("*.np*")}
    make(data)
    assert {path: path.stat().st_mtime_ns for path in stamp} == stamp
    make(data, max_size=2)
    changed = {path.parts[-3] for path in stamp if path.stat().st_mtime_ns != stamp[path]}
    assert changed == {"labels"}


class ShortOfMemory(Teacher):
    """A teacher whose memory runs out once in a worker, at the second batch."""

    def load(self, device: str = "cpu") -> LoadedTeacher:
        whole = super().load(device)
        return _Short(whole.model, whole.transform, whole.device)


class _Short(LoadedTeacher):
    _calls: list[int] = []  # noqa: RUF012  (of all instances in a process)

    def features(self, images: list[Any]) -> Any:
        self._calls.append(len(images))
        if len(self._calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().features(images)


def test_a_teacher_out_of_memory_costs_its_unit_and_says_what_to_do(
    filtered: Any, make: Any, tiny: tuple[str, str]
) -> None:
    """The other units and batches are done, and stay when the batch size is lowered."""
    data = filtered.write([9, 9])
    status, said = make(data, batch_size=4, teacher=ShortOfMemory(**vars(find_teacher(*tiny))))
    assert status == 1
    (line,) = [line for line in said if line.startswith("error: ")]
    assert "features: unit 0000" in line and "TeacherFailed" in line and "-000.tar, batch 1 of 4 images" in line
    assert "CUDA out of memory" in line and "lower --batch-size, or --workers" in line
    assert not (data / "concepts" / "concepts.json").exists()
    commits = data / "concepts" / "work" / "features" / "commits"
    (done,) = commits.glob("*.json")
    stamp = done.stat().st_mtime_ns
    status, _ = make(data, batch_size=2)
    assert status == 0 and len([*commits.glob("*.json")]) == 2 and done.stat().st_mtime_ns == stamp
    assert not [*(data / "concepts" / "work" / "features" / "parts").glob("*")]
    assert (data / "concepts" / "concepts.json").exists()


def test_a_unit_that_was_set_aside_needs_only_its_missing_batch(stage: FeatureStage) -> None:
    unit = "00000-00000-000"
    handler, write = TeacherHandler(stage.teacher, "cpu", 1), _Write(stage)
    model = handler.load_model()
    for batch in _Read(stage).process(unit):
        for found in handler.run_inference(batch, model):
            write.process(Features(batch, failed="no memory") if batch.number == 1 else found)
    assert json.loads(stage.layout.failed("features", unit).read_text())["tries"][0]["message"] == "no memory"
    assert not stage.layout.commit("features", unit).exists()
    assert not stage.layout.progress("features", unit).exists()  # nothing died here
    assert [batch.number for batch in _Read(stage).process(unit)] == [1, 3]  # 3 is the end mark


def test_a_changed_shard_is_done_anew_and_alone(filtered: Any, make: Any) -> None:
    data = filtered.write([9, 9])
    make(data)
    folder = data / "concepts" / "work" / "features" / "data"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    filtered.write([9, 9], lambda number, members: members[:2] if number == 12 else members)
    make(data)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert [name for name in before if before[name] != after[name]] == ["00001-00000-000.npy"]


def test_a_shard_cut_short_gives_what_stands_before_and_status_1(filtered: Any, make: Any) -> None:
    data = filtered.write([12])
    path = data / "shards" / "00000-00000-000.tar"
    path.write_bytes(path.read_bytes()[:12_000])
    status, said = make(data)
    assert status == 1
    rows, good, keys = features(data, "00000-00000-000")
    assert 0 < len(keys) < 12 and good.all() and len(rows) == len(keys)
    assert any(line.startswith("error: features: 00000-00000-000.tar (the tar ends") for line in said)


@pytest.fixture
def stage(filtered: Any, tiny: tuple[str, str], tmp_path: Path) -> FeatureStage:
    data = filtered.write([10])
    unit = "00000-00000-000"
    return FeatureStage(Layout(tmp_path / "c"), data / "shards", find_teacher(*tiny), {unit: "f"}, batch_size=4)


def test_batches_in_any_order_close_the_unit_once_all_are_there(stage: FeatureStage) -> None:
    """A runner may split, order and repeat as it likes."""
    unit = "00000-00000-000"
    batches = list(_Read(stage).process(unit))
    assert [len(batch) for batch in batches] == [4, 4, 2, 0] and batches[-1].batches == 3
    handler = TeacherHandler(stage.teacher, "cpu", 1)
    model = handler.load_model()
    done = {batch.number: found for batch in batches for found in handler.run_inference(batch, model)}
    write, commit = _Write(stage), stage.layout.commit("features", unit)
    for number in (3, 2, 0, 2):  # 3 is the end mark
        write.process(done[number])
        assert not commit.exists()
    write.process(done[1])
    assert json.loads(commit.read_text())["rows"] == 10
    assert not [*stage.part(unit, 0).parent.glob("*")]
    first = (stage.layout.work / "features" / "data" / f"{unit}.npy").read_bytes()
    for number in (0, 1, 2, 3):  # all of it once more
        write.process(done[number])
    assert (stage.layout.work / "features" / "data" / f"{unit}.npy").read_bytes() == first


def test_a_unit_goes_on_behind_its_last_part(stage: FeatureStage) -> None:
    unit = "00000-00000-000"
    batches = list(_Read(stage).process(unit))
    handler = TeacherHandler(stage.teacher, "cpu", 1)
    model = handler.load_model()
    write = _Write(stage)
    for found in handler.run_inference(batches[0], model):
        write.process(found)
    again = list(_Read(stage).process(unit))
    assert [batch.number for batch in again] == [1, 2, 3]
    for batch in again:
        for found in handler.run_inference(batch, model):
            write.process(found)
    assert json.loads(stage.layout.commit("features", unit).read_text())["rows"] == 10


def test_a_shard_without_samples_is_committed_too(stage: FeatureStage, filtered: Any) -> None:
    filtered.write([0])
    unit = "00000-00000-000"
    (end,) = _Read(stage).process(unit)
    assert end == Images(unit, 0, batches=0)
    for found in TeacherHandler(stage.teacher, "cpu", 1).run_inference(end, None):  # type: ignore[arg-type]
        _Write(stage).process(found)
    assert json.loads(stage.layout.commit("features", unit).read_text())["rows"] == 0


@pytest.mark.slow
def test_worker_processes_make_the_same(stage: FeatureStage, filtered: Any, tmp_path: Path) -> None:
    """Everything is pickled, loaded in each process, and written by whoever has it."""
    filtered.write([9, 7])
    made = []
    for workers in (1, 2):
        stage.fingerprint = {"00000-00000-000": "f", "00001-00000-000": "g"}
        stage.layout = Layout(tmp_path / f"workers-{workers}")
        run_units("features", list(stage.fingerprint), stage.transform(), workers)
        folder = stage.layout.work / "features" / "data"
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(made[0]) == 4 and made[0] == made[1]


def test_wrong_use_writes_nothing(filtered: Any, make: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"kept: no \*\.parquet; DATA is the output folder of `make filter`"):
        make(tmp_path / "nowhere")
    data = filtered.write([3])
    (data / "shards" / "manifest.json").unlink()
    with pytest.raises(WrongUse, match="no shards; run `make filter` with images at hand"):
        make(data)
    assert not os.path.exists(data / "concepts")


def test_shards_without_annotations_are_refused(filtered: Any, make: Callable[..., Any]) -> None:
    data = filtered.write([6], lambda number, members: [*members[:2], (members[2][0], b"{}")])
    with pytest.raises(WrongUse, match=r"no sample has a \.json with objects and attributes"):
        make(data)
