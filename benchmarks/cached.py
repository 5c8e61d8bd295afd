"""Training on cached features and on small images: samples of a CPU-second, beside a bare loop over the same towers.

    python -m benchmarks.cached [--samples N] [--repeats 3]

Features are 1,280 numbers, images 48 of 56 pixels, both drawn at random; batches of 256 on one thread, with the towers
of the study (`study/claims/*.yaml`) and with a transformer over words. The bare loop has the same towers, the same loss
and torch's AdamW, on batches that are ready in memory: no order, no augmentation, no check of what is finite, no logs,
no checkpoint, no export. The trainer's number is of a whole run, from the configuration to the exported model. The
sides take turns; the median of `--repeats` is printed. Seconds of the processor hardly depend on what else the machine
does.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_diht.common.command_line import Parser
from open_diht.trainer.architecture import architecture, build, input_shape
from open_diht.trainer.config import Config
from open_diht.trainer.config_files import load_config, merged
from open_diht.trainer.loop import train

CLAIMS = Path(__file__).resolve().parents[1] / "study" / "claims"
WORDS, PAIRS, IMAGES = 6000, 16_384, 2_048
TRANSFORMER = {"model": {"architecture": {"text_cfg": {"tower": "word_transformer"}}}}


def settings(folder: Path, file: str, pairs: str, samples: int, changed: dict[str, Any]) -> Config:
    """The study's configuration of that name on drawn pairs."""
    given = {
        "model": {"architecture": {"text_cfg": {"vocabulary": str(folder / "words.txt")}}},
        "data": {"features": str(folder / pairs)},
        "concepts": {"path": ""},
        "schedule": {"samples": samples},
    }
    return load_config(str(CLAIMS / file), base=merged(given, changed))


def draw(folder: Path) -> None:
    """Features, images, captions of ten words, and their vocabulary."""
    random = np.random.default_rng(0)
    words = [f"word{number}" for number in range(WORDS)]
    (folder / "words.txt").write_text("\n".join(words) + "\n")
    captions = np.array([" ".join(random.choice(words, 10)) for _ in range(PAIRS)])
    np.savez(folder / "features.npz", features=random.normal(size=(PAIRS, 1280)).astype(np.float16), caption=captions)
    pixels = random.integers(0, 256, (IMAGES, 56, 56, 3), np.uint8)
    np.savez(folder / "images.npz", images=pixels, caption=captions, image=np.arange(PAIRS) % IMAGES)


def bare(config: Config) -> None:
    """The same steps without everything that a trainer does beside them."""
    torch.manual_seed(0)
    clip = build(architecture(config.model), config.model.temperature).train()
    optimizer = torch.optim.AdamW(clip.parameters(), lr=config.optimizer.learning_rate, fused=True)
    size = config.schedule.batch_size
    inputs, ids = torch.randn(size, *input_shape(clip, architecture(config.model))), torch.randint(2, WORDS, (size, 20))
    for _ in range((config.schedule.samples or 0) // size):
        optimizer.zero_grad()
        loss, _ = config.loss(clip.encode_image(inputs), clip.encode_text(ids), clip.logit_scale.exp())
        loss.backward()
        optimizer.step()


def speed(work: Callable[[], Any], samples: int) -> float:
    """Samples of a CPU-second."""
    began = time.process_time()
    work()
    return samples / (time.process_time() - began)


def _quiet(line: str) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each pair of towers."""
    parser = Parser(prog="python -m benchmarks.cached", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=51_200, help="of each run on features (51200)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side (3)")
    options: argparse.Namespace = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cases = [
        ("features, bag of words", "features.yaml", "features.npz", options.samples, {}),
        ("features, word transformer", "features.yaml", "features.npz", options.samples // 4, TRANSFORMER),
        ("images of 48 pixels, bag of words", "images.yaml", "images.npz", options.samples // 4, {}),
    ]
    print("| samples of a CPU-second | the trainer, a whole run | a bare loop | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        draw(folder := Path(temporary))
        for name, file, pairs, samples, changed in cases:
            config = settings(folder, file, pairs, samples, changed)
            found: tuple[list[float], list[float]] = ([], [])
            for number in range(options.repeats):
                found[0].append(speed(lambda: train(config, folder / f"{name}{number}", _quiet), samples))  # noqa: B023
                found[1].append(speed(lambda: bare(config), samples))  # noqa: B023
            ours, theirs = (statistics.median(each) for each in found)
            print(f"| {name} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
