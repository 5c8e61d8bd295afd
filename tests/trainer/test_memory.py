"""Micro-batches by the memory that is free: counted by a probe, said, kept for the run; errors name
the setting."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml

from open_diht.common.command_line import WrongUse
from open_diht.common.ranks import Ranks
from open_diht.trainer import assembly, memory, step
from open_diht.trainer.cli import main
from open_diht.trainer.config import ConceptSettings, ModelSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.loop import train
from open_diht.trainer.memory import Need, OutOfMemory, need, remedy
from open_diht.trainer.model import Student, build_student
from open_diht.trainer.utilization import flops_per_pair
from tests.trainer.conftest import TINY_ARCHITECTURE, interrupted, losses

MIB = 2**20


def test_as_few_parts_as_fit() -> None:
    needed = Need(fixed=100 * MIB, per_pair=10 * MIB)
    assert needed.parts(10, 250 * MIB) == 1  # 0.8 of 250 MiB are 100 and ten pairs
    assert [needed.parts(100, free * MIB) for free in (1375, 1374, 750, 138)] == [1, 2, 2, 100]
    with pytest.raises(
        WrongUse,
        match=r"need 0.0977 GiB, each pair 10 MiB: lower schedule.batch_size, set model.grad",
    ):
        needed.parts(10, 100 * MIB)


def tiny(**changes: Any) -> Student:
    architecture = merged(
        TINY_ARCHITECTURE, {"vision_cfg": {"layers": 4}, "text_cfg": {"vocab_size": 64}}
    )
    return build_student(
        ModelSettings(architecture=architecture, **changes), ConceptSettings(), {}
    )[0].train()


def per_pair(student: Student) -> int:
    return need(student, (3, 32, 32), torch.ones(1, 16, dtype=torch.int64), 8, 1).per_pair


def test_what_a_pair_keeps_is_what_autograd_holds() -> None:
    """Growing a batch by a pair grows what is kept by as much, whatever its size; what saves memory
    is seen."""
    student = tiny()
    tokens = torch.ones(1, 16, dtype=torch.int64)
    kept = [memory._kept(student, pairs, (3, 32, 32), tokens) for pairs in (3, 8)]
    plain = per_pair(student)
    # 17 tokens of width 64 in 4 blocks, several times.
    assert kept[1] - kept[0] == 5 * plain > 5 * 4 * 17 * 64 * 4 * 4
    two_texts = need(student, (3, 32, 32), torch.ones(2, 16, dtype=torch.int64), 8, 1).per_pair
    assert two_texts - plain == pytest.approx(plain - per_pair(tiny(freeze_text=True)), rel=0.01)
    assert per_pair(tiny(patch_dropout=0.5)) < 0.7 * plain
    assert per_pair(tiny(freeze_image=True)) < 0.4 * plain
    checkpointed = tiny(gradient_checkpointing=True)
    assert 0.2 * plain < per_pair(checkpointed) < 0.6 * plain
    assert checkpointed.clip.visual.transformer.grad_checkpointing


def test_embeddings_of_a_teacher_take_memory_of_their_own() -> None:
    student = tiny()
    rest = ((3, 32, 32), torch.ones(1, 16, dtype=torch.int64), 100)
    plain, taught, four = (need(student, *rest, *more) for more in ((1,), (1, 512), (4, 512)))
    assert plain.per_pair == taught.per_pair
    own = taught.fixed - plain.fixed
    assert own > 100 * 2 * 512 * (2 + 4) and four.fixed - need(student, *rest, 4).fixed > 3 * own


def test_a_probe_leaves_no_trace() -> None:
    student = tiny(patch_dropout=0.5)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    per_pair(student)
    flops_per_pair(student, (3, 32, 32), torch.ones(1, 16, dtype=torch.int64))
    assert torch.equal(torch.rand(2), expected)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_auto_is_said_and_stays_for_the_run(tiny_config, tmp_path, monkeypatch):
    """Bit-equal to a run with that number, also where there is more memory when it is resumed."""
    auto = tiny_config(schedule={"micro_batches": "auto"}, model={"patch_dropout": 0.5})
    monkeypatch.setattr(Need, "parts", lambda self, pairs, free: 3)
    stopped, said = interrupted(auto, tmp_path / "w", 4)
    assert not stopped.finished
    assert any(
        text.startswith("schedule.micro_batches auto: 3 of 6 pairs on each rank; a pair keeps")
        for text in said
    )
    monkeypatch.setattr(Need, "parts", lambda self, pairs, free: 1)
    assert train(auto, tmp_path / "w", said.append).finished
    train(
        tiny_config(schedule={"micro_batches": 3}, model={"patch_dropout": 0.5}),
        tmp_path / "calm",
        said.append,
    )
    assert len(losses(tmp_path / "w")) == 10 and losses(tmp_path / "w") == losses(tmp_path / "calm")
    assert (
        yaml.safe_load((tmp_path / "w" / "config.yaml").read_text())["schedule"]["micro_batches"]
        == 3
    )


def test_where_no_pair_fits(words: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(assembly, "free_bytes", lambda device: 1000)
    assert main(words(schedule={"micro_batches": "auto"})) == 2
    assert (
        "error: schedule.micro_batches auto: of 9.31e-07 GiB of free memory 80% are used"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "changes", [{"schedule": {"micro_batches": 16}}, {"model": {"batch_norm": "batch"}}]
)
def test_where_more_parts_cannot_help_a_smaller_batch_is_advised(changes, tiny_config):
    config = tiny_config(**changes)
    text = step.Stepper(tiny(), config, Ranks(), torch.device("cpu"))._too_large(16)
    assert text.endswith(
        f"micro_batches {config.schedule.micro_batches}: lower schedule.batch_size in a new WORKDIR"
    )


def test_a_step_that_is_too_large_names_the_setting(words, monkeypatch, capsys):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore")
    monkeypatch.setattr(step, "backward", Mock(side_effect=error))
    assert main(words(schedule={"micro_batches": 2})) == 1
    err = capsys.readouterr().err
    assert (
        "with 16 pairs on each rank and schedule.micro_batches 2: set schedule.micro_batches=4,"
        " which lets" in err
    )
    assert (
        err.endswith("(CUDA out of memory. Tried to allocate 20.00 GiB.)\n")
        and err.count("\n") == 1
    )


@pytest.mark.slow
def test_the_table_of_the_docs_is_what_the_probe_counts() -> None:
    from benchmarks.memory import row

    assert row("vit-b-32") in (Path(__file__).parents[2] / "docs/howto/train.md").read_text()


def test_a_cpu_has_no_class_for_it() -> None:
    with (
        pytest.raises(OutOfMemory, match=r"^smaller, please \("),
        remedy(lambda: "smaller, please"),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(OutOfMemory, match="CUBLAS"), remedy(lambda: "smaller, please"):
        raise RuntimeError(
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
        )
    with pytest.raises(RuntimeError, match="other"), remedy(lambda: ""):
        raise RuntimeError("other")


@pytest.mark.parametrize("version", [1, 2])
def test_the_free_memory_of_a_cpu_is_what_all_its_control_groups_leave(
    version: int, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  4000 kB\nMemAvailable:  3000 kB\n")
    assert memory._available(tmp_path, tmp_path / "groups") == 3000 * 1024
    if version == 2:
        root = tmp_path / "groups"
        line = "0::/job/step"
        files = ("memory.max", "memory.current")
        without = "max"
    else:
        root = tmp_path / "groups" / "memory"
        line = "3:cpu:/else\n5:hugetlb,memory:/job/step\n0::/"
        files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        without = "9223372036854771712"
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text(f"{line}\n")
    (root / "job" / "step").mkdir(parents=True)
    (root / "job" / "other").mkdir()

    def limited(group: Path, limit: str, used: int) -> int:
        for name, value in zip(files, (limit, used), strict=True):
            (group / name).write_text(f"{value}\n")
        return memory._available(tmp_path, tmp_path / "groups")

    assert limited(root / "job" / "step", without, 1000) == 3000 * 1024
    assert limited(root / "job" / "other", "100", 0) == 3000 * 1024
    assert limited(root / "job" / "step", "71000", 1000) == 70_000
    assert limited(root / "job", "52000", 2000) == 50_000  # a limit above holds below
    assert limited(root, "41000", 1000) == 40_000
    assert limited(root / "job", "900", 1000) == 0
    (root / "job").rename(root / "unseen")  # as in a container that sees its own group as the root
    assert memory._available(tmp_path, tmp_path / "groups") == 40_000


def test_ranks_share_the_free_memory_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(memory, "_available", lambda: 100)
    assert memory.free_bytes(torch.device("cpu")) == 50
