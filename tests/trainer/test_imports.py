"""What the trainer may import: a machine that trains has neither Beam nor spaCy nor PaddleOCR."""

from pathlib import Path

from tests.imports import packages

FORBIDDEN = {
    "apache_beam",
    "spacy",
    "thinc",
    "paddleocr",
    "paddlex",
    "filters",
    "pipelines",
    "eval",
    "pyarrow",
}
TRAINER = Path(__file__).resolve().parents[2] / "trainer"


def test_no_import_goes_against_the_flow() -> None:
    files = sorted(TRAINER.rglob("*.py"))
    assert len(files) > 20
    assert {
        str(path.relative_to(TRAINER)): packages(path) & FORBIDDEN
        for path in files
        if packages(path) & FORBIDDEN
    } == {"data/subset.py": {"pyarrow"}}, "which reads the selection.parquet of pipelines"
