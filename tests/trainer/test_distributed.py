"""Several ranks equal one process: losses, encoder gradients, temperature gradient, one step of
AdamW, through real DDP on gloo; also in parts (GradCache), with concepts, by tiles, with
duplicates."""

import copy
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import nn

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import build
from open_diht.common.ranks import Ranks, begin_group, joined_ranks, same_on_all
from open_diht.trainer import checks
from open_diht.trainer.accumulation import Losses, backward
from open_diht.trainer.checkpoint import Checkpoints
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import load_config, merged
from open_diht.trainer.data import DataError
from open_diht.trainer.data.batch import Batch, Negatives
from open_diht.trainer.loop import train
from open_diht.trainer.losses import Distillation, HnNce, loss_of
from open_diht.trainer.model import Encoded, build_student
from open_diht.trainer.step import Stepper, StepResult
from open_diht.trainer.stores import LocalStore
from tests.trainer.conftest import ONE_LAYER, entries, relative

CASES: dict[str, dict[str, Any]] = {
    "hn_nce": {"loss": {"beta": 0.5}},
    "infonce": {"loss": {"beta": 0.0}},
    "tiles": {"loss": {"beta": 0.5, "alpha": 0.9, "chunk": 2}},
    "duplicates": {"loss": {"beta": 0.5}, "duplicates": True},
    "concepts": {"loss": {"beta": 0.25}, "concepts": True},
    "parts": {"loss": {"beta": 0.25}, "concepts": True, "parts": 2, "duplicates": True},
    "negatives": {"loss": {"beta": 0.5}, "negatives": True},
    "negatives in parts": {
        "loss": {"beta": 0.5, "chunk": 2},
        "negatives": True,
        "parts": 2,
        "duplicates": True,
    },
    "siglip": {"loss": {"name": "siglip"}, "bias": -3.0},
    "distillation": {"loss": {"beta": 0.25}, "teacher": True},
    "distillation in parts": {
        "loss": {"name": "infonce"},
        "teacher": True,
        "concepts": True,
        "parts": 2,
    },
    "siglip in parts": {
        "loss": {"name": "siglip"},
        "bias": -3.0,
        "concepts": True,
        "parts": 2,
        "duplicates": True,
    },
}
N = 16
CONTEXT = 5
VOCABULARY = 11


class Clip(nn.Module):
    """Encoders that show every mistake of a gradient: none of them is linear."""

    def __init__(self, bias: float | None) -> None:
        super().__init__()
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 6))
        self.text = nn.Sequential(
            nn.Embedding(20, 8), nn.Flatten(), nn.GELU(), nn.Linear(8 * CONTEXT, 6)
        )
        self.logit_scale = nn.Parameter(torch.tensor(2.5))


class Toy(nn.Module):
    def __init__(self, bias: float | None = None) -> None:
        super().__init__()
        self.clip = Clip(bias)
        self.heads = nn.ModuleDict(
            {"objects": nn.Linear(6, VOCABULARY), "attributes": nn.Linear(6, VOCABULARY)}
        )

    def forward(self, images: Any, texts: Any, negatives: Any = None) -> Encoded:
        image = self.clip.image(images)
        concepts = {name: head(image) for name, head in self.heads.items()}
        negative = None if negatives is None else self.clip.text(negatives)
        scale = self.clip.logit_scale.exp()
        bias = self.clip.logit_bias
        return Encoded(image, self.clip.text(texts), scale, concepts, bias, negative)


def toy(case: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    student = Toy(case.get("bias"))
    if not case.get("concepts"):
        student.heads = nn.ModuleDict()
    return student


def whole_batch(case: dict[str, Any]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    hashes = torch.arange(N)
    images = torch.arange(N)
    if case.get("duplicates"):
        hashes[[3, 9, 14]] = 3
        images[[2, 9, 11]] = 2
    concepts = {}
    if case.get("concepts"):
        for head in ("objects", "attributes"):
            p = torch.rand(N, 3, generator=generator)
            p[torch.rand(N, generator=generator) < (0.5 if head == "objects" else 0.2)] = 0
            p[: N // 4] = 0  # a rank without any
            p = p / p.sum(dim=1, keepdim=True).clamp(min=1e-9)
            concepts[head] = (torch.randint(0, VOCABULARY, (N, 3), generator=generator), p)
    teacher: tuple[Any, ...] = ()
    if case.get("teacher"):
        teacher = tuple(torch.randn(N, 7, generator=generator).half() for _ in range(2))
        teacher[0][: N // 4], teacher[1][9] = 0, 0  # a rank without any, and a caption without
    return Batch(
        images=torch.randn(N, 3, 2, 2, generator=generator),
        texts=torch.randint(0, 20, (N, CONTEXT), generator=generator),
        caption_hash=hashes,
        image_hash=images,
        keys=[str(i) for i in range(N)],
        concepts=concepts,
        teacher=teacher,
        negatives=wrong_captions() if case.get("negatives") else None,
    )


def wrong_captions() -> Negatives:
    """One is the caption of another pair; a rank has none at all."""
    texts = torch.randint(0, 20, (N, CONTEXT), generator=torch.Generator().manual_seed(4))
    hashes = torch.arange(N) + 100
    hashes[7] = 9
    return Negatives(texts, hashes, torch.arange(N) % 5 * (torch.arange(N) // 4) > 0)


def part_of(batch: Batch, rows: slice) -> Batch:
    wrong = (
        None if batch.negatives is None else Negatives(*(each[rows] for each in batch.negatives))
    )
    parts = {
        name: getattr(batch, name)[rows]
        for name in ("images", "texts", "caption_hash", "image_hash", "keys")
    }
    parts["teacher"] = tuple(each[rows] for each in batch.teacher)
    concepts = {head: (ids[rows], p[rows]) for head, (ids, p) in batch.concepts.items()}
    return Batch(**parts, concepts=concepts, negatives=wrong)


def one_step(
    case: dict[str, Any], student: Any, module: Any, batch: Batch, ranks: Ranks, parts: int
) -> dict[str, Any]:
    losses = Losses(
        contrastive=loss_of({**case["loss"], "mask_duplicates": bool(case.get("duplicates"))}),
        concepts={"objects": 1.0, "attributes": 0.5} if case.get("concepts") else {},
        distillation=Distillation(weight=2.0, temperature=0.05) if case.get("teacher") else None,
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.1, weight_decay=0.2)
    found = backward(module, batch, losses, parts=parts, ranks=ranks)
    gradients = {name: p.grad.clone() for name, p in student.named_parameters()}
    optimizer.step()
    statistics = [
        found.statistics[name] for name in ("accuracy", "distillation") if name in found.statistics
    ]
    values = torch.stack([found.total, found.contrastive, *statistics, *found.concepts.values()])
    weights = {name: p.detach().clone() for name, p in student.named_parameters()}
    return {"values": ranks.sum(values) / ranks.world, "gradients": gradients, "weights": weights}


def ranks_equal_one_process(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined_ranks("cpu", 60) as ranks:
        for name, case in CASES.items():
            batch = whole_batch(case)
            expected = one_step(case, alone := toy(case), alone, batch, Ranks(), 1)
            student = toy(case)
            module = nn.parallel.DistributedDataParallel(student, broadcast_buffers=False)
            b = N // ranks.world
            mine = part_of(batch, slice(b * ranks.rank, b * ranks.rank + b))
            found = one_step(case, student, module, mine, ranks, case.get("parts", 1))
            torch.testing.assert_close(
                found["values"], expected["values"], rtol=1e-5, atol=1e-6, msg=name
            )
            # Adam's first step is a sign where gradients are nought.
            for kind, atol in (("gradients", 1e-6), ("weights", 2e-4)):
                for key, value in expected[kind].items():
                    about = f"{name} {kind} {key}: "
                    torch.testing.assert_close(
                        found[kind][key], value, rtol=1e-4, atol=atol, msg=about.__add__
                    )


def helpers_work(folder: Path) -> None:
    with joined_ranks("cpu", 60) as ranks:
        rank = ranks.rank
        world = ranks.world
        gathered = ranks.gather(torch.full((2, 1), float(rank))).flatten().tolist()
        assert gathered == [each for each in range(world) for _ in "ab"]
        assert float(ranks.sum(torch.tensor(1.0))) == world
        assert ranks.share({"rank": rank}) == {"rank": 0}
        assert ranks.collect(rank) == list(range(world))
        assert ranks.total(1, rank) == [world, sum(range(world))]
        assert ranks.any(rank == world - 1) and not ranks.any(False)
        same_on_all(ranks, "the answer", 42)
        with pytest.raises(RuntimeError, match=r"the rank differs between ranks: \[0, 1"):
            same_on_all(ranks, "the rank", rank)


def steppers(config: Any, ranks: Ranks) -> tuple[Stepper, Stepper]:
    """Real students: over ranks with what saves memory, and alone without it."""
    config, made = replace(config, run=replace(config.run, ema=0.5)), []
    for spread in (True, False):
        torch.manual_seed(3)
        model = replace(config.model, gradient_checkpointing=spread)
        heads = {"objects": VOCABULARY, "attributes": VOCABULARY}
        student, _, _ = build_student(
            model, config.concepts, heads, config.transform, config.run.precision
        )
        student.train()
        if not spread:
            config = replace(config, schedule=replace(config.schedule, micro_batches=1))
        stepper = Stepper(student, config, ranks if spread else Ranks(), torch.device("cpu"))
        stepper.settle(N // ranks.world, (3, 16, 16), torch.ones(1, 8, dtype=torch.int64))
        assert all(p.grad is None for p in stepper.parameters)
        made.append(stepper)
    return made[0], made[1]


def images_and_tokens() -> Batch:
    batch = whole_batch({"concepts": True, "duplicates": True})
    generator = torch.Generator().manual_seed(2)
    texts = torch.randint(1, 39, (N, 8), generator=generator)
    texts[:, -1] = 39
    return replace(batch, images=torch.randn(N, 3, 16, 16, generator=generator), texts=texts)


def settings(**run: Any) -> Any:
    architecture = merged(
        ONE_LAYER, {"vision_cfg": {"image_size": 16, "layers": 2}, "text_cfg": {"layers": 2}}
    )
    values = {
        "model": {"architecture": architecture},
        "data": {"sources": [{"path": "nowhere"}]},
        "concepts": {"path": "somewhere"},
        "schedule": {"samples": 100, "batch_size": N, "micro_batches": 2, "warmup_samples": 0},
        "optimizer": {"learning_rate": 1e-3, "max_gradient_norm": 0.5},
        "run": {"device": "cpu", **run},
    }
    return build(Config, values)


def first_step(stepper: Stepper, batch: Batch) -> StepResult:
    """The first one that is taken: fp16's scale of gradients begins too high."""
    while not (result := stepper.step(batch, 0, 0, 1.0)).finite:
        pass
    return result


def real_students_equal_one_process(folder: Path) -> None:
    """Runs on every rank: DDP around open_clip's encoders with checkpointed activations, in parts,
    clipped."""
    with joined_ranks("cpu", 60) as ranks:
        b = N // ranks.world
        mine = slice(b * ranks.rank, b * ranks.rank + b)
        batch = images_and_tokens()
        for precision, tolerance in (("fp32", 1e-4), ("bf16", 5e-2), ("fp16", 1e-2)):
            spread, alone = steppers(settings(precision=precision, max_nonfinite=9), ranks)
            found = first_step(spread, part_of(batch, mine))
            expected = first_step(alone, batch)
            assert found.values == pytest.approx(expected.values, rel=tolerance, abs=1e-6)
            assert found.gradient_norm == pytest.approx(expected.gradient_norm, rel=tolerance)
            of_ranks, expected_ones = (
                torch.cat([p.grad.flatten() for p in each.parameters if p.grad is not None])
                for each in (spread, alone)
            )
            assert relative(of_ranks, expected_ones) < tolerance, precision

        # Numbers of one rank that are not finite are skipped by all: else their weights would part.
        before = [p.detach().clone() for p in spread.student.parameters()]
        bad = replace(part_of(batch, mine), images=batch.images[mine].clone())
        if ranks.rank == ranks.world - 1:
            bad.images[0, 0, 0, 0] = torch.nan
        skipped = spread.step(bad, 0, 1, 1.0)
        assert not skipped.finite and spread.skipped.in_a_row == 1
        assert all(
            torch.equal(p, old) for p, old in zip(spread.student.parameters(), before, strict=True)
        )
        assert spread.step(part_of(batch, mine), 0, 2, 1.0).finite
        same_on_all(
            ranks,
            "the weights",
            [float(p.detach().double().sum()) for p in spread.student.parameters()],
        )
        same_on_all(ranks, "the scale of gradients", spread.scaler.get_scale())


def a_resume_sums_as_before(folder: Path) -> None:
    """Runs on every rank: from three ranks on, the order in which DDP sums them depends on its
    buckets."""
    with joined_ranks("cpu", 60) as ranks:
        b = N // ranks.world
        mine = part_of(images_and_tokens(), slice(b * ranks.rank, b * ranks.rank + b))

        calm, resumed = (steppers(settings(precision="fp32"), ranks)[0] for _ in range(2))
        calm.step(mine, 0, 0, 1.0)
        resumed.student.load_state_dict(calm.student.state_dict())
        resumed.optimizer.load_state_dict(copy.deepcopy(calm.optimizer.state_dict()))
        for number in (1, 2):
            for each in (calm, resumed):
                each.step(mine, 0, number, 1.0)
        for one, other in zip(calm.student.parameters(), resumed.student.parameters(), strict=True):
            assert torch.equal(one, other)


def every_one(folder: Path) -> None:
    with joined_ranks("cpu", 60):  # joined once, used by all
        helpers_work(folder)
        ranks_equal_one_process(folder)
        real_students_equal_one_process(folder)
        a_resume_sums_as_before(folder)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_equal_one_process(world: int, on_ranks: Callable[..., None], tmp_path: Path) -> None:
    on_ranks(__file__, "every_one", world, tmp_path)


def one_rank_is_asked_to_stop(folder: Path) -> None:
    """Runs on every rank: the last one gets SIGTERM at step 3; all stop after the same step, and go
    on together."""
    with joined_ranks("cpu", 60) as ranks:
        (folder / f"pid-{ranks.rank}").write_text(str(os.getpid()))
        ranks.barrier()

        def say(text: str) -> None:
            if text.startswith("step 3/"):
                os.kill(int((folder / f"pid-{ranks.world - 1}").read_text()), signal.SIGTERM)

        config = load_config(str(folder / "config.yaml"))
        outcome = train(config, folder / "w", say)
        assert not outcome.finished and 3 <= outcome.step < 10
        same_on_all(ranks, "the step", outcome.step)
        assert ranks.collect(outcome.signal) == [None] * (ranks.world - 1) + [signal.SIGTERM]
        again = train(config, folder / "w", lambda text: None)
        assert again.finished and again.step == 10


@pytest.mark.slow
def test_all_ranks_stop_where_one_is_asked_to(on_ranks, tiny_values, tmp_path):
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(tiny_values(checkpoint={"every_samples": 10_000}))
    )
    on_ranks(__file__, "one_rank_is_asked_to_stop", 2, tmp_path)
    assert [line["step"] for line in entries(tmp_path / "w", "step")] == list(range(1, 11))


def a_check_fails(folder: Path) -> None:
    """Runs on every rank: the last check fails, and the ranks that resume make it, as in an
    undisturbed run."""
    with joined_ranks("cpu", 60) as ranks:
        config = load_config(str(folder / "config.yaml"))
        calm = train(config, folder / "calm", lambda text: None)

        def failing(*arguments: Any) -> Any:
            raise DataError("images/0.jpg cannot be read as an image")

        with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError):
            patch.setattr(checks, "measure", failing)
            train(config, folder / "w", lambda text: None)
        ranks.barrier()
        again = train(config, folder / "w", lambda text: None)
        assert again.finished and again.checks == calm.checks != {}


@pytest.mark.slow
def test_ranks_save_before_a_check_that_fails_and_make_it_when_they_resume(
    on_ranks, tiny_values, tmp_path
):
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(tiny_values(data={"split": {"holdout": 0.25}}))
    )
    on_ranks(__file__, "a_check_fails", 2, tmp_path)
    assert [line["step"] for line in entries(tmp_path / "w", "step")] == list(range(1, 11))
    models = [
        (tmp_path / run / "export" / "open_clip_model.safetensors").read_bytes()
        for run in ("calm", "w")
    ]
    assert models[0] == models[1]
    metrics = [
        Checkpoints(LocalStore(tmp_path / run / "checkpoints")).load(10).metric
        for run in ("calm", "w")
    ]
    assert metrics[0] == metrics[1] is not None


def test_a_group_of_gpus_gets_one_for_the_cpu_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the caller has joined the ranks: flags and small objects never wait for a GPU."""
    made: list[dict[str, Any]] = []

    def new_group(**options: Any) -> str:
        made.append(options)
        return "group"

    answers = {"is_initialized": True, "get_rank": 1, "get_world_size": 2, "get_backend": "nccl"}
    for name, answer in answers.items():
        monkeypatch.setattr(dist, name, lambda answer=answer: answer)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with joined_ranks("cuda", 7) as ranks:
        assert (ranks.rank, ranks.world, ranks.local_rank, ranks.control) == (1, 2, 0, "group")
    assert made[0]["backend"] == "gloo" and made[0]["timeout"].total_seconds() == 7


def test_a_rank_of_gpus_binds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **options: asked.append((backend, options))
    )
    begin_group("cuda", 1, 7)
    assert asked[0] == 1 and asked[1][0] == "nccl"
    assert (
        asked[1][1]["device_id"] == torch.device("cuda:1")
        and asked[1][1]["timeout"].total_seconds() == 7
    )
    with pytest.raises(
        WrongUse, match="LOCAL_RANK is 2, but this process sees 2 GPUs: start at most one"
    ):
        begin_group("cuda", 2, 7)


def test_a_world_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(WrongUse, match=r"RANK.* is not set: start processes with torchrun"),
        joined_ranks("cpu", 1),
    ):
        pass


@pytest.mark.parametrize("parts", [1, 2, 4, 5, 16])
@pytest.mark.parametrize(
    "name", ["concepts", "distillation", "duplicates", "tiles", "siglip", "negatives in parts"]
)
def test_parts_equal_one_batch(name: str, parts: int) -> None:
    case = CASES[name]
    batch = whole_batch(case)
    expected = one_step(case, alone := toy(case), alone, batch, Ranks(), 1)
    found = one_step(case, student := toy(case), student, batch, Ranks(), parts)
    torch.testing.assert_close(found["values"], expected["values"])
    for key, value in expected["gradients"].items():
        # Sums in another order.
        torch.testing.assert_close(found["gradients"][key], value, rtol=1e-4, atol=1e-5)


def test_parts_draw_the_same_random_numbers_twice() -> None:
    """With dropout the gradient in parts is that of one batch whose rows were dropped out alike."""

    class Dropped(Toy):
        def forward(self, images: Any, texts: Any, negatives: Any = None) -> Encoded:
            return super().forward(nn.functional.dropout(images, 0.5), texts, negatives)

    case = CASES["hn_nce"]
    batch = whole_batch(case)
    torch.manual_seed(0)
    student: Any = Dropped()
    student.heads = nn.ModuleDict()
    losses = Losses(contrastive=HnNce(beta=0.5, mask_duplicates=False))

    backward(student, batch, losses, parts=4, seeds=range(100, 104))
    found = {name: p.grad.clone() for name, p in student.named_parameters()}
    masked = []
    for part in range(4):
        torch.manual_seed(100 + part)
        masked.append(nn.functional.dropout(batch.images[4 * part : 4 * part + 4], 0.5))
    plain = toy(case)
    plain.load_state_dict(student.state_dict())
    backward(plain, replace(batch, images=torch.cat(masked)), losses)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("terms", "parts", "says"),
    [
        ({}, 17, "16 pairs on this rank cannot be computed in 17 parts"),
        ({"concepts": {"colours": 1.0}}, 1, "no targets for colours"),
        (
            {"distillation": Distillation(weight=1.0, temperature=0.1)},
            1,
            "no targets for distillation",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(terms: dict[str, Any], parts: int, says: str) -> None:
    case = CASES["hn_nce"]
    with pytest.raises(ValueError, match=says):
        backward(toy(case), whole_batch(case), Losses(contrastive=HnNce(), **terms), parts=parts)
