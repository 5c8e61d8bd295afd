"""Measure what stored embeddings of a teacher cost: a step and the loader with and without them,
and asking for them.

    python -m benchmarks.teachers [--model ViT-B-32] [--batch 16] [--samples 512] [--repeats 7]

The sides of a comparison take turns, and a ratio is the median of the ratios of one round, by
processor time on one thread. A step is the trainer's on random pairs, with InfoNCE alone, and with
HN-NCE and both concept heads. The loader reads photographs that `make filter` has exported, and
embeddings that `make concepts` has stored: of the center, and of four drawn crops. Asking is what
storing does with a pair: the decoding and encoding of its image and its caption, by a teacher with
the model's architecture and random weights, against a step.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import open_clip
import torch

from benchmarks.figures.parts.loader import count, processor_s, write_shards
from benchmarks.figures.parts.step import ours, pairs
from benchmarks.measuring import apart, in_turn, parser_of, print_table, processor, ratios
from open_diht.pipelines.stages.encoders import Encoder, find_pair_encoder
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import DataSettings, ShardLoader, Source
from open_diht.trainer.embeddings import open_embeddings
from open_diht.trainer.losses import Distillation
from open_diht.trainer.transforms import transform
from study.images import samples

Step = Callable[[], object]
INFONCE: dict[str, Any] = {"loss": {"name": "infonce"}}


def drained(batches: Iterator[Any], images: Callable[[Any], torch.Tensor]) -> tuple[float, float]:
    """Return samples per second and per processor-second of a whole epoch, from the request of the
    first batch on."""
    began = perf_counter()
    processor = processor_s()
    samples = count(batches, images)
    return samples / (perf_counter() - began), samples / (processor_s() - processor)


def steps(model: str, batch: int) -> dict[str, tuple[Step, Step]]:
    """Return a step without embeddings and one with, by what else is learned."""
    plain = pairs(model, batch, 10_000, "cpu")
    width = open_clip.get_model_config(model)["embed_dim"]
    taught = replace(
        plain, teacher=(torch.randn(batch, width).half(), torch.randn(batch, width).half())
    )
    distillation = Distillation(weight=1.0, temperature=0.01)
    return {
        what: (
            ours(model, plain, concepts, "cpu", "fp32", **settings),
            ours(model, taught, concepts, "cpu", "fp32", distillation=distillation, **settings),
        )
        for what, concepts, settings in (
            ("InfoNCE", 0, INFONCE),
            ("HN-NCE and both heads", 10_000, {}),
        )
    }


def asking(teacher: str, tar: Path, batch: int) -> Step:
    """Return the encoding of the first pairs of a tar by the teacher, as storing does it."""
    encoder = Encoder(find_pair_encoder(teacher), "cpu", "fp32", batch)
    pairs = [pair for _, pair in zip(range(batch), samples(tar), strict=False)]
    assert len(pairs) == batch

    def ask() -> None:
        pixels: list[Any] = [encoder.decode(members["jpg"]) for _, members in pairs]
        encoder.embed([encoder.tensor(each) for each in pixels])
        encoder.texts([members["txt"].decode() for _, members in pairs])

    return ask


def stored(data: Path, teacher: str, crops: int) -> Path:
    output = data.with_name(f"concepts-{crops}")
    apart(
        "-m",
        "open_diht",
        "concepts",
        "--data",
        data,
        "--output",
        output,
        "--store",
        "embeddings",
        "--teacher",
        teacher,
        "--precision",
        "fp32",
        "--crops",
        crops,
    )
    return output / "embeddings"


def loaders(
    data: Path, center: Path, drawn: Path, model: str, batch: int
) -> dict[str, ShardLoader]:
    """Return loaders without embeddings, with those of the center, and with those of drawn crops,
    which the images are cropped to."""
    side = open_clip.get_model_config(model)["vision_cfg"]["image_size"]
    tokenizer = open_clip.get_tokenizer(model)
    pixels = transform(TransformSettings(), side, training=True)

    def loader(**embeddings: Any) -> ShardLoader:
        settings = DataSettings(sources=(Source(path=str(data)),), workers=0)
        return ShardLoader(
            settings, batch_size=batch, transform=pixels, tokenizer=tokenizer, **embeddings
        )

    shown = (side, transform(TransformSettings(crop_scale=(1.0, 1.0)), side, training=False))
    return {
        "none": loader(),
        "embeddings of the center": loader(embeddings=open_embeddings(center)),
        "of four drawn crops": loader(embeddings=open_embeddings(drawn), view=shown),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("benchmarks.teachers", __doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(
        f"{processor()}; {options.model}, float32, torch {torch.__version__}, median of"
        f" {options.repeats}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        tars = Path(folder) / "tars"
        data = Path(folder) / "data"
        weights = Path(folder) / "teacher.pt"
        tars.mkdir()
        write_shards(tars, options.samples, 256, 4)
        apart(
            "-m",
            "open_diht",
            "filter",
            "--dataset",
            "custom",
            "--input",
            f"{tars}/*.tar",
            "--output",
            data,
            "--stages",
            "captions,export",
        )
        torch.save(open_clip.create_model(options.model).state_dict(), weights)
        teacher = f"open_clip:{options.model}:{weights}"
        center, drawn = (stored(data, teacher, crops) for crops in (1, 4))
        size = json.loads((center / "targets" / "manifest.json").read_text())["shards"][0]
        print(f"{size['bytes'] / size['samples']:,.0f} bytes a pair with one crop\n")
        learning = steps(options.model, options.batch)
        plain = learning["InfoNCE"][0]
        sides: dict[str, tuple[Step, Step, int]] = {
            **{
                f"step, {what}": (with_, without, options.batch)
                for what, (without, with_) in learning.items()
            },
            "asking the teacher, against a step": (
                asking(teacher, tars / "00000.tar", options.batch),
                plain,
                options.batch,
            ),
        }
        epochs = iter(range(10**6))
        reading = loaders(data, center, drawn, options.model, options.batch)

        def epoch(name: str) -> None:
            drained(reading[name].epoch(next(epochs)), lambda batch: batch.images)

        for name in ("embeddings of the center", "of four drawn crops"):
            sides[f"loader, {name}"] = (
                partial(epoch, name),
                partial(epoch, "none"),
                options.samples,
            )

        def rows() -> Iterator[list[str]]:
            for what, (with_, without, of) in sides.items():
                times = in_turn(
                    {"with": with_, "without": without}, options.repeats, process_time, warm=True
                )
                low, middle, high = ratios(times["with"], times["without"])
                per_pair = 1000 * statistics.median(times["without"]) / of
                yield [what, f"{per_pair:.1f}", f"{middle:.3f}", f"{low:.3f}", f"{high:.3f}"]

        print_table(["what", "without (ms a pair)", "ratio", "lowest", "highest"], rows())


if __name__ == "__main__":
    main()
