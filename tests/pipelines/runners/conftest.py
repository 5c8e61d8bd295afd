"""What the tests of the runners share: pythons that lack this project, the binaries of the runners,
small servers."""

import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.processes import captured
from tests.wheel import copy_tree

REPOSITORY = Path(__file__).resolve().parents[3]
OVERVIEW = {"taskmanagers": 1, "slots-total": 4, "slots-available": 4, "flink-version": "1.20.5"}


def python_without_us(folder: Path) -> Path:
    """A virtual environment that has every library of this one and not this project; returns its
    python.

    A `.pth` file names this environment's site-packages. Python adds that folder to the path and
    does not read the `.pth` files inside it, among them the one that makes the editable install of
    this project importable.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shared = folder / "lib" / version / "site-packages" / "shared.pth"
    shared.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder / "bin" / "python"


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without what would let the project be imported by luck."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "FLINK_JOB_SERVER_JAR")
    }
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def run_filter(
    *arguments: object, python: Path | str = sys.executable, timeout: float = 400, **variables: str
) -> Any:
    """`python -m open_diht.pipelines` in the repository, as `make filter` calls it."""
    words = [str(python), "-m", "open_diht.pipelines", *map(str, arguments)]
    return captured(words, cwd=REPOSITORY, env=clean_environment(**variables), timeout=timeout)


filter_command = pytest.fixture(scope="session")(lambda: run_filter)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A python that holds Beam and the filters' libraries only; what it knows of this project was
    staged."""
    python = python_without_us(tmp_path_factory.mktemp("bare") / "venv")
    probe = "import apache_beam, spacy, importlib.util as u; print(u.find_spec('open_diht'))"
    done = captured([python, "-c", probe], cwd="/", env=clean_environment(), check=True)
    assert done.stdout.split() == ["None"], "the project is importable where it should not be"
    return python


@pytest.fixture(scope="session")
def prism() -> Path:
    """The Prism binary; skips where it was not built."""
    asked = os.environ.get("PRISM")
    path = Path(asked) if asked else REPOSITORY / ".prism" / "prism"
    if not path.is_file():
        pytest.skip(
            f"no Prism binary at {path}: `make prism` builds it (needs Go 1.21 or newer), or set"
            " PRISM"
        )
    return path


@pytest.fixture(scope="session")
def flink_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `flink_cluster`."""
    return tmp_path_factory.mktemp("flink") / "state"


@pytest.fixture(scope="session")
def flink_cluster(flink_state: Path) -> Iterator[str]:
    """A cluster of two slots as `make flink-up` starts it, on ports of its own; returns
    host:port."""
    state = flink_state
    if (
        packages := REPOSITORY / ".flink" / "packages"
    ).is_dir():  # what `make flink-up` has downloaded
        state.mkdir()
        (state / "packages").symlink_to(packages)
    script = [sys.executable, "-m", "deploy.flink.cluster"]
    ports = [free_port(), free_port()]
    where = [f"--state={state}", f"--port={ports[0]}", f"--rpc-port={ports[1]}"]
    subprocess.run([*script, "up", *where], cwd=REPOSITORY, check=True)
    yield f"localhost:{ports[0]}"
    subprocess.run([*script, "down", *where], cwd=REPOSITORY, check=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def flink_rest() -> Iterator[Callable[..., str]]:
    """Starts small REST services that answer as a Flink cluster does; returns their host:port."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(**overview: Any) -> str:
        body = json.dumps({**OVERVIEW, **overview}).encode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path == "/overview" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"localhost:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def project_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Copies the project's sources, leaving out packages by name; returns the copy's setup.py."""

    def copy(*left_out: str) -> Path:
        tree = copy_tree(tmp_path_factory.mktemp("project") / "tree")
        for name in left_out:
            shutil.rmtree(tree.joinpath(*name.split(".")))
        return tree / "setup.py"

    return copy


@contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture(scope="session")
def manifest(with_images, tsv, tmp_path_factory) -> Path:
    """Rows with images, one of them missing, an empty caption, and a line that is no row; do not
    change it."""
    folder = tmp_path_factory.mktemp("manifest")
    rows = with_images(folder / "images", 90)
    rows[7]["image_path"] = "images/missing.png"
    rows[8]["caption"] = ""
    path = tsv(folder / "manifest.tsv", rows)
    with open(path, "ab") as file:
        file.write(b"a line of one field\n")
    return path


@pytest.fixture(scope="session")
def arguments(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a run over `manifest` in nine units, with an image of it as an evaluation set."""
    held_out = tmp_path_factory.mktemp("held-out")
    shutil.copy(manifest.parent / "images" / "other.png", held_out)
    return [
        "--dataset",
        "custom",
        "--input",
        str(manifest),
        "--unit-rows",
        "10",
        "--decontaminate",
        f"{held_out}/",
    ]


@pytest.fixture(scope="session")
def local(
    arguments, filter_command, tables_of, tmp_path_factory, ocr_models
) -> dict[str, list[dict[str, Any]]]:
    output = tmp_path_factory.mktemp("local") / "out"
    done = filter_command(*arguments, "--output", output)
    assert done.returncode == 0, done.stderr
    tables: dict[str, list[dict[str, Any]]] = tables_of(output)
    assert {kind: len(rows) for kind, rows in tables.items() if not rows} == {}, (
        "the comparison would be of nothing"
    )
    assert "evaluation_image" in {row["reason"] for row in tables["rejected"]}
    return tables
