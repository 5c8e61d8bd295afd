"""Features: rows fail one by one, units are committed and resumed, in whatever process they are
done."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.engine.jobs import run_units
from open_diht.pipelines.engine.stage import DoUnit
from open_diht.pipelines.runners import Direct
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.teachers import features as features_module
from open_diht.pipelines.teachers.features import FeatureStage
from open_diht.pipelines.teachers.teacher import LoadedTeacher, Teacher, find_teacher


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
        return (
            np.load(folder / f"{unit}.npy"),
            status["good"],
            status["keys"].tobytes().decode().split("\n"),
        )


def test_bad_images_cost_their_row_and_never_their_batch(filtered: Any, make: Any) -> None:
    data = filtered.write([24, 3], damage)
    status, said = make(data, max_bad_share=0.2, batch_size=8)
    assert status == 0
    rows, good, keys = features(data, "00000-00000-000")
    assert len(rows) == len(good) == len(keys) == 24
    assert np.flatnonzero(~good).tolist() == [3, 7, 11, 15]
    assert not rows[~good].any() and rows[good].any(axis=1).all()
    record = json.loads((data / "concepts/work/features/commits/00000-00000-000.json").read_text())
    assert [entry["error"] for entry in record["bad"]] == [
        "not_an_image",
        "truncated",
        "missing_image",
        "empty",
    ]
    assert record["bad"][0]["key"] == keys[3] and "html" in record["bad"][0]["message"]
    assert any(
        "4 of 27 images have no features (empty 1, missing_image 1, not_an_image 1" in line
        for line in said
    )
    status, said = make(data, max_bad_share=0.1)
    assert status == 1 and "error: more than the allowed 10.0%; see --max-bad-share" in said


def test_features_are_the_teachers_own(filtered: Any, make: Any, tiny: tuple[str, str]) -> None:
    data = filtered.write([5])
    make(data, batch_size=2, precision="fp32")
    rows, _, _ = features(data, "00000-00000-000")
    loaded = find_teacher(*tiny).load()
    for number in range(5):
        image = Image.open(_image_of(data, number)).convert("RGB")
        assert np.allclose(
            rows[number], loaded.features([loaded.transform(image)])[0], atol=2e-2, rtol=1e-2
        )


def _image_of(data: Path, number: int) -> Any:
    with tarfile.open(data / "shards" / "00000-00000-000.tar") as tar:
        names = [member for member in tar if member.name.endswith(".png")]
        return io.BytesIO(tar.extractfile(names[number]).read())  # type: ignore[union-attr]


def test_a_second_run_does_nothing_and_another_vocabulary_only_labels(
    filtered: Any, make: Any
) -> None:
    data = filtered.write([9, 9])
    make(data)
    stamp = {path: path.stat().st_mtime_ns for path in (data / "concepts" / "work").rglob("*.np*")}
    make(data)
    assert {path: path.stat().st_mtime_ns for path in stamp} == stamp
    make(data, max_size=2)
    changed = {path.parts[-3] for path in stamp if path.stat().st_mtime_ns != stamp[path]}
    assert changed == {"labels"}


class ShortOfMemory(Teacher):
    """A teacher whose memory is too small for three images at a time, from the second batch on."""

    def load(self, device: str = "cpu", precision: str = "fp32") -> LoadedTeacher:
        whole = super().load(device, precision)
        return _Short(whole.model, whole.transform, whole.device, whole.precision)


class _Short(LoadedTeacher):
    _batches: list[int] = []  # noqa: RUF012  (of all instances in a process)

    def features(self, prepared: list[Any]) -> Any:
        self._batches += [1] * (len(prepared) > 2)
        if len(self._batches) > 1 and len(prepared) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().features(prepared)


def test_a_teacher_out_of_memory_costs_its_unit_and_says_what_to_do(filtered, make, tiny):
    """The batch before it was kept; what can be done is, once the batch size is lowered."""
    data = filtered.write([9, 2])
    status, said = make(data, batch_size=4, teacher=ShortOfMemory(**vars(find_teacher(*tiny))))
    assert status == 1
    (line,) = [line for line in said if line.startswith("error: ")]
    assert (
        "features: unit 00000" in line
        and "TeacherFailed" in line
        and "-000.tar, 4 images from key 0" in line
    )
    assert "CUDA out of memory" in line and "lower --batch-size, or use fewer --workers" in line
    assert not (data / "concepts" / "concepts.json").exists()
    work = data / "concepts" / "work" / "features"
    (begun,) = work.glob("begun/*")
    with np.load(begun) as found:
        assert found["good"].tolist() == [True] * 4
    (done,) = work.glob("commits/*.json")
    stamp = done.stat().st_mtime_ns
    status, _ = make(data, batch_size=2)
    assert (
        status == 0
        and len([*work.glob("commits/*.json")]) == 2
        and done.stat().st_mtime_ns == stamp
    )
    assert not [*work.glob("begun/*")]
    assert (data / "concepts" / "concepts.json").exists()


def test_what_is_gone_or_cut_short_is_made_again(filtered: Any, make: Any, made: Any) -> None:
    data = filtered.write([4, 4])
    make(data)
    expected = made(data / "concepts")
    folder = data / "concepts" / "work"
    (folder / "features" / "data" / "00000-00000-000.npy").write_bytes(b"cut")
    (folder / "labels" / "data" / "00001-00000-000.npz").unlink()
    make(data)
    assert made(data / "concepts") == expected


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
    assert any(
        line.startswith("error: features: 00000-00000-000.tar (the tar ends") for line in said
    )


UNIT = "00000-00000-000"


@pytest.fixture
def stage(filtered: Any, tiny: tuple[str, str], tmp_path: Path) -> FeatureStage:
    data = filtered.write([10])
    place = {"layout": Layout(tmp_path / "c"), "shards": data / "shards"}
    return FeatureStage(**place, teacher=find_teacher(*tiny), fingerprint={UNIT: "f"}, batch_size=4)


def test_a_unit_goes_on_from_what_was_kept_of_it(
    stage: FeatureStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = DoUnit(stage)
    work.setup()
    work.process(UNIT)
    data = stage.layout.work / "features" / "data"
    undisturbed = {path.name: path.read_bytes() for path in data.iterdir()}
    for path in (*data.iterdir(), stage.layout.commit("features", UNIT)):
        path.unlink()

    class Killed(BaseException):
        pass

    monkeypatch.setattr(features_module, "KEEP_S", 0.0)
    asked: list[int] = []
    whole = LoadedTeacher.features

    def features_until_killed(teacher: LoadedTeacher, prepared: list[Any]) -> Any:
        asked.append(len(prepared))
        if len(asked) == 2:
            raise Killed
        return whole(teacher, prepared)

    monkeypatch.setattr(LoadedTeacher, "features", features_until_killed)
    with pytest.raises(Killed):
        work.process(UNIT)
    work.process(UNIT)
    assert asked == [4, 4, 4, 2], "the first batch was not asked again"
    assert {path.name: path.read_bytes() for path in data.iterdir()} == undisturbed
    assert not [*(stage.layout.work / "features" / "begun").iterdir()]


def test_a_device_that_is_no_processor_is_fed_by_threads(
    stage: FeatureStage, filtered: Any
) -> None:
    """What they decode ahead is in its order."""
    filtered.write([10], damage)
    stage.setup()
    found = []
    for device in ("cpu", "another"):
        stage.device = device
        stage.threads = 3
        batches = features_module.Batches(stage.shards / f"{UNIT}.tar", 4, skip=0)
        found.append(
            [(keys, batch.rows.tobytes(), batch.bad) for keys, batch in stage.features(batches)]
        )
    assert found[0] == found[1] and [len(keys) for keys, *_ in found[0]] == [4, 4, 2]


def test_a_shard_without_samples_is_committed_too(stage: FeatureStage, filtered: Any) -> None:
    filtered.write([0])
    stage.setup()
    stage.do(UNIT)
    assert json.loads(stage.layout.commit("features", UNIT).read_text())["rows"] == 0


@pytest.mark.slow
def test_worker_processes_make_the_same(stage: FeatureStage, filtered: Any, tmp_path: Path) -> None:
    """Everything is pickled, and loaded in each process."""
    filtered.write([9, 7])
    made = []
    for workers in (1, 2):
        stage.fingerprint = {"00000-00000-000": "f", "00001-00000-000": "g"}
        stage.layout = Layout(tmp_path / f"workers-{workers}")
        run_units(
            "features",
            list(stage.fingerprint),
            DoUnit(stage),
            workers,
            backend=Direct(),
            todo=stage.layout.work,
        )
        folder = stage.layout.work / "features" / "data"
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(made[0]) == 4 and made[0] == made[1]


def test_wrong_use_writes_nothing(filtered: Any, make: Any, tmp_path: Path) -> None:
    with pytest.raises(
        WrongUse, match=r"kept: no \*\.parquet; DATA is the output folder of `open-diht filter`"
    ):
        make(tmp_path / "nowhere")
    data = filtered.write([3])
    (data / "shards" / "manifest.json").write_text('{"samples": 0, "shards": []}')
    with pytest.raises(WrongUse, match="kept no row with one"):
        make(data)
    (data / "shards" / "manifest.json").unlink()
    with pytest.raises(WrongUse, match="no shards; run `open-diht filter` with images"):
        make(data)
    assert not os.path.exists(data / "concepts")
