"""Spell commands and options in messages as the user typed them: for `open-diht`, or for make.

The Makefile passes the names of its variables in the environment of the commands that it runs.
"""

import os
import shlex

MAKE_VARIABLES = "OPEN_DIHT_MAKE"
"""Environment variable with the names of the Makefile's variables; absent if make did not start the
command."""


def spelled(command: str, *words: str, **options: object) -> str:
    """Return a command line: `open-diht filter --dataset sample`, or `make filter DATASET=sample`.
    `words` are arguments that are no options, such as `loss.beta=0.5`. Names of options have `_`
    for `-`."""
    named = {name.replace("_", "-"): str(value) for name, value in options.items()}
    variables = os.environ.get(MAKE_VARIABLES)
    if variables is None or command == "weights":  # the one command without a target
        program = "open-diht" if variables is None else ".venv/bin/open-diht"
        return shlex.join([program, command, *_as_options(named), *words])
    set_by_make = {
        name.upper(): value for name, value in named.items() if name.upper() in variables.split()
    }
    rest = [
        *_as_options({name: named[name] for name in named if name.upper() not in set_by_make}),
        *words,
    ]
    if rest:
        set_by_make["ARGS"] = shlex.join(rest)
    return " ".join(
        ["make", command, *(f"{name}={shlex.quote(value)}" for name, value in set_by_make.items())]
    )


def spelled_option(name: str, value: object = None) -> str:
    """Return an option: `--stages captions` or `STAGES=captions`, or without a value `--stages` or
    `STAGES`."""
    name, variables = name.replace("_", "-"), os.environ.get(MAKE_VARIABLES)
    if variables is None or name.upper() not in variables.split():
        option = f"--{name}" if value is None else shlex.join(_as_options({name: str(value)}))
        return option if variables is None or value is None else f"ARGS={shlex.quote(option)}"
    return name.upper() if value is None else f"{name.upper()}={shlex.quote(str(value))}"


def _as_options(named: dict[str, str]) -> list[str]:
    """Return options as words. A value that begins with - needs an equals sign."""
    return [
        word
        for name, value in named.items()
        for word in ([f"--{name}={value}"] if value.startswith("-") else [f"--{name}", value])
    ]
