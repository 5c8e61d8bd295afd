"""From a LAION manifest to a CLIP model: filter, train, load the export with open_clip, classify an
image zero-shot.

Images that the manifest names by url are downloaded; the default is the sample, whose images are
there, and a model that takes minutes on a CPU and is not useful. For a real one, pass `--config
vit-b-32` and run it on GPUs. It prints the counts of the filters, the progress of the training, and
the probability of each class. The same command resumes.

    .venv/bin/python examples/recipes/laion_to_clip.py --work out/laion-to-clip
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import open_clip
import torch
from PIL import Image


def open_diht(*words: str) -> None:
    """Run a command of open-diht, and end with its status if it fails."""
    if status := subprocess.run([sys.executable, "-m", "open_diht", *words]).returncode:
        sys.exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--input", default="data/sample/manifest.tsv", help="manifests or tars, as of make filter"
    )
    parser.add_argument(
        "--work", default="out/laion-to-clip", help="folder for everything that is written"
    )
    parser.add_argument("--config", default="tiny", help="tiny, vit-b-32, ..., or a YAML file")
    parser.add_argument("--image", default="data/sample/images/0019.jpg", help="what is classified")
    parser.add_argument(
        "--classes", nargs="+", default=["cow", "moose", "bridge"], help="names of the classes"
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings of the training")
    options = parser.parse_args()
    cat = f"{options.work}/cat"
    run = f"{options.work}/train"

    open_diht("filter", "--input", options.input, "--output", cat, "--preset", "paper")
    open_diht("train", "--data", cat, "--config", options.config, "--workdir", run, *options.words)

    name = f"local-dir:{run}/export"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    texts = open_clip.get_tokenizer(name)([f"a photo of a {label}" for label in options.classes])
    with torch.no_grad():
        image = model.eval().encode_image(
            preprocess(Image.open(options.image)).unsqueeze(0), normalize=True
        )
        logits = model.logit_scale.exp() * image @ model.encode_text(texts, normalize=True).T
    for label, probability in zip(options.classes, logits.softmax(dim=1)[0].tolist(), strict=True):
        print(f"{label}: {probability:.3f}")


if __name__ == "__main__":
    main()
