"""The parts of `benchmarks.gpu`. A part is a function of the sizes; it returns the rows of its
table."""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.distributed as dist
from open_clip.loss import ClipLoss
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.figures.parts.loader import write_shards
from benchmarks.figures.parts.step import ours, pairs, stepper_of, theirs
from benchmarks.measuring import in_turn
from open_diht.common.fields import build
from open_diht.common.ranks import _Gather, begin_group, joined_ranks
from open_diht.pipelines.teachers.teacher import find_teacher
from open_diht.trainer.architecture import tokenizer
from open_diht.trainer.config import Config
from open_diht.trainer.loop import TrainingOutcome, train
from open_diht.trainer.losses import HnNce
from open_diht.trainer.memory import need
from open_diht.trainer.utilization import flops_per_pair, peak_flops

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of models, batches and data: those of the published tables, for a GPU."""

    tiny: bool = False
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    models: tuple[str, ...] = ("ViT-B-32", "ViT-B-16")
    batch: int = 512
    repeats: int = 10
    loss: tuple[int, ...] = (8192, 32_768, 65_536)
    exact: int = 4096
    """Pairs of the batch whose loss is compared with float64."""
    d: int = 512
    images: int = 20_000
    workers: tuple[int, ...] = (1, 2, 4, 8)


TINY = Sizes(
    tiny=True,
    models=("ViT-S-32",),
    batch=2,
    repeats=1,
    loss=(64,),
    exact=64,
    d=16,
    images=24,
    workers=(1,),
)
"""Sizes for any device."""

SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
"""A small model for parts that test correctness, and for tiny trainings."""


def timed(call: Callable[[], Any], device: str, repeats: int) -> tuple[float, int]:
    """Return the median seconds of a call, and the bytes by which its peak memory exceeds the
    memory before (0 on a CPU)."""
    on_gpu = device == "cuda"

    def clock() -> float:
        if on_gpu:
            torch.cuda.synchronize()  # kernels run asynchronously: wait before reading the clock
        return time.perf_counter()

    call()
    clock()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = in_turn({"call": call}, repeats, clock)["call"]
    return statistics.median(seconds), torch.cuda.max_memory_allocated() - before if on_gpu else 0


def freed() -> None:
    """Return unreferenced memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def precisions(size: Sizes) -> list[Row]:
    """Train on one batch in each precision, and count the syncs that a step waits for."""
    rows = []
    for precision in ("fp32", "bf16", "fp16"):
        given: dict[str, Any] = {
            "model": {"architecture": SMALL},
            "optimizer": {"learning_rate": 2e-3},
        }
        stepper = stepper_of("ViT-B-32", 16, 32, size.device, precision, **given)
        batch = pairs("ViT-B-32", 16, 32, size.device, side=32)
        results = [stepper.step(batch, 0, number, 1.0) for number in range(4 if size.tiny else 100)]
        taken = [result for result in results if result.finite]
        rows.append(
            {
                "precision": precision,
                "first loss": taken[0].values["loss"],
                "last loss": taken[-1].values["loss"],
                "steps skipped": stepper.skipped.total,
                "AdamW": "fused" if stepper.optimizer.defaults["fused"] else "not fused",
                "syncs a step": _syncs(lambda: stepper.step(batch, 1, 0, 1.0), size),  # noqa: B023
            }
        )
    return rows


def _syncs(step: Callable[[], Any], size: Sizes) -> Any:
    if size.device == "cpu":
        return "needs CUDA"
    import warnings

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)


def steps(size: Sizes) -> list[Row]:
    """Time our steps and open_clip's, one after the other."""
    rows: list[Row] = []
    precision = "bf16" if size.device == "cuda" else "fp32"
    infonce = {"name": "infonce"}
    for model in size.models:
        flops = _flops(model, size)
        for compiled in (False, True):
            if compiled and size.device == "cpu":
                rows.append({"model": model, "side": "compiled", "s": "needs CUDA"})
                continue
            batch = pairs(model, size.batch, 10_000, size.device)
            sides = {
                "open_clip, ClipLoss": theirs(
                    model, batch, size.device, precision, compiled=compiled
                ),
                "HN-NCE and heads": ours(
                    model, batch, 10_000, size.device, precision, model={"compile": compiled}
                ),
                "InfoNCE": ours(
                    model,
                    batch,
                    0,
                    size.device,
                    precision,
                    loss=infonce,
                    model={"compile": compiled},
                ),
            }
            anchor = None
            for side, step in sides.items():
                seconds, peak = timed(step, size.device, size.repeats)
                anchor = anchor or seconds
                rows.append(
                    {
                        "model": model,
                        "side": side + (", compiled" if compiled else ""),
                        "pairs": size.batch,
                        "s": seconds,
                        "x open_clip": seconds / anchor,
                        "pairs/s": size.batch / seconds,
                        "MFU": _mfu(flops * size.batch / seconds, size, precision),
                        "peak GiB": peak / 2**30 if peak else None,
                    }
                )
            del sides, step, batch
            freed()
    return rows


def _flops(model: str, size: Sizes) -> float:
    """Return the FLOPs of the forward and backward pass of a pair."""
    student = stepper_of(model, 1, 0, size.device, "fp32").student
    shape = open_clip.get_model_config(model)
    side = shape["vision_cfg"]["image_size"]
    return flops_per_pair(student, (3, side, side), tokenizer(shape)(["a caption"]))


def _mfu(flops_per_s: float, size: Sizes, precision: str) -> float | None:
    peak = peak_flops(torch.device(size.device), precision)
    return None if peak is None else flops_per_s / peak


def losses(size: Sizes) -> list[Row]:
    """Time forward and backward passes, one loss after the other at each n, and measure errors of
    HN-NCE to float64."""
    forms: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], bool]] = {
        "open_clip ClipLoss, bf16": (partial(_clip_loss, half=True), False),
        "open_clip ClipLoss, fp32": (partial(_clip_loss, half=False), False),
        **{
            f"HN-NCE {form}{', tf32' if tf32 else ''}": (partial(_hn_nce, form), tf32)
            for form in ("eager", "tiles", "triton")
            for tf32 in (False, True)
        },
    }
    exact = _loss_values(partial(_hn_nce, "eager"), size.exact, size, torch.float64)
    rows: list[Row] = []
    for n in size.loss:
        anchor = None
        for name, (loss, tf32) in forms.items():
            if size.device == "cpu" and ("triton" in name or tf32):
                rows.append({"loss": name, "n": n, "ms": "needs CUDA"})
                continue
            torch.backends.cuda.matmul.allow_tf32 = tf32
            row: Row = {"loss": name, "n": n}
            try:
                seconds, peak = timed(_call_of(loss, n, size), size.device, size.repeats)
                anchor = anchor or seconds
                row |= {
                    "ms": seconds * 1e3,
                    "x open_clip": seconds / anchor,
                    "peak MiB": peak / 2**20 if peak else None,
                }
            except torch.OutOfMemoryError:
                row["ms"] = "out of memory"
            freed()
            if "HN-NCE" in name and n == size.loss[0]:
                found = _loss_values(loss, size.exact, size, torch.float32)
                row["error of loss"], row["error of gradient"] = (
                    float((a.double() - b).norm() / b.norm())
                    for a, b in zip(found, exact, strict=True)
                )
            rows.append(row)
    torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def _clip_loss(x: Tensor, y: Tensor, scale: Tensor, half: bool) -> Tensor:
    with torch.autocast(x.device.type, dtype=torch.bfloat16) if half else nullcontext():
        return ClipLoss()(normalize(x, dim=-1), normalize(y, dim=-1), scale)


def _hn_nce(form: str, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
    hashes = torch.arange(len(x), device=x.device)[:, None].expand(-1, 2)
    return build(HnNce, {"beta": 0.25, "implementation": form})(x, y, scale, hashes=hashes)[0]


def _features(n: int, size: Sizes, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, size.d, generator=generator)
    y = x + torch.randn(n, size.d, generator=generator)
    scale = torch.tensor(100.0, device=size.device, dtype=dtype, requires_grad=True)
    x, y = (values.to(size.device, dtype).requires_grad_() for values in (x, y))
    return x, y, scale


def _call_of(loss: Callable[..., Tensor], n: int, size: Sizes) -> Callable[[], None]:
    x, y, scale = _features(n, size, torch.float32)

    def call() -> None:
        x.grad = y.grad = None
        loss(x, y, scale).backward()

    return call


def _loss_values(
    loss: Callable[..., Tensor], n: int, size: Sizes, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    x, y, scale = _features(n, size, dtype)
    value = loss(x, y, scale)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def memory(size: Sizes) -> list[Row]:
    """Compare the probe's memory per pair with the peak of steps in one and two micro-batches."""
    rows = []
    precision = "bf16" if size.device == "cuda" else "fp32"
    for model in size.models:
        batch = pairs(model, size.batch * 2, 10_000, size.device)
        stepper = stepper_of(model, len(batch), 10_000, size.device, precision)
        shape = tuple(batch.images.shape[1:])
        tokens = tokenizer(open_clip.get_model_config(model))(["a caption"])
        needed = need(stepper.student, shape, tokens, len(batch), 1)
        for parts in (1, 2):
            schedule = replace(stepper.config.schedule, micro_batches=parts)
            stepper.config = replace(stepper.config, schedule=schedule)
            seconds, peak = timed(partial(stepper.step, batch, 0, 0, 0.01), size.device, 2)
            rows.append(
                {
                    "model": model,
                    "pairs of a part": len(batch) // parts,
                    "MiB a pair, probed": needed.per_pair / 2**20,
                    "MiB a pair, peak": (
                        peak / 2**20 / (len(batch) // parts) if peak else "needs CUDA"
                    ),
                    "s": seconds,
                }
            )
        del stepper, batch
        freed()
    return rows


def _trained(folder: Path, workdir: Path, size: Sizes, **changes: Any) -> TrainingOutcome:
    values: dict[str, Any] = {
        "model": (
            {"architecture": SMALL}
            if size.tiny or "resume" in str(workdir)
            else {"name": "ViT-B-32"}
        ),
        "data": {
            "sources": [{"path": str(folder)}],
            "workers": changes.pop("workers", 1),
            "shuffle": 100,
        },
        "concepts": {"path": ""},
        "schedule": {
            "samples": size.images,
            "batch_size": 8 if size.tiny else 256,
            "warmup_samples": 16,
        },
        "run": {"precision": "fp32" if size.device == "cpu" else "bf16", "device": size.device},
        "log": {"every_steps": 1, "tensorboard": False},
    }
    for section, settings in changes.items():
        values[section] = {**values.get(section, {}), **settings}
    return train(build(Config, values), workdir, lambda text: None)


def loader(size: Sizes) -> list[Row]:
    """Train with each number of workers on shards of photographs."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        write_shards(folder / "shards", size.images, 32 if size.tiny else 320, 4)
        for workers in size.workers:
            _trained(folder / "shards", folder / f"{workers}", size, workers=workers)
            lines = [
                json.loads(line)
                for line in (folder / f"{workers}" / "log.jsonl").read_text().splitlines()
            ]
            later = [line for line in lines if line["kind"] == "step"][1:]
            rows.append(
                {
                    "workers": workers,
                    "cores": os.cpu_count(),
                    "pairs/s": statistics.median(line["samples_per_s"] for line in later),
                    "data wait": statistics.median(line["data_wait"] for line in later),
                }
            )
    return rows


def resume(size: Sizes) -> list[Row]:
    """Compare a run with one that is resumed from its checkpoint halfway, both deterministic."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shards").mkdir()
        few = replace(size, images=min(size.images, 2048))
        write_shards(folder / "shards", few.images, 32, 2)
        run = {
            "deterministic": True,
            "threads": 1,
            "precision": "fp32" if size.device == "cpu" else "bf16",
        }
        run["device"] = size.device
        checkpoint = {"every_samples": 8 if size.tiny else 256, "keep_last": 1000}
        for halves in (1, 2):
            workdir = folder / f"resume-{halves}"
            outcome = _trained(folder / "shards", workdir, few, run=run, checkpoint=checkpoint)
            if halves == 2:  # as after a kill halfway: the later checkpoints are missing
                steps_taken = sorted((workdir / "checkpoints").glob("step-*"))
                for late in steps_taken[len(steps_taken) // 2 :]:
                    shutil.rmtree(late)
                outcome = _trained(folder / "shards", workdir, few, run=run, checkpoint=checkpoint)
            assert outcome.export is not None
            found.append((outcome.export / "open_clip_model.safetensors").read_bytes())
    return [
        {
            "resumed run": "bit-equal" if found[0] == found[1] else "other bits",
            "steps": outcome.step,
        }
    ]


def nccl(size: Sizes) -> list[Row]:
    """Run a barrier, the gather with its gradient, and steps with DDP on one rank. Without CUDA,
    only report that."""
    if size.device == "cpu":
        return [{"nccl": "needs CUDA"}]
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }
    begin_group("cuda", 0, 60)
    try:
        with joined_ranks("cuda", 60) as ranks:
            dist.barrier(group=ranks.control)  # the additional group on the CPU
        x = torch.randn(64, 8, device="cuda", requires_grad=True)
        gathered = _Gather.apply(x, 0, 1)
        gathered.square().sum().backward()
        assert x.grad is not None
        same = torch.equal(gathered, x) and torch.equal(x.grad, 2 * x)
        stepper = stepper_of("ViT-B-32", 16, 32, "cuda", "bf16", model={"architecture": SMALL})
        stepper.module = torch.nn.parallel.DistributedDataParallel(
            stepper.student, device_ids=[0], broadcast_buffers=False, gradient_as_bucket_view=True
        )
        batch = pairs("ViT-B-32", 16, 32, "cuda", side=32)
        stepper.settle(len(batch), batch.images.shape[1:], batch.texts[:1])
        results = [stepper.step(batch, 0, number, 0.01) for number in range(3)]
        return [
            {
                "gather and its gradient": same,
                "steps with DDP": sum(result.finite for result in results),
            }
        ]
    finally:
        dist.destroy_process_group()


def concepts(size: Sizes) -> list[Row]:
    """Time the teacher on noise images, and compare its features with those of float32."""
    teacher = find_teacher("efficientnet-lite0").load(size.device)
    images = [
        Image.effect_noise((256, 256), 60 + n % 60).convert("RGB")
        for n in range(4 if size.tiny else 256)
    ]
    batch = torch.stack([teacher.transform(image) for image in images]).to(size.device)
    found: dict[str, Tensor] = {}
    rows = []
    for name, dtype in (("fp32", None), ("bf16", torch.bfloat16)):

        def call(name: str = name, dtype: torch.dtype | None = dtype) -> None:
            with (
                torch.inference_mode(),
                torch.autocast(size.device, dtype=dtype, enabled=dtype is not None),
            ):
                found[name] = teacher.model(batch).float()

        seconds, _ = timed(call, size.device, size.repeats)
        cosine = torch.nn.functional.cosine_similarity(found[name], found["fp32"]).mean()
        rows.append(
            {"teacher in": name, "images/s": len(images) / seconds, "cosine to fp32": float(cosine)}
        )
    return rows


PARTS: dict[str, Callable[[Sizes], list[Row]]] = {
    part.__name__: part
    for part in (precisions, steps, losses, memory, loader, resume, nccl, concepts)
}
