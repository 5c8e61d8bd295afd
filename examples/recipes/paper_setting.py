"""The paper's own setting, as closely as it is known: CAT, concept distillation and HN-NCE.

It filters with the preset `paper`, makes concept targets, and trains. First it prints the
constants, of which those marked (unverified) are believed to follow the paper, but not confirmed.
The defaults take minutes on a CPU. For its sizes use LAION-2B, `--config vit-b-16` and `--teacher
swag-vit-h14 --weights FILE`, on GPUs. The same command resumes.

    .venv/bin/python examples/recipes/paper_setting.py --work out/paper-setting
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from open_diht.common.fields import field_docstrings
from open_diht.filters import presets
from open_diht.trainer.config_files import load_config

CONSTANTS = (
    *("loss.name=hn_nce", "loss.alpha=1.0", "loss.beta=0.25"),  # those on LAION
    *("concepts.objects=1.0", "concepts.attributes=1.0"),
    *("concepts.learning_rate_factor=10.0", "concepts.weight_decay_factor=0.01"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--input", default="data/sample/manifest.tsv", help="manifest; a quoted glob"
    )
    parser.add_argument(
        "--work", default="out/paper-setting", help="folder for everything that is written"
    )
    parser.add_argument(
        "--config", default="tiny", help="vit-b-32, vit-b-16, vit-l-14; tiny is not the paper's"
    )
    parser.add_argument(
        "--teacher", default="efficientnet-lite0", help="swag-vit-h14 is closest to the paper's"
    )
    parser.add_argument("--weights", help="file of the teacher's weights")
    parser.add_argument(
        "--holdout", default="0.1", help="fraction of the rows that the heads do not train on"
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings of the training")
    options = parser.parse_args()

    print(Path(presets.__file__).with_name("paper.yaml").read_text(encoding="utf-8"))
    config = load_config(
        options.config, [*CONSTANTS, *options.words], {"data": {"sources": [{"path": "cat"}]}}
    )
    for name, section in (("loss", config.loss), ("concepts", config.concepts)):
        marks = field_docstrings(type(section))
        for key, value in asdict(section).items():
            unverified = "  (unverified)" if "(unverified" in marks.get(key, "") else ""
            print(f"{name}.{key}={value}{unverified}", flush=True)

    cat = f"{options.work}/cat"
    weights = ["--weights", options.weights] if options.weights else []
    train = [
        "--config",
        options.config,
        "--workdir",
        f"{options.work}/paper",
        *CONSTANTS,
        *options.words,
    ]
    for words in (
        ["filter", "--input", options.input, "--output", cat, "--preset", "paper"],
        [
            "concepts",
            "--data",
            cat,
            "--teacher",
            options.teacher,
            *weights,
            "--head-holdout",
            options.holdout,
        ],
        ["train", "--data", cat, *train],
    ):
        if status := subprocess.run([sys.executable, "-m", "open_diht", *words]).returncode:
            sys.exit(status)


if __name__ == "__main__":
    main()
