"""Small outputs of `make filter` with shapes and colours, and a tiny teacher."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

timm = pytest.importorskip("timm", reason="timm is not installed: pip install '.[train]'")
import torch  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from open_diht.pipelines.runners.fork_server import ForkServer  # noqa: E402
from open_diht.pipelines.teachers.run import ConceptSettings, run  # noqa: E402
from open_diht.pipelines.teachers.teacher import find_teacher  # noqa: E402
from tests.pipelines.conftest import tar_of  # noqa: E402

SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow")


def drawn(shape: str, colour: str, number: int) -> bytes:
    """A shape at a place of its own."""
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    x = 2 + number * 7 % 24
    y = 2 + number * 11 % 24
    if shape == "circle":
        draw.ellipse((x, y, x + 34, y + 34), colour)
    elif shape == "square":
        draw.rectangle((x, y, x + 34, y + 34), colour)
    else:
        draw.polygon([(x, y + 34), (x + 17, y), (x + 34, y + 34)], colour)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


class FilterOutput:
    """Writes kept/ and shards/ as `make filter` does."""

    def __init__(self, folder: Path):
        self.folder = folder

    def row(self, number: int) -> dict[str, Any]:
        shape = SHAPES[number % 3]
        colour = COLOURS[number // 3 % 4]
        text = f"{colour.title()} {shape}s turning"
        pair = {"object": f"{shape}s", "attribute": colour.title()}
        return {
            "uid": f"{number:032x}",
            "caption": text,
            "objects": [f"{shape}s"],
            "attributes": [pair],
        }

    def write(
        self,
        sizes: list[int],
        change: Callable[[int, list[tuple[str, bytes]]], Any] = lambda n, m: m,
    ) -> Path:
        """Shards of these sizes; `change` may replace the members of a sample."""
        number = 0
        entries = []
        for unit, size in enumerate(sizes):
            name = f"{unit:05d}-00000"
            rows = [self.row(number + n) for n in range(size)]
            (self.folder / "kept").mkdir(parents=True, exist_ok=True)
            pq.write_table(
                pa.Table.from_pylist(rows), self.folder / "kept" / f"part-{name}.parquet"
            )
            path = self.folder / "shards" / f"{name}-000.tar"
            changed: list[tuple[str, bytes]] = []
            for n, row in enumerate(rows):
                key = f"{row['uid']}-{n:06d}"
                image = drawn(row["objects"][0][:-1], COLOURS[(number + n) // 3 % 4], number + n)
                members = [(f"{key}.png", image), (f"{key}.txt", row["caption"].encode())]
                members.append((f"{key}.json", json.dumps({**row, "key": key}).encode()))
                changed += change(number + n, members)
            tar_of(path, changed)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            entries.append({"shard": path.name, "samples": size, "sha256": digest})
            number += size
        manifest = {"samples": number, "shards": entries}
        (self.folder / "shards" / "manifest.json").write_text(json.dumps(manifest))
        return self.folder


@pytest.fixture(scope="session", autouse=True)
def torch_in_workers() -> Iterator[None]:
    """Workers are forked from a process that has imported timm, or each would take seconds for
    it."""
    before = ForkServer.preloaded
    ForkServer.end()
    ForkServer.preloaded = (*before, "timm")
    yield
    ForkServer.preloaded = before


@pytest.fixture
def filtered(tmp_path: Path) -> FilterOutput:
    return FilterOutput(tmp_path / "data")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name and weights of a teacher of 0.5 million random parameters."""
    path = tmp_path_factory.mktemp("teacher") / "tiny.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return "timm:test_resnet", str(path)


@pytest.fixture
def make(tiny: tuple[str, str], here: None) -> Callable[..., tuple[int, list[str]]]:
    """Runs the Beam half; gives its status and what it said."""

    def make(data: Path, **changes: Any) -> tuple[int, list[str]]:
        said: list[str] = []
        known = {
            "data": data,
            "output": data / "concepts",
            "teacher": find_teacher(*tiny),
            "workers": 1,
        }
        status = run(ConceptSettings(**{**known, "min_count": 2, **changes}), said.append)
        return status, said

    return make


def files_of(folder: Path) -> dict[str, bytes]:
    """What is made, apart from records of times and of the way there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if (path.is_file() and path.suffix in (".npy", ".npz")) or path.name == "vocabulary.json"
    }


made = pytest.fixture(lambda: files_of)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert os.environ["OMP_NUM_THREADS"] == "1"
