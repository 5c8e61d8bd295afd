"""Nothing of DiHT is in the common ground: it knows none of the packages that stand on it."""

from __future__ import annotations

import ast
from pathlib import Path

COMMON = Path(__file__).resolve().parents[2] / "common"
ABOVE = {"filters", "pipelines", "trainer", "eval", "benchmarks", "apache_beam"}


def test_it_stands_on_nothing_of_ours() -> None:
    files = sorted(COMMON.rglob("*.py"))
    assert len(files) >= 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & ABOVE, path
            assert path.name == "ranks.py" or "torch" not in {name.partition(".")[0] for name in names}, path
