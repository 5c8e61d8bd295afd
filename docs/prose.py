"""Find prose that readers have to read twice: python -m docs.prose.

Docstrings, comments, messages and Markdown are searched for archaic or translated turns, for
British spelling and for tables of more than eight columns. Docstrings and comments are also
searched for fragments at their beginning, pages for sentences of more than thirty words, and all
files for the marks of merge conflicts.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXEMPT = ("tests/", "data/", "benchmarks/labels/")
WORDS = ("docs/prose.py", "filters/captions/normalize.py", "filters/captions/parse.py")
"""Files whose texts are lists of words, so that only their docstrings and comments are checked."""
MOST_COLUMNS = 8
MOST_WORDS = 30
LONG = (
    "README.md",
    "CHANGELOG.md",
    "benchmarks/",
    "docs/claims",
    "docs/reference/api/",
    "docs/reference/training-settings.md",
    "docs/study",
    "docs/tasks/",
    "docs/which-",
)
"""Pages whose sentences are not counted: those made from rows of the study or from docstrings,
figures, the list of changes, and README."""
FRAGMENT = re.compile(r"(Of|Those|The same|What|As|Its|Who|Whether) ")
TURN = re.compile(
    r"\b(anew|at hand|beside|besides|goes on|go on|is said|are said|set aside|sets aside|who"
    r" reads|what becomes of|"
    r"broken off|garbled|torn|nobody|whoever|none of which|thereof|licen[c]e[sd]?|colou?rs?"
    r" of|neighbours?|normalis\w+|"
    r"recognis\w+|behaviours?)\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^\sa-z])|(?<=[:;])\s+")
"""The gap behind a sentence. What stands behind a colon or a semicolon is read on its own."""
CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|\"[^\"]*\"")


def main() -> int:
    """Print each odd sentence and each mark of a merge conflict. Return 1 if there is any, else
    0."""
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = [
        line
        for name in files.stdout.split()
        if not name.startswith(EXEMPT) and not (ROOT / name).is_symlink()
        for line in odd(ROOT / name, messages=name not in WORDS)
    ]
    marks = subprocess.run(
        ["git", "grep", "-nE", "^(<<<<<<<|>>>>>>>) "], cwd=ROOT, capture_output=True, text=True
    )
    found += [f"{mark} is left of a merge" for mark in marks.stdout.splitlines()]
    print("\n".join(found), end="\n" * bool(found))
    return int(bool(found))


def odd(path: Path, messages: bool = True) -> Iterator[str]:
    """Yield a line for each odd sentence of a Python or Markdown file: where it is, and what is
    odd.

    Args:
        path: the file.
        messages: whether to check the texts in Python code.
    """
    text = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT))
    if path.suffix == ".md" and not name.startswith(LONG):
        for number, sentence in sentences(text):
            words = len(re.findall(r"\S*\w\S*", re.sub(r"`[^`]*`", "x", sentence)))
            if words > MOST_WORDS:
                yield f"{name}:{number}: a sentence of {words} words; make it two: {sentence[:60]}"
            if turn := re.search(r"(?<!each |some |both |most )\bof which\b", sentence):
                yield f"{name}:{number}: {turn.group()!r}: {sentence[:60]}"
    lines = ((number, line, False) for number, line in of_markdown(text))
    for number, prose, begins in lines if path.suffix == ".md" else of_python(text, messages):
        prose = CODE.sub("", prose)
        where = f"{name}:{number}: "
        if begins and FRAGMENT.match(prose):
            yield f"{where}begins with a fragment: {prose[:60]}"
        for turn in TURN.finditer(prose):
            yield (
                f"{where}{turn.group()!r}:"
                f" {prose[max(0, turn.start() - 30) : turn.end() + 30].strip()}"
            )
        columns = len(re.findall(r"(?<!\\)\|", prose)) - 1
        if prose.startswith("|") and columns > MOST_COLUMNS:
            yield f"{where}a table of {columns} columns; make it two"


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield the sentences of a page, each with the line at which its paragraph begins. Tables,
    headings and code are left out."""
    paragraph: list[tuple[int, str]] = []
    for number, line in [*of_markdown(text), (0, "")]:
        begins = re.match(r"\s*(?:[-*]|\d+\.) |\s*\||#|<!--|    |\s*$", line)
        follows = paragraph and number == paragraph[-1][0] + 1
        if paragraph and (begins or not follows):
            words = " ".join(part.strip() for _, part in paragraph)
            plain = re.sub(r"\]\([^)]*\)", "]", words)
            yield from ((paragraph[0][0], sentence) for sentence in SENTENCE.split(plain))
            paragraph = []
        if line.strip() and not re.match(r"\s*\||#|<!--|    ", line):
            paragraph.append((number, line))


def of_python(text: str, messages: bool) -> Iterator[tuple[int, str, bool]]:
    """Yield docstrings, comments and texts of four words or more, each with its line and whether
    fragments are checked. The docstring of an attribute may begin with "Whether"."""
    nodes = list(ast.walk(ast.parse(text)))
    first = {
        id(statement.value): index == 0
        for node in nodes
        if isinstance(body := getattr(node, "body", None), list)
        for index, statement in enumerate(body)
        if isinstance(statement, ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in first:
                yield (
                    node.lineno,
                    node.value if first[id(node)] else node.value.removeprefix("Whether "),
                    True,
                )
            elif messages and node.value.count(" ") > 2:
                yield node.lineno, node.value, False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# "), True


def of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page that are not code."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line


if __name__ == "__main__":
    sys.exit(main())
