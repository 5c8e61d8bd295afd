"""What is hidden looks uninstalled inside the block, and nothing else changes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from open_diht.filters.light_imports import without
from tests.imports import packages

REPOSITORY = Path(__file__).resolve().parents[2]


def test_hidden_modules_look_uninstalled():
    sys.modules.pop("colorsys", None)
    with without("colorsys"):
        assert importlib.util.find_spec("colorsys") is None
        with pytest.raises(ModuleNotFoundError):
            import colorsys
        import wave  # others are found as ever
    import colorsys

    assert colorsys.rgb_to_hsv(0, 0, 0) == (0.0, 0.0, 0) and wave


def test_loaded_modules_stay():
    import colorsys

    with without("colorsys"):
        import colorsys as again
    assert again is colorsys


def test_finders_that_imports_add_stay():
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


def test_filters_and_what_they_stand_on_need_neither_beam_nor_what_is_above():
    files = [path for name in ("common", "filters") for path in (REPOSITORY / name).rglob("*.py")]
    above = {"apache_beam", "pipelines", "trainer", "eval"}
    assert len(files) > 50 and not [path for path in files if packages(path) & above]


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="torch is not installed, so nothing imports it",
)
@pytest.mark.parametrize(
    "module",
    [
        "open_diht.filters.captions.annotate",
        "open_diht.pipelines.driver.run",
        "open_diht.filters.spotting.ocr.paddle",
    ],
)
def test_filters_do_not_load_torch(module):
    if module == "open_diht.filters.spotting.ocr.paddle":
        pytest.importorskip("paddleocr")
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
