"""The test images of tasks, for a run that compares training data with them (`filter
--decontaminate`).

This imports neither torch nor a model, and no more than reading data needs.
"""

import contextlib
import dataclasses
import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from open_diht.common.command_line import WrongUse
from open_diht.common.images import BadImage, ImageLimits, open_image
from open_diht.common.naming import listing
from open_diht.common.spelling import spelled
from open_diht.eval.data import DataSet, Memo, data_root, read_task
from open_diht.eval.errors import DataMissing
from open_diht.eval.records import feature_folder
from open_diht.eval.task import Task
from open_diht.eval.tasks import KINDS, choose_tasks


@dataclass(frozen=True)
class ImageSet:
    """The images of tasks that share images and captions."""

    tasks: list[str]
    """Names of the tasks. The first one is the set's name."""
    data: DataSet

    def rows(self) -> Iterator[tuple[str, bytes, list[str]]]:
        """Yield each image's key, its file (a BMP of its pixels if it has none, or one that filters
        do not read), and the captions that are right for it. Raise DataBroken for an image that
        cannot be read."""
        captions = _captions(self.data)
        for place, key in enumerate(self.data.images.keys):
            yield key, _image(self.data, place), captions[place]


def image_sets(words: str) -> list[ImageSet]:
    """Return the data of tasks, whole also where a task samples it. `words` are suites, suite files
    and tasks, comma-separated. Raise WrongUse for an unknown task, and with the command that
    fetches it, if data is missing. Raise DataBroken if data cannot be used."""
    found: dict[str, DataSet] = {}
    absent: list[tuple[Task, str]] = []
    for task in choose_tasks(words).tasks:
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
    return [ImageSet(names, found[names[0]]) for names in distinct.values()]


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
