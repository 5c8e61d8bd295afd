"""The baseline of effective robustness, as eval/robustness.yaml holds it.

`python -m benchmarks.robustness_baseline FOLDER`, where FOLDER is `results/` of a checkout of
github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FILES = {
    "imagenetv2": "results-imagenetv2-matched-frequency.csv",
    "imagenet_a": "results-imagenet-a.csv",
    "imagenet_r": "results-imagenet-r.csv",
    "imagenet_sketch": "results-sketch.csv",
}
MORE_DATA = re.compile(
    r"in2[12]k|in12k|jft|ig1b|yfcc|laion|openai|webli|swag|seer|ssld|clip|lvd|dfn|m38m|m30m|_ens_|adv"
)
"""In the names of models that saw other images, or adversarial ones."""


def imagenet_alone(model: str) -> bool:
    """Whether a model's name says that it was trained on ImageNet-1k and nothing else."""
    tag = model.partition(".")[2]
    return "in1k" in tag and not MORE_DATA.search(model)


def top1(path: Path) -> dict[str, float]:
    """Model to accuracy between 0 and 1."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["model"]: float(row["top1"]) / 100 for row in csv.DictReader(file)}


def logit(share: np.ndarray) -> np.ndarray:
    return np.log(share / (1 - share))


def fitted(imagenet: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Slope, intercept, and how far the models are from the curve."""
    models = [model for model in imagenet if imagenet_alone(model) and 0 < other.get(model, 0) < 1]
    x, accuracy = (np.array([values[model] for model in models]) for values in (imagenet, other))
    slope, intercept = np.polyfit(logit(x), logit(accuracy), 1)
    expected = 1 / (1 + np.exp(-(slope * logit(x) + intercept)))
    spread = 100 * float(np.std(accuracy - expected, ddof=2))
    return {
        "slope": round(float(slope), 3),
        "intercept": round(float(intercept), 3),
        "spread": round(spread, 1),
        "models": len(models),
    }


def main() -> None:
    """Print the sets."""
    folder = Path(sys.argv[1])
    imagenet = top1(folder / "results-imagenet.csv")
    alone = [value for model, value in imagenet.items() if imagenet_alone(model)]
    print(f"ImageNet accuracies from {min(alone):.3f} to {max(alone):.3f}")
    for name, file in FILES.items():
        found = fitted(imagenet, top1(folder / file))
        print(f"  {name}: {{{', '.join(f'{key}: {value}' for key, value in found.items())}}}")


if __name__ == "__main__":
    main()
