"""How much of a device a training uses: model FLOPs utilisation (MFU; Chowdhery et al. 2022, PaLM, appendix B) and peak
memory.

MFU is the FLOPs that the model needs for the pairs of a second, forward and backward, over what the device could do
in it. What is computed twice to save memory (gradient checkpointing, micro-batches) does not count.
"""

from __future__ import annotations

import resource
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
    """FLOP/s of a device; `told`: `log.peak_tflops`, in units of 1e12. None where it is not known."""
    if told is not None:
        return told * _T
    return peak_of(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def peak_of(name: str, precision: str) -> float | None:
    """FLOP/s of a device of that name."""
    words = f" {name.replace('-', ' ')} "
    return next((peaks.get(precision) for known, peaks in PEAKS.items() if f" {known} " in words), None)


def flops_per_pair(student: Student, shape: tuple[int, ...], tokens: Tensor) -> float:
    """FLOPs of the encoders for one pair, forward and backward, as a step needs them: none for the backward pass of
    what is frozen, fewer with patch dropout. `shape`: of what the image tower takes; `tokens` (1, context): of any
    caption. Random numbers and gradients are as before."""
    clip: Any = student.clip
    device = clip.logit_scale.device
    checkpointed = any(getattr(module, "grad_checkpointing", False) for module in student.modules())
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    images = torch.zeros(_PAIRS, *shape, device=device)
    texts = tokens.to(device).expand(_PAIRS, -1)
    if checkpointed:
        clip.set_grad_checkpointing(False)
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            sdpa_kernel(SDPBackend.MATH),  # of others, not all are counted
            FlopCounterMode(display=False) as counter,
        ):
            encoded = student(images, texts)
            total = sum(logits.sum() for logits in encoded.concepts.values()) + encoded.image.sum() + encoded.text.sum()
            torch.autograd.grad(total, trained, allow_unused=True)
    finally:
        if checkpointed:
            clip.set_grad_checkpointing(True)
    return counter.get_total_flops() / _PAIRS


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has used so far: of its GPU, as torch's allocator counts them, or of the
    machine's memory, without workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
