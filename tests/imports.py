"""What a file imports, wherever in it: within functions and for type checks alone, too."""

import ast
from pathlib import Path


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that the file imports; `from a import b` gives `a` and `a.b`,
    whatever b is."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(path: Path) -> set[str]:
    """First names of all modules that the file imports; of `open_diht.X` it is X."""
    return {name.removeprefix("open_diht.").partition(".")[0] for name in imported(path)} - {
        "open_diht"
    }
