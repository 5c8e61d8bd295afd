"""Command line of `open-diht publish`, parsed before libraries load."""

import argparse
from collections.abc import Sequence

from open_diht.common.command_line import Parser


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.trainer.hub"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process."""
    parser = Parser(prog, "Publish an exported model on the Hugging Face hub.")
    parser.add_argument(
        "folder",
        help="WORKDIR/export, its URL, or the output of python -m open_diht.trainer.released",
    )
    parser.add_argument("target", help="hf://owner/name")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_script_options()
    return parser.parse_args(arguments)
