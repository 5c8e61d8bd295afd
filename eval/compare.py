"""Two models on the same items: `make compare A=out/bench/one B=out/bench/other`.

Reads the results of two runs of `make bench`, tests what both measured on the same items, and writes compare.json and
compare.md.

Exit status: 0 compared; 1 nothing could be compared, or a file is broken; 2 wrong use, nothing was written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from open_diht.common.command_line import OK, Parser, WrongUse, complain, exit_status, say
from open_diht.common.files import publish_bytes, publish_json
from open_diht.eval.comparison import compare
from open_diht.eval.comparison_table import to_markdown
from open_diht.eval.errors import EvalError


def main(arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval.compare") -> int:
    """Run the command line; returns the exit status. `prog` is what the command is called in its help."""
    parser = Parser(prog=prog, description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("a", type=Path, metavar="A", help="results of the first model (a folder of `make bench`)")
    parser.add_argument("b", type=Path, metavar="B", help="results of the second")
    parser.add_argument("--output", type=Path, help="folder for compare.json and compare.md (default: B's)")
    return exit_status(lambda: _compare(parser.parse_args(arguments)), failed=(EvalError,))


def _compare(options: argparse.Namespace) -> int:
    for name, folder in (("A", options.a), ("B", options.b)):
        if not folder.name:
            raise WrongUse(f"{name} is missing; say `make compare A=out/bench/one B=out/bench/other`")
    if options.a.resolve() == options.b.resolve():
        raise WrongUse(f"A and B are the same folder, {options.a}")
    comparison = compare(options.a, options.b)
    output = options.output or options.b
    publish_json(output / "compare.json", asdict(comparison))
    text = to_markdown(comparison)
    publish_bytes(output / "compare.md", text.encode("utf-8"))
    say(text)
    tested = [found.p for found in comparison.tasks] + [found.p for found in comparison.few_shot]
    if all(p is None for p in tested):
        return complain("no task could be compared; the table says why")
    return OK


if __name__ == "__main__":
    sys.exit(main())
