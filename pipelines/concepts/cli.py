"""Command line of the Beam half of `make concepts`: parse options, and turn errors into one line and an exit status.

Exit status: 0 success, or a job was staged as a template; 1 units or the run failed, a shard is corrupt, captions or
shards name no concepts, or more images than allowed are bad; 2 wrong use, or the runner cannot be used.
"""

from __future__ import annotations

import argparse

from open_diht.common.command_line import command, refuse_empty, say
from open_diht.pipelines.concepts.options import parse
from open_diht.pipelines.concepts.run import ConceptSettings, run
from open_diht.pipelines.concepts.teacher import find_teacher
from open_diht.pipelines.driver.cli import backend_of, exit_status, shard_of
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.store.storage import store_path

before_main = ForkServer.branch_off
"""Called by `run_command` after the imports: starts the process that workers are forked from."""


def _settings(options: argparse.Namespace) -> ConceptSettings:
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
        backend=backend_of(options, [("OUTPUT", str(output)), ("DATA", str(data))]),
        shard=shard_of(options.shard),
        max_bad_share=options.max_bad_share,
        command=options.command,
    )


main = command(parse, lambda options: run(_settings(options), say), exit_status)
