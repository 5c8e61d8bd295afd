"""Importing `filters` changes nothing in the process that imports it."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

CODE = """
import importlib, locale, logging, os, pkgutil, random, signal, socket, sys, warnings
from PIL import Image, ImageFile
import numpy, pyarrow, yaml  # what libraries change when they are imported is theirs
if sys.argv[1:]:
    from open_diht.filters.light_imports import FRAMEWORKS, without
    with without(*FRAMEWORKS):
        import spacy

def state():
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "warnings": list(warnings.filters),
        "logging": (root.level, list(root.handlers), root.manager.disable),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "locale": locale.setlocale(locale.LC_ALL),
        "imports": (list(sys.meta_path), list(sys.path), list(sys.path_hooks)),
        "recursion": sys.getrecursionlimit(),
        "hooks": (sys.excepthook, sys.displayhook),
        "timeout": socket.getdefaulttimeout(),
        "random": random.getstate(),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "folder": os.getcwd(),
    }

before = state()
import open_diht.filters as filters
for module in pkgutil.walk_packages(filters.__path__, "open_diht.filters.") if sys.argv[1:] else ():
    # The OCR process is our own.
    if not module.name.startswith(("open_diht.filters.spotting.ocr", "open_diht.filters.spotting.worker")):
        importlib.import_module(module.name)
after = state()
print([name for name in before if before[name] != after[name]])
"""


def changed(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_package_changes_nothing():
    assert changed() == "[]"


def test_its_modules_change_nothing():
    assert changed("all") == "[]"
