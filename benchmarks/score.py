"""The cost of the masked score: stage `score` with it and without it, on the sample's images.

    python -m benchmarks.score [--model open_clip:NAME:FILE] [--rows N] [--repeats K]

The text of the images is read once, outside the clock. Then both sides process the same units in turn,
in processor time of one thread: decoding, embedding images and captions, and writing. The cost
grows with the fraction of images that have text, so the last column divides by it. By default the
model is a ViT-B/32 of open_clip with random weights, which take as long as others.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.measuring import in_turn, parser_of, print_table, ratios
from open_diht.filters.presets import load_preset
from open_diht.filters.score import ScoreRule
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver.run import run
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.manifests.plan import load_plan
from open_diht.pipelines.runners import Direct
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.score.stage import ScoreStage
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import image_unit_name

SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "manifest.tsv"


def random_weights(folder: Path) -> str:
    """Write a ViT-B/32 with random weights to a folder. Return its name for `--score-model`."""
    import open_clip
    import torch

    path = folder / "random.pt"
    torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), path)
    return f"open_clip:ViT-B-32:{path}"


def main() -> None:
    """Print the ratio of the two sides."""
    parser = parser_of("benchmarks.score", __doc__)
    parser.add_argument("--model", help="a scorer as --score-model takes it")
    parser.add_argument("--rows", type=int, default=10_000, help="first rows of the sample (all)")
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = asked.model or random_weights(folder)
        lines = SAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "manifest.tsv").write_text("".join(lines[: asked.rows + 1]), encoding="utf-8")
        dataset = dataclasses.replace(load_dataset("sample"), images_root=str(SAMPLE.parent))
        preset = dataclasses.replace(load_preset("tmars"), score=ScoreRule())
        layout = Layout(folder / "out")
        settings = RunSettings(
            dataset=dataset,
            input=str(folder / "manifest.tsv"),
            output=layout.root,
            preset=preset,
            stages=("spotting",),
            workers=1,
            backend=Direct(),
        )
        run(settings, lambda line: None)
        plan = load_plan(layout.plan)
        (unit,) = plan.units
        stage = ScoreStage(
            layout=layout,
            dataset=dataset,
            preset=preset,
            before=("spotting",),
            masked=False,
            asked="",
            model=model,
            fingerprint="",
            device="cpu",
            precision="fp32",
            batch_size=4,  # the image units of so few rows are small, and their last batches are padded
            threads=0,
        )
        stage.setup()

        def score(masked: bool) -> None:
            side = dataclasses.replace(stage, masked=masked)
            side._encoder = stage._encoder
            for image_unit in plan.image_units(read_json(layout.commit("captions", unit.name))):
                side.process(image_unit_name(unit.name, image_unit), None, Heartbeat(folder / "beat"))

        sides = {"score": partial(score, False), "masked": partial(score, True)}
        seconds = in_turn(sides, asked.repeats, time.process_time, warm=True)
        areas = pq.read_table(layout.work / "score" / "data")["text_area"].to_pylist()
        scored = [area for area in areas if area is not None]
        share = sum(area > 0 for area in scored) / len(scored)
        low, middle, high = ratios(seconds["masked"], seconds["score"])
        head = ("rows", "with text", "cost, times that of score", "lowest", "highest", "more, for each 10 % with text")
        row = (len(scored), f"{share:.0%}", f"{middle:.2f}", f"{low:.2f}", f"{high:.2f}")
        print_table(head, [(*row, f"{(middle - 1) / share / 10:.3f}")])


if __name__ == "__main__":
    main()
