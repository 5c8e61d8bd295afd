"""No file or folder imports one that, directly or by way of others, imports it; importing changes
nothing in the process."""

import functools
import os
import subprocess
import sys
from glob import glob
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.imports import imported

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (
    "open_diht",
    *(f"open_diht.{name}" for name in ("common", "filters", "pipelines", "trainer", "eval")),
)
STATE = """
import importlib, locale, logging, os, pkgutil, random, signal, socket, sys, warnings

def state():
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "logging": (root.level, list(root.handlers), root.manager.disable),
    }

def compare(names, state=state):
    before = state()
    for name in names:
        importlib.import_module(name)
        after = state()
        print([(name, part) for part in before if before[part] != after[part]] or "", end="")
        before = after
"""
PACKAGES = ("open_diht", "study", "benchmarks")


@functools.cache
def graph(root: Path, packages: tuple[str, ...]) -> dict[str, set[str]]:
    """Modules of `packages` below `root`, each with those that its file imports."""
    files = {
        path: path.relative_to(root).with_suffix("").parts
        for name in packages
        # Unlike rglob it follows links.
        for path in map(Path, glob(f"{root / name}/**/*.py", recursive=True))
    }
    modules = {".".join(parts).removesuffix(".__init__"): path for path, parts in files.items()}
    found = {}
    for module, path in modules.items():
        names = imported(path)
        # `from package import module` needs that module, not the package's own file.
        bases = {
            name
            for name in names
            if any(one in modules for one in names if one.rpartition(".")[0] == name)
        }
        found[module] = {name for name in names if name in modules} - bases - {module}
    return found


def test_there_is_no_circle():
    modules = graph(ROOT, PACKAGES)
    assert len(modules) > 250
    tuple(TopologicalSorter(modules).static_order())


def test_a_circle_is_seen_wherever_the_import_stands(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "__init__.py").write_text("")
    (tmp_path / "p" / "a.py").write_text("from p import b\n")
    (tmp_path / "p" / "b.py").write_text("def late() -> None:\n    import p.a\n")
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph(tmp_path, ("p",))).static_order())


def rooms_of(modules: dict[str, set[str]], folder: str) -> dict[str, set[str]]:
    """Files and folders right below a folder, each with those that it imports."""
    prefix = f"{folder}."
    rooms: dict[str, set[str]] = {}
    for name, used in modules.items():
        if name.startswith(prefix):
            room = name.removeprefix(prefix).partition(".")[0]
            others = {
                other.removeprefix(prefix).partition(".")[0]
                for other in used
                if other.startswith(prefix)
            }
            rooms.setdefault(room, set()).update(others - {room})
    return rooms


def test_there_is_no_circle_of_folders():
    modules = graph(ROOT, PACKAGES)
    folders = {name.rpartition(".")[0] for name in modules} - {""}
    assert len(folders) > 30
    circles = []
    for folder in sorted(folders):
        try:
            tuple(TopologicalSorter(rooms_of(modules, folder)).static_order())
        except CycleError as error:
            circles.append((folder, error.args[1]))
    assert not circles


def test_a_circle_of_folders_is_seen_where_no_files_make_one(tmp_path):
    for name in ("p", "p/a", "p/b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "p/a/one.py").write_text("import p.b.one\n")
    (tmp_path / "p/a/other.py").write_text("")
    (tmp_path / "p/b/one.py").write_text("")
    (tmp_path / "p/b/other.py").write_text("from p.a import other\n")
    modules = graph(tmp_path, ("p",))
    tuple(TopologicalSorter(modules).static_order())
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(rooms_of(modules, "p")).static_order())


def test_verify_needs_neither_the_driver_nor_the_viewer():
    """Verify imports the reader of an output, and none of the code that it checks."""
    prefix = "open_diht.pipelines."
    modules = graph(ROOT, PACKAGES)
    left = [name for name in modules if name.startswith(f"{prefix}verify.")]
    assert left
    reached: set[str] = set()
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += modules[name]
    others = tuple(f"{prefix}{part}" for part in ("driver", "view", "pilot", "select"))
    assert {name for name in reached if name.startswith(others)} == set()


def changed_by(code: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")
    }
    command = [sys.executable, "-c", STATE + code]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    ).stdout


WALK = (
    "[each.name for each in pkgutil.walk_packages(importlib.import_module({0!r}).__path__,"
    " '{0}.'){1}]"
)
LIBRARIES = "import open_clip, PIL.Image, pyarrow, scipy.stats, spacy, torchvision\n"
BEAM = "import apache_beam.runners.worker.sdk_worker_main, numpy, PIL.Image, pyarrow, spacy\n"
FILTERS = """
from PIL import Image, ImageFile
import numpy, pyarrow, yaml
from open_diht.filters.light_imports import FRAMEWORKS, without
with without(*FRAMEWORKS):
    import spacy
# Their process is our own.
OCR = ("open_diht.filters.spotting.ocr", "open_diht.filters.spotting.worker")

def more():
    return state() | {
        "locale": locale.setlocale(locale.LC_ALL),
        "imports": (list(sys.meta_path), list(sys.path), list(sys.path_hooks)),
        "recursion": sys.getrecursionlimit(),
        "hooks": (sys.excepthook, sys.displayhook),
        "timeout": socket.getdefaulttimeout(),
        "random": random.getstate(),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "folder": os.getcwd(),
    }

filters = importlib.import_module("open_diht.filters")
modules = pkgutil.walk_packages(filters.__path__, "open_diht.filters.")
compare((each.name for each in modules if not each.name.startswith(OCR)), state=more)
"""
WALKED = ("open_diht.common", "open_diht.eval", "open_diht.trainer", "study")
OF_PIPELINES = WALK.format("open_diht.pipelines", " if each.ispkg")
COMMANDS = "'open_diht.pipelines.driver.cli', 'open_diht.pipelines.driver.run'"
CHANGES = {
    "packages": f"compare({PUBLIC})",
    "pipelines": f"{BEAM}compare([*{OF_PIPELINES}, {COMMANDS}])",
    **{name: f"{LIBRARIES}compare({WALK.format(name, '')})" for name in WALKED},
}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(FILTERS, id="filters"),
        *(pytest.param(CHANGES[name], id=name, marks=pytest.mark.slow) for name in CHANGES),
    ],
)
def test_importing_changes_nothing(code):
    """What libraries change when they are imported is theirs: the code of all but the packages
    imports them before."""
    assert changed_by(code) == ""
