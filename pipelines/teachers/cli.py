"""Command line of the Beam half of `make concepts`: parse options, and turn errors into one line
and an exit status.

Exit status: 0 success, or a job was staged as a template; 1 units or the run failed, a shard is
corrupt, captions or shards name no concepts, or more images than allowed are bad; 2 wrong use, or
the runner cannot be used.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from open_diht.common.command_line import OK, WrongUse, command, given_fields, refuse_empty, say
from open_diht.common.data_root import REFERENCE
from open_diht.common.spelling import spelled_option
from open_diht.pipelines.driver.cli import backend_of, exit_status
from open_diht.pipelines.options import shard_of
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.stages.encoders import find_pair_encoder
from open_diht.pipelines.store.storage import store_path
from open_diht.pipelines.teachers.embeddings import (
    EmbeddingSettings,
    check_captions,
    store_embeddings,
)
from open_diht.pipelines.teachers.options import (
    CONCEPTS,
    CROP_SCALE,
    EMBEDDINGS,
    EmbeddingOptions,
    ShardOptions,
    VocabularyOptions,
    parse,
)
from open_diht.pipelines.teachers.run import ConceptSettings, run
from open_diht.pipelines.teachers.shards import CAPTION
from open_diht.pipelines.teachers.teacher import DEFAULT, find_teacher

before_main = ForkServer.branch_off
"""Called by `run_command` after the imports: starts the process that workers are forked from."""


def _run(options: argparse.Namespace) -> int:
    """Store what is requested, after all of it was checked. Return the first status that is not
    0."""
    refuse_empty(options, "data", "output", "teacher")
    captions, (low, high) = (
        tuple(name.strip() for name in options.captions.split(",")),
        options.crop_scale,
    )
    if "" in captions or len({*captions}) < len(captions):
        raise WrongUse(
            f"--captions is {options.captions!r}; give different names, with commas between them"
        )
    if low > high:
        raise WrongUse(f"--crop-scale is {low:g} {high:g}; give the smaller fraction first")
    if options.crops == 1 and (options.crop_seed or (low, high) != CROP_SCALE):
        raise WrongUse(
            "--crop-seed and --crop-scale are of drawn crops, and a single crop is the center; add"
            f" {spelled_option('crops', '2')}"
        )
    if EMBEDDINGS not in options.store and (
        options.crops > 1 or captions != (CAPTION,) or options.datacompdr or options.cosine
    ):
        what = "cosines are" if options.cosine else "crops and captions are"
        raise WrongUse(
            f"{what} of embeddings; add {spelled_option('store', 'concepts,embeddings')}"
        )
    if options.datacompdr and captions[0] != CAPTION:
        raise WrongUse(
            "--datacompdr needs the samples' own caption first; begin --captions with caption"
        )
    if options.cosine and CAPTION not in captions:
        raise WrongUse("--cosine needs the samples' own caption; add caption to --captions")
    data = store_path(options.data)
    output = store_path(options.output) if options.output else None
    shared: dict[str, Any] = {
        "data": data,
        "workers": options.workers,
        "backend": backend_of(options, [("OUTPUT", str(output or data)), ("DATA", str(data))]),
        "shard": shard_of(options.shard),
        "command": options.command,
        **given_fields(options, ShardOptions),
    }
    todo: list[Callable[[], int]] = []
    if CONCEPTS in options.store:
        # The image tower of the packaged encoder of pairs is the default teacher.
        name = DEFAULT if options.teacher in (None, REFERENCE) else options.teacher
        concepts = ConceptSettings(
            output=output or data / CONCEPTS,
            teacher=find_teacher(name, options.weights),
            **given_fields(options, VocabularyOptions),
            **shared,
        )
        todo.append(lambda: run(concepts, say))
    if EMBEDDINGS in options.store:
        encoder = ":".join(filter(None, (options.teacher or REFERENCE, options.weights)))
        find_pair_encoder(encoder, "teacher of embeddings")
        embeddings = EmbeddingSettings(
            output=(output or data) / EMBEDDINGS,
            encoder=encoder,
            seed=options.crop_seed,
            crop_scale=(low, high),
            captions=captions,
            **given_fields(options, EmbeddingOptions),
            **shared,
        )
        check_captions(embeddings)
        todo.append(lambda: store_embeddings(embeddings, say))
    return next((status for status in (do() for do in todo) if status), OK)


main = command(parse, _run, exit_status)
