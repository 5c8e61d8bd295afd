"""Trains, kills, resumes and compares, in child processes. Not a test."""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from open_diht.trainer.config_files import load_config
from open_diht.trainer.loop import train

LIMIT_S = 240.0
TWO_CHECKPOINTS = (
    7  # the first step that is logged after the second of checkpoints at every third step
)


def start(config: str, workdir: Path, world: int) -> list[int]:
    """Processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            status = 1
            try:
                if world > 1:
                    names = {
                        "RANK": rank,
                        "LOCAL_RANK": rank,
                        "WORLD_SIZE": world,
                        "MASTER_PORT": port,
                    }
                    os.environ.update(
                        {name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1"
                    )
                with open(workdir.with_suffix(f".{rank}.txt"), "a") as out:
                    os.dup2(out.fileno(), 1)
                    os.dup2(out.fileno(), 2)
                    train(load_config(config), workdir, lambda text: print(text, flush=True))
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    return children


def finish(children: list[int]) -> None:
    """All of them end well."""
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise SystemExit("a run failed; its output is in the folder")


def kill_at(children: list[int], workdir: Path, step: int) -> int:
    """SIGKILL to the ranks once a step is logged, as when memory runs out; the step reached. The
    loader's workers live on for the seconds until they miss them, and are not in the way of a
    restart."""
    began = time.monotonic()
    while (reached := max(losses(workdir), default=0)) < step:
        if time.monotonic() - began > LIMIT_S:
            raise SystemExit(f"step {step} was not reached")
        time.sleep(0.01)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return reached


def stop_at(children: list[int], workdir: Path, step: int, pause_s: float) -> tuple[int, int]:
    """SIGTERM to all processes, workers included, `pause_s` after a step is logged; the step
    reached and how many of them no checkpoint has."""
    began = time.monotonic()
    while max(losses(workdir), default=0) < step and time.monotonic() - began < LIMIT_S:
        time.sleep(0.01)
    time.sleep(pause_s)
    for _ in range(2):
        for child in children:
            os.killpg(child, signal.SIGTERM)
    finish(children)
    reached = max(losses(workdir))
    newest = max((workdir / "checkpoints").glob("step-*"))
    return reached, reached - int(newest.name.removeprefix("step-"))


def losses(workdir: Path) -> dict[int, float]:
    """Loss by step, from the log; a line that is being written is left out."""
    found: dict[int, float] = {}
    path = workdir / "log.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["kind"] == "step":
            known = found.setdefault(entry["step"], entry["loss"])
            assert known == entry["loss"], f"step {entry['step']} has another loss after a resume"
    return found


def tear(workdir: Path) -> None:
    """Cut the newest checkpoint, and leave the beginning of another one."""
    newest = max((workdir / "checkpoints").glob("step-*"))
    file = newest / "training.pt"
    os.truncate(file, file.stat().st_size // 2)
    (workdir / "checkpoints" / ".tmp-diht-step-000000000099-01234567").mkdir()


def same_bits(one: object, other: object) -> bool:
    """Nested values with tensors."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same_bits(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        if not isinstance(other, list | tuple) or len(one) != len(other):
            return False
        return all(same_bits(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def kill_and_compare(
    config: str, folder: Path, world: int, kills: int, seed: int, how: str
) -> None:
    """Into found.json: steps at which runs were killed, whether loss curves and final bits are
    equal. An undisturbed run and a run that is interrupted at random steps, each on `world` ranks.
    `how`: "tear", with SIGKILL, first when there are two checkpoints, of which the newest is
    damaged after it; or "stop", asked to at random moments: every process of every rank gets
    SIGTERM, twice, as from `scancel` and then torchrun; `lost` are the steps that no checkpoint
    then has."""
    torch.set_num_threads(1)
    calm = folder / "calm"
    killed = folder / "killed"
    finish(start(config, calm, world))
    expected = losses(calm)
    draw = random.Random(seed)
    at = []
    reached = 0
    lost = 0
    for number in range(kills):
        if reached == max(expected):  # it came to its end before the signal
            break
        children = start(config, killed, world)
        if how == "stop":
            step = draw.randint(reached + 1, max(reached + 1, max(expected) - 2))
            pause_s = draw.uniform(0, 0.2)
            reached, missing = stop_at(children, killed, step, pause_s)
            at.append(reached)
            lost += missing
            continue
        first = TWO_CHECKPOINTS if number == 0 else reached + 1
        last = max(expected) - (kills - number)  # leaves a step for each kill to come
        reached = kill_at(children, killed, draw.randint(first, max(first, last)))
        at.append(reached)
        if number == 0:
            tear(killed)
    finish(start(config, killed, world))
    newest = [max((run / "checkpoints").glob("step-*")) for run in (calm, killed)]
    states = [torch.load(path / "training.pt", weights_only=True) for path in newest]
    model = [(path / "model.safetensors").read_bytes() for path in newest]
    damaged = [path.name for path in (killed / "checkpoints").glob("damaged-*")]
    (folder / "found.json").write_text(json.dumps({
        "killed_at": at, "steps": len(expected), "losses": losses(killed) == expected,
        "model": model[0] == model[1], "training": same_bits(*states), "damaged": damaged,
        "lost": lost,
    }))  # fmt: skip
