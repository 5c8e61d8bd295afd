"""Check shards before a training: `python -m open_diht.trainer.data FOLDER [...]`.

It indexes them, decodes every image (except with --index-only), and prints counts of samples by
kind. A teacher's embeddings in FOLDER/embeddings are read too, and the samples without are counted.
Exit status: 0 at most --max-bad-share of each FOLDER's samples are bad; 1 more are, or shards
cannot be used; 2 wrong use.
"""

import argparse
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np

from open_diht.common.command_line import (
    OK,
    WrongUse,
    command,
    complain,
    say,
    write_numbers,
)
from open_diht.trainer.check_options import parse
from open_diht.trainer.data.errors import Kind
from open_diht.trainer.data.reader import UndecodableImage, columns_of, decode, without_targets
from open_diht.trainer.data.settings import DataSettings, Source
from open_diht.trainer.data.shards import OpenSource, Shard, load, open_source, store_of
from open_diht.trainer.errors import DataError
from open_diht.trainer.stores import store_at

_NAMED = 20  # problems that are listed


def bad_images(shard: Shard, settings: DataSettings) -> list[str]:
    """Return one line per image of a shard that cannot be decoded."""
    index = load(shard.index)
    found = []
    with (
        store_of(settings).open(shard.file) as descriptor,
        open(descriptor, "rb", closefd=False) as tar,
    ):
        for key, row in zip(index.keys, index.rows, strict=True):
            tar.seek(int(row["image_at"]))
            try:
                decode(tar.read(int(row["image_size"])), settings.max_pixels)
            except UndecodableImage as error:
                found.append(f"{index.name}: {Kind.UNDECODABLE_IMAGE}: {key}: {error}")
    return found


def about_embeddings(path: str, source: OpenSource, settings: DataSettings) -> list[str]:
    """Read the embeddings of a data set, if it has any. Return a line with the number of samples
    without. Raises `ConceptMismatch` if they cannot be used."""
    if not store_at(place := f"{path.rstrip('/')}/embeddings").exists("targets"):
        return []
    # Which imports the errors of this folder.
    from open_diht.trainer.embeddings import (
        open_embeddings,
    )

    embeddings = open_embeddings(place)
    _, columns = columns_of([embeddings], settings)
    indexes = (load(shard.index) for shard in source.shards)
    found = [
        without_targets(index, np.arange(len(index.keys)), embeddings, columns) for index in indexes
    ]
    first = next((f", first: {what}" for _, what in found if what), "")
    return [f"embeddings: {sum(count for count, _ in found):,} samples have none{first}"]


def _look(options: argparse.Namespace) -> int:
    if "" in options.paths:
        raise WrongUse(
            "a path is empty, perhaps from an unset variable; give it a value, or leave it out"
        )
    status = OK
    numbers = {}
    for path in options.paths:
        settings = DataSettings(
            sources=(Source(path=path),),
            workers=options.workers,
            max_bad_share=1.0,
            max_pixels=options.max_pixels or DataSettings.max_pixels,
        )
        try:
            source = open_source(settings.sources[0], settings)
            look = partial(bad_images, settings=settings)
            shards = () if options.index_only else source.shards
            if settings.workers < 2 or len(shards) < 2:
                found = [line for shard in shards for line in look(shard)]
            else:
                with ProcessPoolExecutor(settings.workers, get_context("spawn")) as pool:
                    found = [line for lines in pool.map(look, shards) for line in lines]
            about = about_embeddings(path, source, settings)
        except DataError as error:
            status = complain(error)
            continue
        counts = Counter(source.bad)
        problems = [*source.problems, *found]
        counts[Kind.UNDECODABLE_IMAGE] += len(found)
        good = sum(shard.samples for shard in source.shards) - len(found)
        bad = counts.total()
        kinds = "".join(f", {kind} {count:,}" for kind, count in sorted(counts.items()) if count)
        numbers[path] = {"shards": len(source.shards), "ok": good, **dict(sorted(counts.items()))}
        say(f"{path}: {len(source.shards):,} shards, ok {good:,}{kinds}")
        for line in (*about, *problems[:_NAMED]):
            say(f"  {line}")
        if len(problems) > _NAMED:
            say(f"  and {len(problems) - _NAMED:,} more")
        if bad > options.max_bad_share * (bad + good):
            status = complain(
                f"{path}: more than {options.max_bad_share:.1%} of the samples are bad"
            )
    write_numbers(options, numbers)
    return status


main = command(parse, _look)
