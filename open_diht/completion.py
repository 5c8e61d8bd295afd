"""Completion of `open-diht` in a shell: what `open-diht completion bash` prints makes the shell run
`open-diht` at each Tab, with the line so far in its environment, and argcomplete answers."""

import argparse
import os
from collections.abc import Sequence

from argcomplete.shell_integration import shellcode

from open_diht.common.command_line import COMPLETING, OK, Parser, command

SHELLS = {
    "bash": 'eval "$(open-diht completion bash)", in ~/.bashrc',
    "zsh": 'eval "$(open-diht completion zsh)", in ~/.zshrc behind compinit',
    "fish": "open-diht completion fish | source, in ~/.config/fish/config.fish",
}


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.completion"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process."""
    how = "; ".join(f"{shell}: {line}" for shell, line in SHELLS.items())
    parser = Parser(prog, f"Print the code that completes commands and options. {how}.")
    parser.add_argument("shell", choices=SHELLS)
    return parser.parse_args(arguments)


def _print(options: argparse.Namespace) -> int:
    print(shellcode(["open-diht"], shell=options.shell))
    return OK


main = command(parse, _print)


def command_to_complete(commands: Sequence[str]) -> list[str]:
    """Return the command of the line that a shell completes, whose parser then answers. Answer with
    the names of commands, and end the process, where the command itself is being typed."""
    line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    typed = line.split()[1:]
    if len(typed) > 1 or (typed and line[-1].isspace()):
        os.environ[COMPLETING] = "2"  # arguments begin behind two words
        return typed[:1]
    parser = Parser("open-diht", "")
    parser.add_argument("command", choices=commands)
    parser.parse_args([])
    raise AssertionError("the parser has answered and ended the process")


if __name__ == "__main__":
    raise SystemExit(main())
