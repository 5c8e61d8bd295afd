"""Find prose that readers have to read twice: python -m docs.prose [--update].

Docstrings, comments and Markdown are searched for fragments at their beginning, for archaic or translated turns, for
British spelling, and Markdown for tables of more than eight columns. The baseline holds how many each file had when it
was last rewritten; a file may have fewer and not more. `--update` lowers the baseline to what is found.
"""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASELINE = ROOT / "docs" / "prose-baseline.json"
MOST_COLUMNS = 8
FRAGMENT = re.compile(r"(Of|Those|The same|What|As|Its|Who|Whether) ")
TURN = re.compile(
    r"\b(anew|at hand|beside|besides|goes on|go on|is said|are said|set aside|sets aside|who reads|what becomes of|"
    r"broken off|garbled|torn|nobody|whoever|none of which|thereof|licen[c]e[sd]?|colou?rs? of|neighbours?|normalis\w+|"
    r"recognis\w+|behaviours?)\b",
    re.IGNORECASE,
)
CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|\"[^\"]*\"")


def main(arguments: list[str]) -> int:
    """Return 1 where a file has more odd sentences than the baseline allows, else 0."""
    files = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {
        name: lines
        for name in files.stdout.split()
        if not name.startswith(("tests/", "data/", "benchmarks/history.md")) and not (ROOT / name).is_symlink()
        if (lines := list(odd(ROOT / name)))
    }
    counts = {name: len(lines) for name, lines in found.items()}
    allowed = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else counts
    if "--update" in arguments:
        lower = {name: min(count, allowed.get(name, 0)) for name, count in counts.items()}
        BASELINE.write_text(json.dumps({name: n for name, n in lower.items() if n}, indent=1) + "\n", encoding="utf-8")
        return 0
    worse = [name for name, count in counts.items() if count > allowed.get(name, 0)]
    for name in worse:
        print("\n".join(found[name]))
        print(f"{name}: {counts[name]} odd sentences, at most {allowed.get(name, 0)} allowed; rewrite those you added")
    return 1 if worse else 0


def odd(path: Path) -> Iterator[str]:
    """Yield a line for each odd sentence of a Python or Markdown file: where it is, and what is odd."""
    text = path.read_text(encoding="utf-8")
    for number, prose in of_markdown(text) if path.suffix == ".md" else of_python(text):
        prose = CODE.sub("", prose)
        where = f"{path.relative_to(ROOT)}:{number}: "
        if path.suffix == ".py" and FRAGMENT.match(prose):
            yield f"{where}begins with a fragment: {prose[:60]}"
        for turn in TURN.finditer(prose):
            yield f"{where}{turn.group()!r}: {prose[max(0, turn.start() - 30) : turn.end() + 30].strip()}"
        if prose.startswith("|") and prose.count("|") - 1 > MOST_COLUMNS:
            yield f"{where}a table of {prose.count('|') - 1} columns; make it two"


def of_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings and comments of a module, each with its line number."""
    for node in ast.walk(ast.parse(text)):
        for statement in getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page that are not code."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
