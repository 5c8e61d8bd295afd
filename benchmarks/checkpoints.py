"""What a checkpoint costs: seconds, bytes, and the share of training it takes.

    python -m benchmarks.checkpoints [--model ViT-B-32] [--repeats 3] [--folder DIR]

Writes a student with both heads and its AdamW state as the trainer does (safetensors, torch.save, SHA-256, fsync,
rename), next to a bare `torch.save` of the same without hash and fsync, in turn; then loads and verifies it. `--folder`
chooses the disk. The share is for the default schedule, a checkpoint each 20 M samples, at a speed that you give
(`--samples-per-s`; the default is what 176 A100 reach for ViT-B/16 in published runs).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from open_diht.trainer.checkpoint import Checkpoint, Checkpoints
from open_diht.trainer.config import CheckpointSettings, ConceptSettings, ModelSettings, OptimizerSettings
from open_diht.trainer.model import build_student
from open_diht.trainer.optim import build_optimizer
from open_diht.trainer.stores import LocalStore


def trained(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights and training state after one step."""
    student, _, _ = build_student(
        ModelSettings(name=model), ConceptSettings(), {"objects": 10_000, "attributes": 10_000}
    )
    optimizer = build_optimizer(student, OptimizerSettings(), ConceptSettings())
    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return student.clip.state_dict(), {"heads": student.heads.state_dict(), "optimizer": optimizer.state_dict()}


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder)")
    parser.add_argument("--samples-per-s", type=float, default=56_000)
    options = parser.parse_args(arguments)
    model, training = trained(options.model)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        checkpoints = Checkpoints(LocalStore(Path(name) / "ours"), CheckpointSettings(keep_last=1))
        steps = iter(range(1, 1000))

        def save() -> None:
            step = next(steps)
            checkpoints.save(Checkpoint(step=step, samples=step, model=model, training=training))

        def bare() -> None:
            torch.save({"model": model, **training}, Path(name) / "bare.pt")

        times: dict[str, list[float]] = {"ours": [], "torch.save": [], "load, verified": []}
        for _ in range(options.repeats):
            times["ours"].append(seconds(save))
            times["torch.save"].append(seconds(bare))
            times["load, verified"].append(seconds(checkpoints.newest))
        size = sum(file.stat().st_size for file in Path(checkpoints.place(checkpoints.steps()[-1])).iterdir())
    print(
        f"{options.model} with two heads of 10,000: {size / 2**20:,.0f} MiB per checkpoint; {options.repeats} repeats"
    )
    for what, values in times.items():
        print(f"{what:<16}{statistics.median(values):>8.2f} s  ({min(values):.2f}-{max(values):.2f})")
    between = CheckpointSettings().every_samples / options.samples_per_s
    cost = statistics.median(times["ours"])
    share = cost / (cost + between)
    print(f"share of training, one per {between:,.0f} s at {options.samples_per_s:,.0f} samples/s: {share:.2%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
