"""The public face: few names, loaded late, each described and shown at work."""

import ast
import doctest
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import open_diht

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDS = {
    "CaptionParser": "spacy", "CaptionAnnotator": "spacy", "AnnotateCaptions": "apache_beam",
    "ApplyCat": "apache_beam", "SpotText": "apache_beam", "HnNce": "torch", "load_config": "torch",
    "Config": "torch", "load_model": "open_clip", "train": "open_clip",
}  # fmt: skip
READS_IMAGES = ("TextSpotter", "SpotText")
RESULTS = {"Dataset", "Decisions", "FilterOutcome", "Model", "TrainingOutcome"}
"""Public names that users get from others, whose examples show them."""
SHOWN = (
    *(name for name in open_diht.__all__ if name not in RESULTS),
    *("pipelines.AnnotateCaptions", "pipelines.ApplyCat", "pipelines.SpotText"),
    *("filters.captions.graph.CaptionGraph", "filters.captions.graph.build_graph"),
    *("filters.captions.annotate.CaptionAnnotator", "filters.captions.parse.CaptionParser"),
    *("filters.captions.rules.decide_captions", "filters.spotting.overlap.overlap"),
    "filters.spotting.spotter.TextSpotter",
)
"""Names with examples, as they follow `open_diht.`."""


def test_the_names_are_few_and_the_same_for_people_python_and_type_checkers():
    assert len(open_diht.__all__) <= 16 and set(open_diht.__all__) == set(open_diht._MODULES)
    tree = ast.parse((REPOSITORY / "open_diht" / "__init__.py").read_text(encoding="utf-8"))
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    assert typed == {name: f"open_diht.{module}" for name, module in open_diht._MODULES.items()}
    assert set(open_diht.__all__) <= set(dir(open_diht))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = open_diht.no_such_name


def test_importing_loads_no_library_and_changes_nothing():
    code = (
        "import os, signal, sys\nstate = lambda: (dict(os.environ), sys.path[:], sys.meta_path[:],"
        " list(map(signal.getsignal, (2, 15))))\nbefore, modules = state(), {*sys.modules}\nimport"
        " open_diht; dir(open_diht)\nassert state() == before\nprint(sorted({name.partition('.')[0]"
        " for name in {*sys.modules} - modules} - sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['open_diht']\n"


@pytest.mark.slow
@pytest.mark.parametrize("path", SHOWN)
def test_each_name_is_described_and_its_example_runs(path, tmp_path, monkeypatch, request):
    module, _, name = f"open_diht.{path}".rpartition(".")
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    if name in READS_IMAGES:
        request.getfixturevalue("ocr_models")
    described = getattr(import_module(module), name)
    said = inspect.getdoc(described) or ""
    assert "\nExamples:\n" in said
    if inspect.isfunction(described):
        assert "\nArgs:\n" in said and "\nReturns:\n" in said
    (tmp_path / "data").symlink_to(REPOSITORY / "data")
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(said, {}, name, None, None)
    assert example.examples
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said_wrong: list[str] = []
    runner.run(example, out=said_wrong.append)
    assert not said_wrong, "".join(said_wrong)


@pytest.mark.slow
def test_the_example_of_the_package_runs():
    pytest.importorskip("spacy")
    assert doctest.testmod(open_diht).failed == 0
