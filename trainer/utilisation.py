"""How much of a device a training uses: model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM, appendix B) and peak
memory.

MFU is the FLOPs that the model needs for the pairs of a second, forward and backward, over what the device could do
in it. What is computed twice to save memory (gradient checkpointing, micro-batches) does not count.
"""

from __future__ import annotations

import resource

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open_diht.trainer.memory import probe, without_checkpointing
from open_diht.trainer.model import Student

_PAIRS = 2
_T = 1e12
PEAKS: dict[str, dict[str, float]] = {
    "B200": {"bf16": 2250 * _T, "fp16": 2250 * _T, "tf32": 1120 * _T, "fp32": 80 * _T},
    "H200 NVL": {"bf16": 835 * _T, "fp16": 835 * _T, "tf32": 417 * _T, "fp32": 60 * _T},
    "H200": {"bf16": 989 * _T, "fp16": 989 * _T, "tf32": 494 * _T, "fp32": 67 * _T},
    "H100 PCIe": {"bf16": 756 * _T, "fp16": 756 * _T, "tf32": 378 * _T, "fp32": 51 * _T},
    "H100 NVL": {"bf16": 835 * _T, "fp16": 835 * _T, "tf32": 417 * _T, "fp32": 60 * _T},
    "H100": {"bf16": 989 * _T, "fp16": 989 * _T, "tf32": 494 * _T, "fp32": 67 * _T},
    "A100": {"bf16": 312 * _T, "fp16": 312 * _T, "tf32": 156 * _T, "fp32": 19.5 * _T},
    "RTX 4090": {"bf16": 165 * _T, "fp16": 165 * _T, "tf32": 82.6 * _T, "fp32": 82.6 * _T},
    "L40S": {"bf16": 362 * _T, "fp16": 362 * _T, "tf32": 183 * _T, "fp32": 91.6 * _T},
    "L4": {"bf16": 121 * _T, "fp16": 121 * _T, "tf32": 60 * _T, "fp32": 30.3 * _T},
    "A10G": {"bf16": 70 * _T, "fp16": 70 * _T, "tf32": 35 * _T, "fp32": 35 * _T},
    "A10": {"bf16": 125 * _T, "fp16": 125 * _T, "tf32": 62.5 * _T, "fp32": 31.2 * _T},
    "V100": {"fp16": 125 * _T, "fp32": 15.7 * _T},
    "T4": {"fp16": 65 * _T, "fp32": 8.1 * _T},
}
"""FLOP/s of dense matrices by the name that CUDA gives a device (a part of it, in words; the first that fits) and by
precision, from the makers' data sheets: `run.precision`, or tf32 for fp32 with `run.tf32`."""


def peak_flops(device: torch.device, precision: str, told: float | None = None) -> float | None:
    """Return the FLOP/s of a device; `told` is `log.peak_tflops`, in units of 1e12. None if unknown."""
    if told is not None:
        return told * _T
    return peak_of(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def peak_of(name: str, precision: str) -> float | None:
    """Return the FLOP/s of a device of that name, None if unknown."""
    words = f" {name.replace('-', ' ')} "
    return next((peaks.get(precision) for known, peaks in PEAKS.items() if f" {known} " in words), None)


def flops_per_pair(student: Student, shape: tuple[int, ...], tokens: Tensor) -> float:
    """Count the FLOPs of the encoders for one pair, forward and backward, as a step needs them.

    The backward pass of frozen weights needs none; patch dropout needs fewer. Random numbers and gradients stay as they
    are.

    Args:
        student: in training mode.
        shape: of the image tower's input.
        tokens: (1, context), of any caption.
    """
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    with (
        without_checkpointing(student),
        probe(student, _PAIRS, shape, tokens) as inputs,
        sdpa_kernel(SDPBackend.MATH),  # of others, not all are counted
        FlopCounterMode(display=False) as counter,
    ):
        encoded = student(*inputs)
        total = sum(logits.sum() for logits in encoded.concepts.values()) + encoded.image.sum() + encoded.text.sum()
        torch.autograd.grad(total, trained, allow_unused=True)
    return counter.get_total_flops() / _PAIRS


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of this process, of its GPU (torch's allocator) or of the machine without workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
