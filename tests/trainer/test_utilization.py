"""FLOPs counted from the model, against the arithmetic of its matrices; peaks by the names of
devices."""

import resource
from pathlib import Path

import pytest
import torch

from open_diht.trainer.config import ConceptSettings, ModelSettings
from open_diht.trainer.model import Student, build_student
from open_diht.trainer.utilization import PEAKS, flops_per_pair, peak_flops, peak_memory, peak_of
from tests.trainer.test_memory import tiny

WIDTH, LAYERS, TOKENS = 64, 4, 17  # of `tiny`
TEXT_WIDTH = 32
TEXT_LAYERS = 2
CONTEXT = 16


def flops(student: Student) -> float:
    return flops_per_pair(student, (3, 32, 32), torch.ones(1, CONTEXT, dtype=torch.int64))


def blocks(layers: int, width: int, tokens: int) -> int:
    """Forward: 12 w^2 weights a token in each block, and the two products of attention."""
    return layers * 2 * (12 * width**2 * tokens + 2 * width * tokens**2)


def test_flops_are_those_of_the_matrices() -> None:
    forward = blocks(LAYERS, WIDTH, TOKENS) + blocks(TEXT_LAYERS, TEXT_WIDTH, CONTEXT)
    patches = 2 * 16 * 8 * 8 * 3 * WIDTH
    projections = 2 * (WIDTH + TEXT_WIDTH) * 32
    # Backward twice the forward; images get no gradient.
    assert flops(tiny()) == 3 * forward + 2 * patches + 3 * projections


def test_what_is_not_computed_does_not_count_and_what_is_computed_twice_counts_once() -> None:
    plain = flops(tiny())
    assert flops(tiny(gradient_checkpointing=True)) == plain
    assert flops(tiny(patch_dropout=0.5)) < 0.7 * plain
    assert flops(tiny(freeze_image=True)) < 0.6 * plain


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312), ("NVIDIA A100-PCIE-40GB", "fp32", 19.5),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156), ("Tesla T4", "tf32", None),
        ("NVIDIA H100 80GB HBM3", "bf16", 989), ("NVIDIA H100 PCIe", "fp16", 756),
        ("NVIDIA H200", "bf16", 989), ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-SXM2-16GB", "bf16", None), ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121), ("NVIDIA A10", "bf16", 125), ("NVIDIA A1000", "bf16", None),
        ("Something else", "bf16", None),
    ],
)  # fmt: skip
def test_peaks_by_name(name: str, precision: str, peak: float | None) -> None:
    assert peak_of(name, precision) == (None if peak is None else peak * 1e12)


def test_a_name_that_is_part_of_another_stands_after_it() -> None:
    names = list(PEAKS)
    assert [
        name
        for n, name in enumerate(names)
        if any(f" {earlier} " in f" {name} " for earlier in names[:n])
    ] == []


def test_a_peak_that_is_told_counts_and_a_cpu_has_none() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu, "fp32") is None and peak_flops(cpu, "fp32", told=0.5) == 5e11


def test_peak_memory_is_what_was_held_at_most() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert peak_memory(torch.device("cpu")) >= 0.99 * pages * resource.getpagesize() > 50 * 2**20


def test_counting_leaves_the_statistics_of_batch_norms() -> None:
    architecture = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 64,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    }
    settings = ModelSettings(architecture=architecture, batch_norm="batch")
    student = build_student(settings, ConceptSettings(), {})[0].train()
    before = [buffer.clone() for buffer in student.statistics()]
    flops(student)
    assert before and all(map(torch.equal, before, student.statistics()))
