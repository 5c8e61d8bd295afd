"""Command line of `make train`: words to a configuration, errors to one line and an exit status.

Exit status: 0 trained to the end; 1 a failed run; 2 wrong use; 130 or 143 stopped by SIGINT or SIGTERM, saved.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from open_diht.common.command_line import Parser, exit_status
from open_diht.trainer.config_files import BadConfig, config_names, load_config


def _parser(prog: str, defaults: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog,
        description="Train a dual encoder on the shards of `make filter`.",
        epilog="On several GPUs: torchrun --nproc-per-node 8 -m open_diht.trainer --data ... --workdir ...",
    )
    parser.add_argument("--data", help="output folders of make filter, or shards; comma-separated")
    parser.add_argument("--config", default="tiny", help=f"one of {', '.join(config_names())}, or a YAML file")
    parser.add_argument(
        "--workdir",
        required="workdir" not in defaults,
        help="folder, or URL, for everything that is written; again the same: go on",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="on top of the configuration: loss.beta=0.5")
    parser.set_defaults(**defaults)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.trainer", **defaults: str) -> int:
    """Run the command line; returns the exit status. `prog` is what the command is called in its help, `defaults` are
    options that need not be given."""

    def run() -> int:
        options = _parser(prog, defaults).parse_args(arguments)
        config = load_config(options.config, options.overrides, _base(options.data))
        from open_diht.trainer.command import run_training  # takes seconds: a slip of the keyboard is answered before

        return run_training(config, options.workdir)

    return exit_status(
        run,
        wrong_use=(BadConfig,),
        stopped="stopped at once; the same command goes on from the last checkpoint",
    )


def _base(data: str | None) -> dict[str, Any]:
    if data is None:
        return {}
    return {"data": {"sources": [{"path": path} for path in data.split(",") if path]}}
