"""What the trainer's tests share: the textbook losses, shards of drawn images, small models,
several ranks."""

import hashlib
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[train]'")
from PIL import Image, ImageDraw  # noqa: E402

from open_diht.eval.fetch.archives import write_tar  # noqa: E402
from tests.common.hostile_images import encode  # noqa: E402
from tests.forks import Forks  # noqa: E402

torch.set_num_threads(1)  # before the first fixture
COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "cyan")
SHAPES = ("circle", "square", "triangle", "cross")


def entries(workdir: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of a kind in the log of a run."""
    lines = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def interrupted(config: Any, workdir: Path, at: int) -> tuple[Any, list[str]]:
    """A run that gets SIGTERM when it reports step `at`."""
    from open_diht.trainer.loop import train

    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith(f"step {at}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    return train(config, workdir, say), said


def losses(workdir: Path) -> list[float]:
    """The loss of each step in the log of a run; of a step that was taken again the last line
    counts."""
    return list({line["step"]: line["loss"] for line in entries(workdir, "step")}.values())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Bits depend on the number of threads, and other tests of the same process may have set
    another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def textbook() -> Callable[..., Any]:
    """HN-NCE as the paper writes it, exponentials and all; give it float64."""

    def losses(
        x: Any,
        y: Any,
        scale: Any,
        alpha: float,
        beta: float,
        detach: bool = False,
        same: Any = None,
    ) -> Any:
        s = scale * x @ y.T
        positive = s.diagonal()
        out = torch.eye(len(s), dtype=torch.bool) if same is None else same
        left = (~out).sum(dim=1)
        weights = torch.exp(beta * s).masked_fill(out, 0)
        weights = left[:, None] * weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-300)
        weights = weights.detach() if detach else weights
        negatives = (weights * s.exp()).masked_fill(out, 0).sum(dim=1)
        return torch.log(alpha * positive.exp() + negatives) - positive

    return losses


def drawn(number: int, side: int = 40) -> tuple[bytes, bytes]:
    """Image and caption `number`: shape, colour, background, place; all different below 512."""
    shape = SHAPES[number % 4]
    number_left = number // 4
    colour = COLOURS[number_left % 8]
    background = COLOURS[(number_left // 8 + number_left % 8 + 1) % 8]
    left = (number_left // 64) % 2 == 0
    image = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(image)
    x = 2 if left else side // 2
    box = (x, side // 4, x + side // 2 - 4, 3 * side // 4)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "triangle":
        pen.polygon(
            [(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=colour
        )
    else:
        pen.line([(box[0], box[1]), (box[2], box[3])], fill=colour, width=4)
        pen.line([(box[0], box[3]), (box[2], box[1])], fill=colour, width=4)
    return (
        encode(image, "PNG"),
        f"a {colour} {shape} on {background} on the {'left' if left else 'right'}".encode(),
    )


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 96 drawn pairs in three tars."""
    folder = tmp_path_factory.mktemp("drawn")
    for shard in range(3):
        numbers = range(32 * shard, 32 * shard + 32)
        samples = (
            (f"{n:032x}-{n:06d}", dict(zip(("png", "txt"), drawn(n), strict=True))) for n in numbers
        )
        write_tar(folder / f"{shard:05d}.tar", samples)
    return folder


@pytest.fixture(scope="session")
def targets(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Concept targets of `shards`, as `make concepts` stores them: shapes and colours; every
    fortieth pair has none."""
    from open_diht.trainer.concepts.targets import ShardTargets, packed

    folder = tmp_path_factory.mktemp("targets")
    entries = []
    for shard, tar in enumerate(sorted(shards.glob("*.tar"))):
        numbers = range(32 * shard, 32 * shard + 32)
        ids = {
            "objects": np.array([[n % 4, (n + 1) % 4] for n in numbers], np.uint32),
            "attributes": np.array([[n // 4 % 8, (n // 4 + 1) % 8] for n in numbers], np.uint32),
        }
        p = np.array([[0.75, 0.25] if n % 40 else [0, 0] for n in numbers], np.float16)
        keys = tuple(f"{n:032x}-{n:06d}" for n in numbers)
        content = packed(ShardTargets(tar.name, keys, ids, dict.fromkeys(ids, p)), {})
        (folder / f"{tar.stem}.npz").write_bytes(content)
        digests = {"sha256": content, "tar_sha256": tar.read_bytes()}
        entry = {"shard": tar.name, "file": f"{tar.stem}.npz", "samples": 32}
        entries.append(
            entry | {name: hashlib.sha256(each).hexdigest() for name, each in digests.items()}
        )
    manifest = {"version": 1, "heads": {"objects": 4, "attributes": 8}, "k": 2, "shards": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_embeddings(
    folder: Path, of: dict[Path, tuple[list[str], Any, Any]], **about: Any
) -> Path:
    """Embeddings of the keys of tars, images (n, crops, d) and texts (n, captions, d), as a
    teacher's run stores them; `about` is more of the manifest."""
    from open_diht.common.shard_index import packed_keys

    (folder / "targets").mkdir(parents=True)
    entries = []
    for tar, (keys, image, text) in of.items():
        place = folder / "targets" / f"{tar.stem}.npz"
        np.savez(
            place,
            keys=packed_keys(keys),
            image=np.asarray(image, np.float16),
            text=np.asarray(text, np.float16),
        )
        digests = {"sha256": place, "tar_sha256": tar}
        entry = {
            name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in digests.items()
        }
        entries.append({"shard": tar.name, "file": place.name, **entry})
    known = {
        "version": 1,
        "teacher": "drawn",
        "dimension": np.shape(image)[2],
        "crops": np.shape(image)[1],
        "seed": 7,
    }
    known |= {
        "temperature": 0.1,
        "crop_scale": None,
        "captions": ["caption"],
        "shards": entries,
        **about,
    }
    (folder / "targets" / "manifest.json").write_text(json.dumps(known))
    return folder


TINY_ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
ONE_LAYER: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def tiny_values(shards: Path) -> Callable[..., dict[str, Any]]:
    """Plain values of a configuration that takes milliseconds per step, with `section={...}` on
    top."""
    from open_diht.trainer.config_files import merged

    def values(**sections: Any) -> dict[str, Any]:
        base = {
            "model": {"architecture": TINY_ARCHITECTURE},
            "data": {"sources": [{"path": str(shards)}], "shuffle": 50, "workers": 0},
            "concepts": {"path": ""},
            "schedule": {"samples": 160, "batch_size": 16, "warmup_samples": 32},
            "run": {"precision": "fp32", "device": "cpu", "threads": 1},
            "log": {"every_steps": 1, "tensorboard": False},
        }
        return merged(base, sections)

    return values


@pytest.fixture(scope="session")
def tiny_config(tiny_values: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    from open_diht.common.fields import build
    from open_diht.trainer.config import Config

    return lambda **sections: build(Config, tiny_values(**sections))


STATEFUL: dict[str, dict[str, Any]] = {
    "model": {"patch_dropout": 0.5},
    "data": {"split": {"holdout": 0.1}},
    "schedule": {"samples": 12 * 16, "micro_batches": 2},
    "run": {"ema": 0.9},
    "checkpoint": {"every_samples": 3 * 16},
    "check": {"every_samples": 7 * 16},
    # `targets` lack 2 samples, which may be drawn often.
    "distillation": {"max_missing_share": 0.1},
}
"""12 steps of 16 pairs with a checkpoint each 3; what has a state of its own is switched on."""


@pytest.fixture
def words(
    tiny_values: Callable[..., dict[str, Any]], shards: Path, tmp_path: Path
) -> Callable[..., list[str]]:
    """The words of the command for a run in `tmp_path / "w"`, whose file has these sections."""

    def make(**sections: Any) -> list[str]:
        values = tiny_values(**sections)
        del values["data"]["sources"]
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
        return [
            "--data",
            str(shards),
            "--config",
            str(tmp_path / "mine.yaml"),
            "--workdir",
            str(tmp_path / "w"),
        ]

    return make


@pytest.fixture(scope="session")
def on_ranks(forks: Forks) -> Callable[..., None]:
    """Calls `function(folder)` of a test file on several ranks with gloo; fails where one of them
    does."""

    def call(file: str, function: str, world: int, folder: Path) -> None:
        forks.call_on_ranks(world, file, function, folder, folder=folder)

    return call


def relative(found: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what is expected."""
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return float((found - expected).norm() / max(float(expected.norm()), 1e-30))


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Any, Any], float]:
    return relative


@pytest.fixture(scope="session")
def features() -> Callable[..., tuple[Any, Any]]:
    """n pairs of unit vectors in float64; `noise` 0 makes pairs equal, large noise unrelated."""

    def make(n: int, d: int = 8, noise: float = 0.7, seed: int = 0) -> tuple[Any, Any]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.nn.functional.normalize(
            torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1
        )
        y = (
            x
            + noise / math.sqrt(d) * torch.randn(n, d, generator=generator, dtype=torch.float64) * 2
        )
        return x, torch.nn.functional.normalize(y, dim=1)

    return make
