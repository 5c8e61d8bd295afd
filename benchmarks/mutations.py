"""Change the code at random places, one at a time, and count the changes that the tests notice.

    python -m benchmarks.mutations [--each 4] [--seed 48] [PART ...]

A change flips one comparison (`<` to `<=`, `==` to `!=`), adds 1 to an integer or subtracts it,
exchanges `and` and `or`, or drops a `not`. `--each` changes are drawn at random from all those of a
part, a folder or a file. Each is tested in a copy of the tree by quick tests: those of the file
that mirrors the module. A module without such a file is tested by the files of the mirrored folder
that import it, else by all files that import it, else by the whole mirrored folder.
"""

import ast
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring import parser_of, print_table
from open_diht.common.statistics import wilson

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("filters", "pipelines/engine", "pipelines/store", "trainer/losses", "eval/metrics")
_NOT_COPIED = (".git", ".venv", ".tools", "out", "*.egg-info", ".*_cache")
_SECONDS = 300  # of one test, several times as long as the slowest takes, and of CPU time of all
_IMPORTED = ("apache_beam", "hypothesis", "pyarrow.parquet", "scipy", "spacy", "torch")
_PAIRS = ((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn),
          (ast.Is, ast.IsNot), (ast.And, ast.Or))  # fmt: skip
_OTHER: dict[type[ast.AST], type[Any]] = {
    kind: other for pair in _PAIRS for kind, other in (pair, pair[::-1])
}


def changes(tree: ast.AST) -> Iterator[tuple[ast.expr, str, object]]:
    """Yield each change as a node, the name of one of its fields, and the field's new value."""
    for node in ast.walk(tree):
        match node:
            case ast.Compare(ops=operators):
                for at, operator in enumerate(operators):
                    flipped = _OTHER[type(operator)]()
                    yield node, "ops", [*operators[:at], flipped, *operators[at + 1 :]]
            case ast.BoolOp(op=operator):
                yield node, "op", _OTHER[type(operator)]()
            case ast.UnaryOp(op=ast.Not(), operand=operand):  # a second `not` undoes the first
                yield node, "operand", ast.UnaryOp(ast.Not(), operand)
            case ast.Constant(value=int(value)) if not isinstance(value, bool):
                yield node, "value", value + 1
                yield node, "value", value - 1


def tests_of(module: Path) -> list[Path]:
    """Return the test files of a module; paths are relative to the repository."""
    name = module.parent if module.stem == "__init__" else module.with_suffix("")
    folder = ROOT / "tests" / name.parent
    mirror = folder / f"test_{name.name}.py"
    imported = f"{'.'.join(('open_diht', *name.parts))} "
    near = sorted(folder.glob("test_*.py"))
    found = [mirror] if mirror.is_file() else []
    for files in (near, sorted((ROOT / "tests").rglob("test_*.py"))):
        found = found or [file for file in files if imported in file.read_text(encoding="utf-8")]
    return [file.relative_to(ROOT) for file in found or near]


def noticed(copy: Path, tests: Sequence[Path], *options: str) -> bool:
    """Run tests in a copy of the tree. Return whether one fails or hangs."""
    child = os.fork()
    if not child:
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        os.chdir(copy)
        sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.startswith(("open_diht", "benchmarks"))]:
            del sys.modules[name]
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(pytest.main(["-x", "-q", f"--timeout={_SECONDS}", *options, *map(str, tests)]))
    return os.waitpid(child, 0)[1] != 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each change and whether it was noticed, then the rate of each part."""
    parser = parser_of("benchmarks.mutations", __doc__)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART")
    parser.add_argument("--each", type=int, default=4, help="number of changes of each part")
    parser.add_argument("--seed", type=int, default=48, help="seed of the draws")
    options = parser.parse_args(arguments)
    drawn = []
    for part in options.parts:
        files = [ROOT / part] if (ROOT / part).is_file() else sorted((ROOT / part).rglob("*.py"))
        trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
        places = [(file, n) for file, tree in trees.items() for n, _ in enumerate(changes(tree))]
        random.Random(options.seed).shuffle(places)
        drawn += [(turn, part, *place) for turn, place in enumerate(places[: options.each])]
    for name in _IMPORTED:  # once: they take longer than most tests
        import_module(name)
    # Python takes bytecode for fresh if the size and the second of its source are the same.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    hits = {part: list[bool]() for part in options.parts}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        (copy / ".tools").symlink_to(ROOT / ".tools")
        for _, part, file, number in sorted(drawn):
            module = file.relative_to(ROOT)
            tests = tests_of(module)
            source = file.read_text(encoding="utf-8")
            tree = ast.parse(source)
            node, field, value = list(changes(tree))[number]
            before = ast.unparse(node)
            setattr(node, field, value)
            (copy / module).write_text(ast.unparse(tree), encoding="utf-8")
            hit = noticed(copy, tests)
            (copy / module).write_text(source, encoding="utf-8")
            if hit and noticed(copy, tests, "--lf"):
                parser.error(f"a test of {module} fails without a change, too; see {tests}")
            hits[part].append(hit)
            outcome = "noticed " if hit else "SURVIVED"
            print(f"{outcome} {module}:{node.lineno}: {before} -> {ast.unparse(node)}", flush=True)
    hits["all"] = [hit for part in options.parts for hit in hits[part]]
    rows = []
    for part, each in hits.items():
        low, high = wilson(sum(each), len(each))
        rows.append((part, len(each), sum(each), f"{low:.2f}", f"{high:.2f}"))
    print_table(("part", "changes", "noticed", "rate, lowest", "rate, highest"), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
