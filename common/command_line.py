"""Words of a command line to values, for every command: what is wrong is said with the value and the remedy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, get_args

from common.fields import BadValue, converted


def number(hint: Any) -> Callable[[str], Any]:
    """For `type=` of argparse: a word as the number that the hint describes, such as `Positive` or `Share`."""
    kind = get_args(hint)[0]

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = text
        try:
            return converted(hint, value, "the value")
        except BadValue as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parse
