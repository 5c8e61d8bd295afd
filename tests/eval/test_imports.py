"""Data flows one way: the evaluation knows the trainer only where it loads a model, and nothing
further upstream."""

from pathlib import Path

from tests.imports import packages

ROOT = Path(__file__).resolve().parents[2] / "eval"
UPSTREAM = {"pipelines", "filters", "apache_beam", "spacy", "paddleocr"}


def test_nothing_upstream_is_imported_and_the_trainer_only_to_load_a_model():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 30
    assert {
        path.name: packages(path) & UPSTREAM for path in files if packages(path) & UPSTREAM
    } == {}
    assert [str(path.relative_to(ROOT)) for path in files if "trainer" in packages(path)] == [
        "models/__init__.py"
    ]


def test_the_network_is_touched_by_the_fetching_part_alone():
    clients = {"requests", "pooch", "urllib", "http", "socket", "huggingface_hub", "fsspec"}
    users = {
        str(path.relative_to(ROOT).parts[0])
        for path in ROOT.rglob("*.py")
        if packages(path) & clients
    }
    assert users == {"fetch"}
