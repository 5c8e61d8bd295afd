"""What the trainer may import: a machine that trains has neither Beam nor spaCy nor PaddleOCR."""

from __future__ import annotations

import ast
from pathlib import Path

FORBIDDEN = {"apache_beam", "spacy", "thinc", "paddleocr", "paddlex", "filters", "pipelines", "eval", "pyarrow"}
TRAINER = Path(__file__).resolve().parents[2] / "trainer"


def test_no_import_goes_against_the_flow() -> None:
    found = set()
    for path in TRAINER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {(str(path.relative_to(TRAINER)), name) for name in names if name.split(".")[0] in FORBIDDEN}
    assert not found
    assert len([*TRAINER.rglob("*.py")]) > 20
