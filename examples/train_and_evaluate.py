"""Train a small model on a filtered data set and evaluate it, from Python.

Run `make filter` first: the default data are its shards of the sample. A few steps on a few pairs
show that everything works; the model is not useful. Arguments `key=value` override the
configuration.

    .venv/bin/python examples/train_and_evaluate.py --samples 510 loss.beta=0.5
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from open_diht.eval.cli import main as evaluate
from open_diht.trainer.config_files import load_config
from open_diht.trainer.loop import train


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--data", default="out/sample", help="the output of make filter, with shards"
    )
    parser.add_argument(
        "--workdir", default="out/example-train", help="folder of the training and the results"
    )
    parser.add_argument(
        "--samples", type=int, default=510, help="pairs that the training sees, in whole batches"
    )
    parser.add_argument(
        "--tasks", default="sample_t2i,sample_i2t", help="suites or tasks of the evaluation"
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="settings of the training")
    options = parser.parse_args()
    workdir = Path(options.workdir)

    clock = ["schedule.epochs=null", f"schedule.samples={options.samples}"]
    base = {"data": {"sources": [{"path": options.data}]}}
    outcome = train(load_config("tiny", [*clock, *options.words], base), workdir / "train", print)
    for name, share in outcome.checks.items():
        print(
            f"{name}: {share.value:.3f} ({share.low:.3f} to {share.high:.3f}) of {share.n} held-out"
            " pairs"
        )

    results = workdir / "bench"
    status = evaluate(
        ["--model", str(outcome.export), "--tasks", options.tasks, "--output", str(results)]
    )
    if status:
        raise SystemExit(status)
    for row in json.loads((results / "results.json").read_text()):
        print(
            f"{row['task']} {row['metric']}: {row['value']:.3f} ({row['low']:.3f} to"
            f" {row['high']:.3f})"
        )


if __name__ == "__main__":
    main()
