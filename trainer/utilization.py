"""Utilization of devices: model FLOPs utilization (MFU; Chowdhery et al. 2022, PaLM, appendix B)
and peak memory.

MFU is the FLOP/s that the model needs at the measured speed, forward and backward, divided by the
peak of the devices. Recomputation to save memory (gradient checkpointing, micro-batches) does not
count.
"""

import resource

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open_diht.trainer.memory import probe, without_checkpointing
from open_diht.trainer.model import Student

# Operations grow with the number of pairs, so few are enough to count them.
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
"""Peak FLOP/s on dense matrices from the makers' data sheets, by device and precision. A key
matches whole words of the name that CUDA reports, and the first match counts. Precisions are
`run.precision`, or tf32 for fp32 with `run.tf32`."""


def peak_flops(device: torch.device, precision: str, told: float | None = None) -> float | None:
    """Return a device's peak FLOP/s at bf16, fp16, tf32 or fp32, if known. `told` is
    `log.peak_tflops`."""
    if told is not None:
        return told * _T
    return peak_of(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def peak_of(name: str, precision: str) -> float | None:
    """Return the peak FLOP/s of a GPU by the name that CUDA reports. Return None if unknown."""
    words = f" {name.replace('-', ' ')} "
    return next(
        (peaks.get(precision) for known, peaks in PEAKS.items() if f" {known} " in words), None
    )


def flops_per_pair(student: Student, shape: tuple[int, ...], tokens: Tensor) -> float:
    """Count the FLOPs of a step for one pair, forward and backward, without the loss, frozen
    weights' gradients and dropped patches. Random numbers and gradients are not changed. `tokens`
    are (k, context) ids of any captions, k for each pair."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    with (
        without_checkpointing(student),
        probe(student, _PAIRS, shape, tokens) as inputs,
        sdpa_kernel(SDPBackend.MATH),  # FLOPs of other backends are not all counted
        FlopCounterMode(display=False) as counter,
    ):
        encoded = student(*inputs)
        total = (
            sum(logits.sum() for logits in encoded.concepts.values())
            + encoded.image.sum()
            + encoded.text.sum()
        )
        torch.autograd.grad(total, trained, allow_unused=True)
    return counter.get_total_flops() / _PAIRS


def peak_memory(device: torch.device) -> int:
    """Return this process's peak memory in bytes: what torch's allocator took on a GPU, or the
    resident memory without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # it is in KiB
