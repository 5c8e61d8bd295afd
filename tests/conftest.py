"""What all tests share."""

import atexit
import fcntl
import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
from hypothesis import settings

from open_diht.common.command_line import parsed_by
from open_diht.filters.spotting import weights
from tests.forks import Forks
from tests.hub_server import Hub
from tests.skips import Skips

# An example may take as long as the machine is busy, or traced.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

TOOLS = Path(__file__).resolve().parents[1] / ".tools"
"""What tests need and a checkout fetches or builds once: OCR weights, evaluation data, an S3
server."""
_OF_THE_HOME = (
    *(
        "DIHT_BENCH_DATA",
        "DIHT_OCR_MODELS",
        "HF_",
        "HUGGINGFACE_",
        "MPLCONFIGDIR",
        "OPEN_DIHT_",
        "TORCH_HOME",
    ),
    *("TORCHINDUCTOR_CACHE_DIR", "TRANSFORMERS_", "TRITON_", "XDG_"),
)
"""Beginnings of the variables that lead to data and caches of the user."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skipped", action="store_true", help="run only the tests that the last run skipped"
    )


def _end_quietly() -> None:
    """Triton's bindings report what lives as long as the interpreter as leaked, on forty lines of
    each process."""
    if "triton._C.libtriton" in sys.modules:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a home of its own, before anything is imported that looks into the home."""
    atexit.register(_end_quietly)
    config.pluginmanager.register(Skips(config))
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist inherits the environment
    # Which index packages come from is a matter of the machine, not of the tests.
    index = Path.home() / ".config" / "pip" / "pip.conf"
    if index.is_file():
        os.environ.setdefault("PIP_CONFIG_FILE", str(index))
    for name in [name for name in os.environ if name.startswith(_OF_THE_HOME)]:
        del os.environ[name]
    home = Path(tempfile.mkdtemp(prefix="diht-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ["HOME"] = str(home)
    cache = home / ".cache" / "diht"
    cache.mkdir(parents=True)
    (cache / "bench").symlink_to(TOOLS / "bench")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first, or one of the two processes would be left with them at the
    end."""
    long = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """What a process has written outlives it whatever the disk holds: only a test that cuts the
    power could tell."""
    with patch("os.fsync", lambda descriptor: None):
        yield


@pytest.fixture
def commands_in_process(monkeypatch) -> None:
    """What starts a command of `pipelines` runs it in the process of the test, which keeps its
    signals and forks nothing."""

    def run_command(
        module: str,
        *arguments: Any,
        parser: str | None = None,
        resumes: bool = True,
        workers: bool = True,
        **named: Any,
    ) -> NoReturn:
        if parser is not None and "options" not in named:
            named["options"] = parsed_by(parser, *arguments, **named)
        raise SystemExit(importlib.import_module(module).main(*arguments, **named))

    monkeypatch.setattr("open_diht.common.run_command.run_command", run_command)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def ocr_models() -> None:
    """Installs the OCR weights, which a checkout fetches once, where runs of this session look for
    them."""
    place = Path.home() / ".cache" / "diht" / "ocr"
    with open(place.with_name("ocr.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of pytest-xdist share the home
        weights.download_and_install(TOOLS / "ocr")
        if not place.exists():
            place.symlink_to(TOOLS / "ocr")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium as the system has it; skips where there is none."""
    pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'"
    )
    from benchmarks import pictures

    if not any(map(shutil.which, pictures.CHROMIUM)):
        pytest.skip(
            "no Chromium on PATH; on Debian: apt-get install chromium-headless-shell"
            " fonts-dejavu-core"
        )
    with pictures.browser() as started:
        yield started


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    """A hub on this machine, to which the environment and the client lead, with a token that may
    write."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="not installed: pip install '.[cloud]'"
    )
    from huggingface_hub import HfFileSystem

    server = Hub()
    server.start()
    asked = {
        "HF_ENDPOINT": server.address,
        "HF_TOKEN": "hf_good",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    # What the client reads of the environment when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")  # of a login on this machine
    # Between tries the client waits for seconds.
    waits_not = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr("huggingface_hub.utils._http.time", waits_not)
    HfFileSystem.clear_instance_cache()
    yield server
    HfFileSystem.clear_instance_cache()
    server.stop()


def _server() -> str:
    """The path of versitygw, an S3 server over a folder; skips where there is none."""
    found = os.environ.get("VERSITYGW") or shutil.which("versitygw") or str(TOOLS / "versitygw")
    if not os.path.exists(found):
        pytest.skip(
            "no S3 server: `make s3-server` builds versitygw (needs Go), or VERSITYGW names one"
        )
    return found


class S3Server:
    """versitygw over a folder, which can be started again at its address with other flags."""

    def __init__(self, folder: Path):
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self, *flags: str) -> None:
        address = ["--port", f"127.0.0.1:{self.port}", "--region", "us-east-1"]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [_server(), *address, *flags, "posix", str(self._folder)],
                env={**os.environ, "ROOT_ACCESS_KEY": "testkey", "ROOT_SECRET_KEY": "testsecret"},
                stdout=log,
                stderr=log,
            )
        _wait(self.port, self._process, self._folder / "log")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, to which the environment leads."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[cloud]'")
    server = S3Server(tmp_path_factory.mktemp("store"))
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    s3fs.S3FileSystem.clear_instance_cache()  # clients of another module's server
    try:
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@pytest.fixture(scope="module")
def bucket(s3_server) -> str:
    """s3://... of an empty bucket; the environment leads to its server."""
    return "s3://bucket"


@pytest.fixture
def dead_store(monkeypatch) -> Iterator[str]:
    """s3://... of a store whose server does not answer."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[cloud]'")
    with socket.socket() as probe:
        # Bound and not listening, so that no other process takes the port.
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{probe.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_MAX_ATTEMPTS"):
            monkeypatch.setenv(name, "1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not come up: {log.read_text()}")
