"""Pairs per core-second of our training step and of open_clip's model, loss and loop at the same
sizes, and the memory of HN-NCE in tiles next to that of open_clip's loss.

Ours: HN-NCE, both concept heads (10,000 classes each, top 10), gradient norm, check for non-finite
values, AdamW with a separate group for the heads, clamp of the scale, through the `Stepper` that
trains; and the same with InfoNCE and no heads, which shows what they cost. Theirs:
`open_clip.create_model`, ClipLoss, AdamW with open_clip's two groups, clamp, as in
open_clip_train's loop (without its logging and loss scaling). All sides train on the same random
pairs, in fp32 on one thread, and steps in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.loss import ClipLoss
from torch import nn
from torch.nn.functional import normalize

from benchmarks.figures.figure import Figure
from benchmarks.figures.turns import Entrant, Process, sides_of, take_turns
from open_diht.common.fields import build
from open_diht.common.ranks import Ranks
from open_diht.trainer.config import Config, TransformSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.data.batch import Batch
from open_diht.trainer.losses import Distillation, HnNce
from open_diht.trainer.model import build_student
from open_diht.trainer.step import Stepper
from open_diht.trainer.transforms import Pixels

MINUTES = 16
PEERS = None
MODEL = "ViT-B-32"
CONCEPTS = 10_000
ANCHOR = "open_clip"
OURS = "ours, HN-NCE, both heads"
NOTE = (
    "A user of open_clip gets this step from open_clip_train with --precision fp32; its logging"
    " comes on top. Both would use more threads, and bf16 where the processor has it."
)
Step = Callable[[], None]


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


def stepping(side: str, model: str, batch: int, concepts: int) -> Callable[[None], None]:
    """Return a function that does one step. 0 `concepts` mean InfoNCE without heads."""
    data = pairs(model, batch, concepts or CONCEPTS, "cpu")
    if side == ANCHOR:
        step = theirs(model, data, "cpu", "fp32")
    else:
        plain: dict[str, Any] = {} if concepts else {"loss": {"name": "infonce"}}
        step = ours(model, data, concepts, "cpu", "fp32", **plain)
    return lambda _: step()


def losing(form: str) -> Callable[[int], None]:
    """Return a function that passes n features of width 512 through a loss and back: open_clip's,
    or HN-NCE in the form of that name."""
    given = {"beta": 0.25, "implementation": form}
    own = None if form == ANCHOR else build(HnNce, given)

    def run(n: int) -> None:
        generator = torch.Generator().manual_seed(n)
        x = torch.randn(n, 512, generator=generator)
        y = x + torch.randn(n, 512, generator=generator)
        x, y = (normalize(values, dim=-1).requires_grad_() for values in (x, y))
        scale = torch.tensor(100.0, requires_grad=True)
        hashes = torch.arange(n)[:, None].expand(-1, 2)
        loss = own(x, y, scale, hashes=hashes)[0] if own else ClipLoss()(x, y, scale)
        loss.backward()

    return run


def entrants(model: str, batch: int, concepts: int) -> dict[str, Entrant]:
    peer = f"{version('open_clip_torch')}, torch {torch.__version__}"
    own = partial(Process, __name__, "stepping", model=model, batch=batch)
    common = {"threads": 1, "precision": "fp32", "batch": batch}
    return {
        ANCHOR: Entrant(
            peer, {**common, "loss": "ClipLoss"}, partial(own, side=ANCHOR, concepts=0)
        ),
        OURS: Entrant(
            "",
            {**common, "loss": "HN-NCE", "concepts": concepts},
            partial(own, side="ours", concepts=concepts),
        ),
        "ours, InfoNCE, no heads": Entrant(
            "", {**common, "loss": "InfoNCE"}, partial(own, side="ours", concepts=0)
        ),
    }


def measure(quick: bool, work: Path) -> list[Figure]:
    model, concepts = ("ViT-S-32-alt", 20) if quick else (MODEL, CONCEPTS)
    figures = []
    for batch, steps in ((2, 1),) if quick else ((16, 7), (64, 3)):
        known = entrants(model, batch, concepts)
        if quick:
            known = {name: known[name] for name in (ANCHOR, OURS)}
        # The first step, which allocates, is a warm-up.
        answers = {
            name: given[1:] for name, given in take_turns(known, [None] * (steps + 1)).items()
        }
        rates = {name: [batch / one.cpu_s for one in given] for name, given in answers.items()}
        memory = {name: [given[-1].mib] for name, given in answers.items()}
        what = f"a step of {model}, batch {batch}, {steps} steps"
        figures += [
            Figure(
                f"step-{batch}", "pairs per core-second", what, sides_of(known, rates), ANCHOR, NOTE
            ),
            Figure(f"step-{batch}-memory", "MiB, peak", what, sides_of(known, memory), ANCHOR),
        ]
    pairs_of_loss = 64 if quick else 8_192
    forms = {ANCHOR: ANCHOR, "ours, HN-NCE in tiles": "tiles"}
    if not quick:
        forms["ours, HN-NCE in one"] = "eager"
    known = {
        name: Entrant(
            version("open_clip_torch") if form == ANCHOR else "",
            {"threads": 1, "precision": "fp32"},
            partial(Process, __name__, "losing", form=form),
        )
        for name, form in forms.items()
    }
    found = take_turns(known, [2, *[pairs_of_loss] * (1 if quick else 3)])
    seconds = {name: [one.cpu_s for one in given[1:]] for name, given in found.items()}
    grown = {name: [given[-1].mib - given[0].mib] for name, given in found.items()}
    what = f"the loss of {pairs_of_loss:,} pairs of width 512 and its gradient"
    return [
        *figures,
        Figure("loss", "core-seconds", what, sides_of(known, seconds), ANCHOR),
        Figure("loss-memory", "MiB above two pairs", what, sides_of(known, grown), ANCHOR),
    ]
