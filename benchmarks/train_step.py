"""Our training step against open_clip's own model and loss at the same sizes.

    python -m benchmarks.train_step [--model ViT-B-32] [--batch 16] [--concepts 10000] [--repeats 7]
    [--device cpu]
                                    [--precision fp32] [--all]

Ours: HN-NCE, both concept heads (`--concepts` classes each, top 10), gradient norm, check for
non-finite values, AdamW with a separate group for the heads, clamp of the scale, through the
`Stepper` that trains. Theirs: `open_clip.create_model`, ClipLoss, AdamW with open_clip's two
groups, clamp, as in open_clip_train's loop (without its logging and loss scaling). Both use the
same random pairs and precision, and steps in turn; the result is the median of the ratios of steps
of one round. `--all` adds our step with two micro-batches, and our step with InfoNCE and no heads,
which shows the cost of the heads and HN-NCE.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from torch import nn

from benchmarks.measuring import in_turn, parser_of, print_table, ratios
from open_diht.common.fields import build
from open_diht.common.ranks import Ranks
from open_diht.trainer.config import Config, TransformSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.losses import Distillation
from open_diht.trainer.model import build_student
from open_diht.trainer.step import Stepper
from open_diht.trainer.transforms import Pixels

Step = Callable[[], None]
ANCHOR = "open_clip, ClipLoss"


def pairs(model: str, batch: int, concepts: int, device: str, side: int | None = None) -> Batch:
    """Return random pairs with targets of ten concepts. Images are bytes, of `side` or the model's
    size."""
    size = side or open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    texts = torch.randint(1, 49000, (batch, 77))
    texts[:, -1] = 49407  # the end-of-text token, whose place open_clip pools at
    p = torch.rand(batch, 10)
    targets = (torch.randint(0, concepts, (batch, 10)), p / p.sum(dim=1, keepdim=True))
    return Batch(
        images=torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8),
        texts=texts,
        caption_hash=torch.arange(batch),
        image_hash=torch.arange(batch),
        keys=[str(i) for i in range(batch)],
        concepts={"objects": targets, "attributes": targets},
    ).to(device)


def stepper_of(
    name: str,
    batch: int,
    concepts: int,
    device: str,
    precision: str,
    distillation: Distillation | None = None,
    **changes: Any,
) -> Stepper:
    """Return a stepper of the trainer. 0 `concepts` mean no heads. `changes` override sections of
    the configuration."""
    base = {
        "data": {"sources": [{"path": "not read"}]},
        "model": {"name": name},
        "concepts": {"path": "given" if concepts else ""},
        "schedule": {"samples": 10**9, "batch_size": batch},
        "run": {"precision": precision, "max_nonfinite": 10**6},
    }
    config = build(Config, merged(base, changes))
    torch.manual_seed(0)
    sizes = {"objects": concepts, "attributes": concepts} if concepts else {}
    student, _, _ = build_student(config.model, config.concepts, sizes, config.transform, precision)
    student.to(device).train()
    if config.model.compile:
        student.compile()
    return Stepper(student, config, Ranks(), torch.device(device), distillation)


def ours(
    name: str, batch: Batch, concepts: int, device: str, precision: str, **changes: Any
) -> Step:
    """Return a step of the trainer, which also normalizes the images. For the arguments see
    `stepper_of`."""
    stepper = stepper_of(name, len(batch), concepts, device, precision, **changes)
    number = 0

    def step() -> None:
        nonlocal number
        stepper.step(batch, 0, number, 0.01)
        number += 1

    return step


def theirs(model: str, batch: Batch, device: str, precision: str, compiled: bool = False) -> Step:
    """Return a step like open_clip_train's (in fp16 without its gradient scaler) on images already
    normalized."""
    torch.manual_seed(0)
    net = open_clip.create_model(model).to(device).train()
    images = Pixels(TransformSettings()).to(device)(batch.images)
    named = list(net.named_parameters())

    def no_decay(name: str, p: nn.Parameter) -> bool:
        return p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name

    groups = [
        {"params": [p for n, p in named if no_decay(n, p)], "weight_decay": 0.0},
        {"params": [p for n, p in named if not no_decay(n, p)], "weight_decay": 0.2},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=5e-6, betas=(0.9, 0.98), eps=1e-6, fused=device == "cuda"
    )
    loss = ClipLoss()
    forward = torch.compile(net) if compiled else net
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            image, text, scale = forward(images, batch.texts)
            total = loss(image, text, scale)
        total.backward()
        optimizer.step()
        with torch.no_grad():
            net.logit_scale.clamp_(0, 4.6052)

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("benchmarks.train_step", __doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--concepts", type=int, default=10_000, help="of each head")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument(
        "--all", action="store_true", help="also InfoNCE without heads, and two micro-batches"
    )
    options = parser.parse_args(arguments)
    common = (options.device, options.precision)
    batch = pairs(options.model, options.batch, options.concepts, options.device)
    steps: dict[str, Step] = {
        ANCHOR: theirs(options.model, batch, *common),
        "ours, HN-NCE + both heads": ours(options.model, batch, options.concepts, *common),
    }
    if options.all:
        steps["ours, InfoNCE, no heads"] = ours(
            options.model, batch, 0, *common, loss={"name": "infonce"}
        )
        two: dict[str, Any] = {"schedule": {"micro_batches": 2}}
        steps["ours, two micro-batches"] = ours(
            options.model, batch, options.concepts, *common, **two
        )

    def on_gpu() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    times = in_turn(
        steps, options.repeats, time.process_time if options.device == "cpu" else on_gpu, warm=True
    )
    clock = "processor" if options.device == "cpu" else "elapsed"
    print(
        f"{clock} time, {options.model}, batch {options.batch}, {options.device}"
        f" {options.precision}, {torch.get_num_threads()} threads, median of {options.repeats};"
        f" torch {torch.__version__}\n"
    )

    def cells(name: str) -> list[str]:
        low, middle, high = ratios(times[name], times[ANCHOR])
        seconds = statistics.median(times[name])
        return [
            name,
            f"{seconds:.3f}",
            f"{options.batch / seconds:.1f}",
            f"{middle:.3f}",
            f"{low:.3f}",
            f"{high:.3f}",
        ]

    print_table(["side", "seconds", "pairs/s", "ratio", "least", "most"], map(cells, steps))


if __name__ == "__main__":
    main()
