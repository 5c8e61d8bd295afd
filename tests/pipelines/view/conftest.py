"""An output to look at, and a server over it."""

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from open_diht.pipelines.output import Output
from open_diht.pipelines.view.app import make_app
from open_diht.pipelines.view.pages import Workbench

HOSTILE = (
    "<script>document.title='taken'</script> A small dog chasing a ball",
    '<img src="http://192.0.2.1/x.png" onerror="document.title=\'taken\'"> A girl holding a kite',
    "A cat sleeping </textarea></option></title><svg onload=document.title='taken'> on a sofa",
)
"""Captions that try to run and to load something. 192.0.2.1 is an address of nobody (RFC 5737)."""
PAIRS = 40


@pytest.fixture(scope="session")
def manifest(with_images: Any, tsv: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with images and a column of numbers, some of them hostile, some twice; do not change
    it."""
    folder = tmp_path_factory.mktemp("looked_at")
    rows = with_images(folder / "images", PAIRS)
    for row in rows:
        row["similarity"] = f"{row['n'] / 100:.2f}"
    rows += [{**rows[0], "n": PAIRS + n, "caption": caption} for n, caption in enumerate(HOSTILE)]
    rows += [{**row, "n": PAIRS + len(HOSTILE) + row["n"]} for row in rows[:4]]  # duplicate pairs
    return tsv(folder / "manifest.tsv", rows)


@pytest.fixture(scope="session")
def finished(
    manifest: Path, filtering: Any, tmp_path_factory: pytest.TempPathFactory, ocr_models: None
) -> Any:
    """The same, filtered with preset paper in several units; do not change its output."""
    return filtering(manifest, tmp_path_factory.mktemp("finished") / "out", unit_rows=12)


@pytest.fixture
def output(finished: Any) -> Output:
    return Output(finished.output)


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.output, tmp_path / "copy"))


@contextmanager
def serving(output: Output, rows: int = 20_000) -> Iterator[str]:
    """The pages over an output, by a real server; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(make_app(Workbench(output, rows)), log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


served = pytest.fixture(scope="session")(lambda: serving)


@pytest.fixture(scope="module")
def site(finished: Any, served: Any) -> Iterator[str]:
    with served(Output(finished.output)) as address:
        yield address
