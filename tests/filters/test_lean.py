"""What is hidden looks uninstalled inside the block, and nothing else changes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from filters.lean import without

REPOSITORY = Path(__file__).resolve().parents[2]


def test_hidden_modules_look_uninstalled() -> None:
    sys.modules.pop("colorsys", None)
    with without("colorsys"):
        assert importlib.util.find_spec("colorsys") is None
        with pytest.raises(ModuleNotFoundError):
            import colorsys
        import wave  # others are found as ever
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0) and wave


def test_loaded_modules_stay() -> None:
    import colorsys

    with without("colorsys"):
        import colorsys as again
    assert again is colorsys


def test_finders_that_imports_add_stay() -> None:
    class Added:
        def find_spec(self, *_: object) -> None:
            return None

    added = Added()
    before = sys.meta_path[:]
    try:
        with without("colorsys"):
            sys.meta_path.append(added)  # type: ignore[arg-type]
        assert sys.meta_path == [*before, added]
    finally:
        sys.meta_path[:] = before


def test_hidden_distributions_look_uninstalled() -> None:
    with without("pytest"):
        with pytest.raises(PackageNotFoundError):
            version("pytest")
        assert version("numpy")
    assert version("pytest")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed, so nothing imports it")
@pytest.mark.skipif(importlib.util.find_spec("paddleocr") is None, reason="paddleocr is not installed")
def test_filters_do_not_load_torch() -> None:
    """Nor scikit-learn and faiss, which PaddleX would import where they are installed."""
    code = """
import importlib, sys
for module in ("filters.spotting.engine", "filters.captions.annotate", "pipelines.driver.run"):
    importlib.import_module(module)
    loaded = {"torch", "sklearn", "faiss"} & set(sys.modules)
    assert not loaded, f"{module} loads {loaded}"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
