"""Command line of `open-diht train`.

Exit status: 0 trained to the end; 1 the run failed; 2 wrong use; 130 or 143 stopped by SIGINT or
SIGTERM after saving; 129 stopped without saving when its terminal was closed; 141 if the reader of
the output has closed it. A signal while the program loads, or a Ctrl-C after the first signal, also
gives 130 or 143, but then nothing is saved.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from open_diht.common.command_line import OK, Parser, command, say, write_numbers
from open_diht.common.lease import LeaseLost
from open_diht.common.run_command import ended_at_once
from open_diht.common.spelling import spelled
from open_diht.trainer.config_names import BadConfig, config_names
from open_diht.trainer.errors import TrainingError


def parse(
    arguments: Sequence[str] | None = None,
    prog: str = "python -m open_diht.trainer",
    **defaults: str,
) -> argparse.Namespace:
    """Parse the command line, by default that of this process; `defaults` are defaults of options,
    by name."""
    parser = Parser(
        prog=prog,
        description=(
            f"Train a dual encoder on the shards of `{spelled('filter')}`. WORKDIR/train.html shows"
            " its curves while it trains; log.other_run=WORKDIR draws another run's into them."
        ),
        epilog=(
            "On several GPUs: torchrun --nproc-per-node 8 -m open_diht.trainer --data ..."
            " --workdir ..."
        ),
    )
    known = "the configuration's" + (f", else {defaults['data']}" if "data" in defaults else "")
    parser.add_argument(
        "--data",
        help=(
            f"output folders of `{spelled('filter')}`, or shards; comma-separated (default:"
            f" {known})"
        ),
    )
    parser.add_argument(
        "--config", default="tiny", help=f"one of {', '.join(config_names())}, or a YAML file"
    )
    parser.add_argument(
        "--workdir",
        required="workdir" not in defaults,
        help="folder or URL of the results; give the same one to resume",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="override settings, as in loss.beta=0.5"
    )
    parser.add_script_options("the step, the samples and the last check")
    parser.set_defaults(default_data=defaults.pop("data", None), **defaults)
    return parser.parse_args(arguments)


def _sources(data: str | None) -> dict[str, Any]:
    """Return the section of the configuration that names these data. It is empty for None."""
    return (
        {}
        if data is None
        else {"data": {"sources": [{"path": path} for path in data.split(",") if path]}}
    )


def _train(options: argparse.Namespace) -> int:
    with ended_at_once():  # torch takes seconds
        from open_diht.trainer.config_files import load_config
    config = load_config(
        options.config,
        options.overrides,
        _sources(options.data),
        defaults=_sources(options.default_data),
    )
    with ended_at_once():
        from open_diht.trainer.loop import train

    outcome = train(config, options.workdir, say)
    if os.environ.get("RANK", "0") == "0":  # one process of torchrun
        checks = {name: asdict(share) for name, share in outcome.checks.items()}
        write_numbers(options, {"step": outcome.step, "samples": outcome.samples, "checks": checks})
    return OK if outcome.finished else 128 + (outcome.signal or 15)  # as shells report signals


main = command(
    parse,
    _train,
    wrong_use=(BadConfig,),
    failed=(TrainingError, LeaseLost),
    stopped=(
        "stopped at once; run the same command to resume from the last checkpoint, if there is one"
    ),
)
