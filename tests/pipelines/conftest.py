"""Whole runs for the tests: small inputs, real runs, and what they wrote read back."""

import csv
import functools
import io
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.internal import pickler
from PIL import Image, ImageDraw, ImageFont

from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.presets import load_preset
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.datasets import Dataset, load_dataset
from open_diht.pipelines.driver.run import FilterOutcome, run
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.runners import Backend, Direct, Job
from open_diht.pipelines.settings import STAGES, RunSettings
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.storage import StorePath
from tests import tars
from tests.common.hostile_images import encode
from tests.pipelines.processes import Forked, ForkedStarter

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "data" / "sample"
KINDS = ("kept", "rejected", "dead_letter")
NOTHING_LEFT = "nothing to do: "


@dataclass(frozen=True)
class Filtered:
    """A run that has ended, and what lies in its output folder."""

    output: Path
    outcome: FilterOutcome
    said: list[str]

    @property
    def status(self) -> int:
        return self.outcome.status

    @property
    def funnel(self) -> FunnelRecord:
        assert self.outcome.funnel is not None
        return self.outcome.funnel

    @property
    def did_nothing(self) -> bool:
        return any(NOTHING_LEFT in line for line in self.said)

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return read_rows(self.output, kind)

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """All rows of all kinds, in an order of their own."""
        return sorted_tables(self.output)

    def verdicts(self) -> dict[Any, str]:
        """The verdict on each row by its value in the original column n: kept, or a reason."""
        found: dict[Any, str] = {}
        for kind in ("kept", "rejected"):
            for row in self.rows(kind):
                assert row["n"] not in found, f"row {row['n']} is in the outputs twice"
                found[row["n"]] = "kept" if kind == "kept" else row["reason"]
        return found


@functools.cache
class _LastingSpotter(TextSpotter):
    """One for all stages: what an image says does not depend on when its reader was started."""

    def close(self) -> None:
        pass


_lasting_annotator = functools.cache(CaptionAnnotator)
"""One for all stages, as what a caption says does not depend on when its model was loaded."""
_UNCOLLECTED = SimpleNamespace(collect=lambda: None, freeze=lambda: None, unfreeze=lambda: None)
"""In place of `gc` where a stage begins: it would look through all that the tests have imported."""


@dataclass(frozen=True)
class Here(Direct):
    """This process, unit after unit, without pauses between tries. The work goes through Beam's
    pickler, as on its way to a worker; the job and the worker themselves take 0.2 s of each of the
    dozen stages of a run, a start of the OCR process 1.5 s, and that of the parser 0.7 s."""

    def run(self, job: Job) -> None:
        do, names = job.build.keywords["do"], job.build.keywords["names"]  # type: ignore[attr-defined]
        work = pickler.loads(pickler.dumps(do))
        with (
            patch("open_diht.pipelines.stages.spotting.TextSpotter", _LastingSpotter),
            patch("open_diht.pipelines.stages.captions.CaptionAnnotator", _lasting_annotator),
            patch("open_diht.pipelines.stages.captions.gc", _UNCOLLECTED),
            patch("open_diht.pipelines.engine.stage.PAUSES_S", (0.0, 0.0)),
        ):
            work.setup()
            try:
                for name in read_json(names) or ():
                    work.process(name)
            finally:
                work.teardown()


def encoded_again(image: bytes) -> bytes:
    """The same image in other bytes."""
    return encode(Image.open(io.BytesIO(image)).convert("RGB"), "JPEG", quality=85)


def read_rows(output: StorePath, kind: str) -> list[dict[str, Any]]:
    """The rows of a kind; `output` may lie in a store."""
    files: list[Any] = sorted((output / kind).glob("part-*.parquet"), key=str)
    return [
        row for path in files for row in pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    ]


def sorted_tables(output: Path) -> dict[str, list[dict[str, Any]]]:
    return {kind: sorted(read_rows(output, kind), key=repr) for kind in KINDS}


def filter_manifest(
    source: Path | str,
    output: Path,
    *,
    preset: str = "paper",
    dataset: Dataset | None = None,
    stages: Sequence[str] = STAGES,
    workers: int = 1,
    backend: Backend | None = None,
    on_line: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> Filtered:
    """A real run, with one worker in this process, with several in processes of Beam, where nothing
    else is said; `preset` may be the text of a file, and `on_line` is called with every line that
    it says, when it says it.
    """
    said: list[str] = []
    if ": " in preset:
        file = output.with_suffix(".yaml")
        file.write_text(preset, encoding="utf-8")
        preset = str(file)

    def say(line: str) -> None:
        said.append(line)
        on_line(line)

    outcome = run(
        RunSettings(
            dataset=dataset or load_dataset("custom"),
            input=str(source),
            output=output,
            preset=load_preset(preset),
            stages=tuple(stages),
            workers=workers,
            backend=backend or (Here() if workers == 1 else Direct()),
            **settings,
        ),
        say,
    )
    return Filtered(output, outcome, said + [f"error: {line}" for line in outcome.errors])


def image(path: Path, text: str = "", size: tuple[int, int] = (320, 64)) -> Path:
    """An image file with a line of text."""
    image = Image.new("RGB", size, (205, 220, 240))
    ImageDraw.Draw(image).text(
        (10, size[1] // 2 - 14), text, fill=(0, 0, 0), font=ImageFont.load_default(24)
    )
    image.save(path)
    return path


def sample_captions() -> list[str]:
    """The captions of the sample that say something."""
    with open(SAMPLE / "manifest.tsv", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["caption"] for row in rows if row["caption"].strip()]


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tar_of(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tars.tar_of(*members, format=tarfile.USTAR_FORMAT))
    return path


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def pairs_of(
    path: Path, captions: Sequence[str], images: Sequence[bytes | None], group: int, **more: Any
) -> Path:
    """A Parquet manifest of pairs in row groups of some rows, with numbers, urls of their own and
    the images in it."""
    urls = [f"https://example.org/{n}" for n in range(len(captions))]
    table = {
        "n": range(len(captions)),
        "url": urls,
        "caption": captions,
        "image": pa.array(images, pa.binary()),
    }
    pq.write_table(pa.table({**table, **more}), path, row_group_size=group)
    return path


def image_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows of sample captions with small images: some blank, some with text of the caption, some
    with other text."""
    folder.mkdir(parents=True, exist_ok=True)
    image(folder / "blank.png")
    image(folder / "other.png", "SALE 50% OFF")
    rows: list[dict[str, Any]] = []
    captions = sample_captions()
    for n in range(count):
        caption = captions[n % len(captions)]
        name = ("blank.png", "other.png", f"own_{n % 16}.png")[n % 3]
        if name.startswith("own"):
            caption = captions[n % 16] if n % 2 else caption
            if not (folder / name).exists():
                image(folder / name, captions[n % 16][:20])
        rows.append({"n": n, "caption": caption, "image_path": f"{folder.name}/{name}"})
    return rows


_shared = pytest.fixture(scope="session")
filtering = _shared(lambda: filter_manifest)
draw = _shared(lambda: image)
captions = _shared(sample_captions)
with_images = _shared(lambda: image_rows)
tsv = _shared(lambda: write_tsv)
tables_of = _shared(lambda: sorted_tables)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of `pipelines` do their units as `Here` does."""
    monkeypatch.setattr(Direct, "run", Here.run)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 60 rows with images; do not change it."""
    folder = tmp_path_factory.mktemp("pairs")
    return write_tsv(folder / "pairs.tsv", image_rows(folder / "images", 60))


@pytest.fixture(scope="session")
def paper(pairs: Path, tmp_path_factory: pytest.TempPathFactory, ocr_models: None) -> Filtered:
    """`pairs` filtered with preset paper in several units, by a worker of Beam; do not change its
    output."""
    return filter_manifest(
        pairs, tmp_path_factory.mktemp("paper") / "out", unit_rows=15, backend=Direct()
    )


@pytest.fixture(scope="session")
def strict(pairs: Path, tmp_path_factory: pytest.TempPathFactory, ocr_models: None) -> Filtered:
    """The same with preset strict."""
    return filter_manifest(
        pairs, tmp_path_factory.mktemp("strict") / "out", unit_rows=15, preset="strict"
    )


@pytest.fixture
def command(forks, tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m open_diht.pipelines`, in a process of its own, from whose folder modules are
    imported."""

    def run(*arguments: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
        words = [*map(str, arguments)]
        folder = tmp_path_factory.mktemp("command")
        said = folder / "said"
        errors = folder / "errors"
        process = Forked(forks, words, cwd, said, errors)
        status = process.wait()
        process.clear()
        texts = (path.read_text(encoding="utf-8") for path in (said, errors))
        return subprocess.CompletedProcess(words, status, *texts)

    return run


@pytest.fixture
def runs(forks, tmp_path) -> Iterator[ForkedStarter]:
    """Starts runs that do not outlive the test."""
    with closing(ForkedStarter(forks, tmp_path)) as made:
        yield made
