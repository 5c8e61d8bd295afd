"""Print the test images of tasks, for a process that compares training data with them (`filter
--decontaminate`).

    python -m open_diht.eval.images TASKS --about     one JSON object per set of images, and no
    image python -m open_diht.eval.images TASKS             an Arrow stream of `SCHEMA`

Exit status: 2, with one line, for unknown tasks and for data that is not on this machine or not
usable.
"""

import contextlib
import dataclasses
import io
import json
import sys
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from open_diht.common.command_line import OK, Parser, WrongUse, exit_status, say
from open_diht.common.images import BadImage, ImageLimits, open_image
from open_diht.common.naming import listing
from open_diht.common.spelling import spelled
from open_diht.eval.data import DataSet, Memo, data_root, read_task
from open_diht.eval.errors import DataBroken, DataMissing
from open_diht.eval.records import feature_folder
from open_diht.eval.task import Task
from open_diht.eval.tasks import KINDS, choose_tasks

SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("item", pa.string()),
        ("image", pa.binary()),
        ("captions", pa.list_(pa.string())),
    ]
)
"""One row per image: its task and key, its file (a BMP of its pixels if it has none, or one that
filters do not read), and the captions that are right for it."""
_BATCH = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of this process, and return the exit status."""
    parser = Parser(
        prog="python -m open_diht.eval.images", description="Print the test images of tasks."
    )
    parser.add_argument("tasks", help="suites, suite files, tasks; comma-separated")
    parser.add_argument("--about", action="store_true", help="print names, counts and hashes alone")

    def run() -> int:
        options = parser.parse_args(arguments)
        found = _sets(choose_tasks(options.tasks).tasks)
        if options.about:
            for name, (data, same) in found.items():
                about = {"set": name, "images": len(data), "sha256": data.images.fingerprint}
                say(json.dumps({**about, "labels": data.label_hash, "tasks": same}))
            return OK
        with pa.ipc.new_stream(sys.stdout.buffer, SCHEMA) as out:
            for name, (data, _) in found.items():
                captions = _captions(data)
                for first in range(0, len(data), _BATCH):
                    places = range(first, min(first + _BATCH, len(data)))
                    images = [_image(data, n) for n in places]
                    keys = [data.images.keys[n] for n in places]
                    columns = [[name] * len(places), keys, images, [captions[n] for n in places]]
                    out.write_table(pa.table(columns, schema=SCHEMA))
        return OK

    return exit_status(run, wrong_use=(DataBroken,))


def _sets(tasks: Sequence[Task]) -> dict[str, tuple[DataSet, list[str]]]:
    """Return the data of tasks by name, whole also where a task samples it, and the names of all
    tasks on the same images and captions. Raises `WrongUse`, with the command that fetches it, if
    data is missing."""
    found: dict[str, DataSet] = {}
    absent: list[tuple[Task, str]] = []
    for task in tasks:
        try:
            whole = dataclasses.replace(task, sample=None)
            found[task.name] = read_task(
                whole, KINDS[task.kind].needs, data_root(), Memo(feature_folder() / "hashes")
            )
        except DataMissing as error:
            absent.append((task, str(error)))
    if absent:
        names = [task.name for task, _ in absent]
        fetched = [
            task.name for task, _ in absent if task.fetch.get("from", "repository") != "repository"
        ]
        ways = (
            [f"fetch it with `{spelled('bench-data', task=','.join(fetched))}`"] if fetched else []
        )
        ways += [f"by hand: {task.how_to_get}" for task, _ in absent if task.name not in fetched]
        raise WrongUse(
            f"no data of {listing(names)} in {data_root()}; {'; '.join(ways)}. Or name other tasks"
        )
    distinct: dict[object, list[str]] = defaultdict(list)
    for name, data in found.items():
        distinct[data.images.fingerprint, str(_captions(data))].append(name)
    return {names[0]: (found[names[0]], names) for names in distinct.values()}


def _captions(data: DataSet) -> dict[int, list[str]]:
    """Return the captions that are right for each image, by its index."""
    found: dict[int, list[str]] = defaultdict(list)
    for image, texts in enumerate(data.captions or ()):
        found[image] += texts
    for choice in data.choices or ():
        found[choice.image] += choice.captions[: choice.right]
    for pair in data.pairs or ():
        for image, text in zip(pair.images, pair.captions, strict=True):
            found[image].append(text)
    return found


def _image(data: DataSet, place: int) -> bytes:
    if (content := data.images.content(place)) is not None:
        with contextlib.suppress(BadImage):
            open_image(content, ImageLimits())
            return content
    pixels = io.BytesIO()
    data.images.open(place).save(pixels, "BMP")
    return pixels.getvalue()


if __name__ == "__main__":
    sys.exit(main())
