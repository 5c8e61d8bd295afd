"""Command line of the Beam half of `make concepts`: parse options, and turn errors into one line and an exit status.

Exit status: 0 success, or a job was staged as a template; 1 units or the run failed, a shard is corrupt, captions or
shards name no concepts, or more images than allowed are bad; 2 wrong use, or the runner cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from open_diht.common.command_line import Parser, number, refuse_empty, say
from open_diht.common.devices import add_device_options
from open_diht.common.fields import Positive
from open_diht.common.spelling import spelled
from open_diht.pipelines.concepts.run import ConceptSettings, run
from open_diht.pipelines.concepts.teacher import DEFAULT, find_teacher, teacher_names
from open_diht.pipelines.driver.cli import backend_of, exit_status, shard_of
from open_diht.pipelines.options import add_where, parse
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.store.storage import store_path


def _parser(prog: str, defaults: Mapping[str, str]) -> Parser:
    parser = Parser(
        prog=prog,
        description="Make vocabularies, labels and teacher features for concept distillation.",
    )
    parser.add_argument(
        "--data", required="data" not in defaults, help=f"output folder of `{spelled('filter')}`, or its URL"
    )
    parser.add_argument("--output", help="folder or URL of the results (default: DATA/concepts)")
    parser.add_argument(
        "--teacher",
        default=DEFAULT,
        help=f"{', '.join(teacher_names())}, or a model as in timm:resnet50, torchvision:vit_b_16, open_clip:ViT-B-32; "
        f"all but {DEFAULT} need --weights; a library's model may have :FILE after it instead",
    )
    parser.add_argument(
        "--weights",
        help="file of the teacher's weights, which you download yourself; mind their license: those of swag-vit-h14 "
        "are "
        "CC-BY-NC-4.0",
    )
    parser.add_argument(
        "--min-count",
        type=number(Positive),
        help="rows that a concept needs to enter the vocabulary (default: a 50th of the kept rows, from 2 to 100)",
    )
    parser.add_argument(
        "--max-size", type=number(Positive), default=10_000, help="largest vocabulary of a head (default 10,000)"
    )
    add_device_options(parser, "teacher", batch="--batch-size")
    add_where(parser)
    parser.add_argument(
        "--max-bad-share",
        type=float,
        default=0.05,
        help="fraction of bad images above which the exit status is 1 (0.05)",
    )
    parser.set_defaults(**defaults)
    return parser


before_main = ForkServer.branch_off
"""See `run_command`: workers are forked with the modules imported by then."""


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.pipelines.concepts", **defaults: str
) -> int:
    """Run the command line and return the exit status.

    Args:
        arguments: the command-line arguments; None: those of this process.
        prog: name of the command in its help.
        defaults: default values of options, which then need not be given.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)

    def concepts() -> int:
        parser = _parser(prog, defaults)
        options, of_beam = parse(parser, arguments)
        return run(_settings(options, of_beam, arguments), say)

    return exit_status(concepts)


def _settings(options: argparse.Namespace, of_beam: Sequence[str], arguments: Sequence[str]) -> ConceptSettings:
    refuse_empty(options, "data", "output")
    data = store_path(options.data)
    output = store_path(options.output) if options.output else data / "concepts"
    return ConceptSettings(
        data=data,
        output=output,
        teacher=find_teacher(options.teacher, options.weights),
        min_count=options.min_count,
        max_size=options.max_size,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        workers=options.workers,
        backend=backend_of(options, of_beam, [("OUTPUT", str(output)), ("DATA", str(data))]),
        shard=shard_of(options.shard),
        max_bad_share=options.max_bad_share,
        command=tuple(arguments),
    )
