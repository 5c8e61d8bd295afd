"""Only command lines print: what stands below them tells `say`, or logs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "filters", "pipelines", "trainer", "eval", "study")
SAYS = "common/command_line.py"
"""What command lines print with."""


def prints(text: str) -> bool:
    """Whether `print` is named in a file that is no command line, one without a `main`."""
    tree = ast.parse(text)
    named = any(isinstance(node, ast.Name) and node.id == "print" for node in ast.walk(tree))
    made = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    names += [target.id for target in made if isinstance(target, ast.Name)]
    return named and "main" not in names


def test_only_command_lines_print():
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 250
    found = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if prints(path.read_text(encoding="utf-8"))
    }
    assert found == {SAYS}


@pytest.mark.parametrize(
    "text", ["print('here')", "def run(say=print): ...", "def run():\n    print('here')"]
)
def test_a_print_is_seen(text):
    assert prints(text)
    assert not prints(f"{text}\ndef main(): ...") and not prints(f"{text}\nmain = command(run)")
