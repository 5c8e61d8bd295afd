"""Average the weights of two exported models: `open-diht average A B --alpha 0.5 --output AB`.

This is WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903): A is a model before its fine-tuning and B
the same model after it. Their average is often better than B on data unlike those of the
fine-tuning, and still about as good on these.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from open_diht.common.command_line import OK, Parser, WrongUse, check_folder, command, number, say
from open_diht.common.fields import Share
from open_diht.common.files import sha256_file
from open_diht.common.run_command import ended_at_once
from open_diht.common.training_data import record_in
from open_diht.trainer.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor


def _on_disk(text: str) -> Path:
    if not text or "://" in text:  # a URL would become a folder of that name in the current one
        raise argparse.ArgumentTypeError(
            f"{text!r} is no folder on a disk; copy models there, and name it"
        )
    return Path(text)


def parse(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.trainer.average"
) -> argparse.Namespace:
    """Parse the command line, by default that of this process."""
    parser = Parser(
        prog=prog,
        description=(
            "Average the weights of two exported models, such as one before and after fine-tuning"
            " (WiSE-FT)."
        ),
    )
    parser.add_argument("a", metavar="A", type=_on_disk, help="WORKDIR/export of a model")
    parser.add_argument(
        "b", metavar="B", type=_on_disk, help="WORKDIR/export of a model of the same architecture"
    )
    parser.add_argument(
        "--alpha",
        type=number(Share),
        default=0.5,
        help="weight of B, 0 to 1; that of A is 1 - alpha (default: 0.5)",
    )
    parser.add_argument(
        "--output", type=_on_disk, required=True, help="folder of the average, which must not exist"
    )
    parser.add_script_options()
    return parser.parse_args(arguments)


class Export(NamedTuple):
    folder: Path
    description: dict[str, Any]
    """`model_cfg` and `preprocess_cfg` of open_clip."""
    weights: dict[str, Tensor]
    card: str
    sha256: str
    """SHA-256 of the file of weights."""

    @property
    def front(self) -> str:
        """The metadata at the beginning of the card, for hubs."""
        found = re.match(r"---\n.*?\n---\n", self.card, re.DOTALL)
        return found[0] if found else ""


def read(folder: Path) -> Export:
    """Read an exported model. Raises `BadExport` if the folder is not an export, or is damaged."""
    from open_diht.trainer.export import CARD, WEIGHTS, BadExport, described, read_weights

    description = described(folder)
    weights = read_weights(folder)
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
        return Export(folder, description, weights, card, sha256_file(folder / WEIGHTS))
    except (OSError, ValueError) as error:
        raise BadExport(
            f"{folder} is not an exported model ({error}); name WORKDIR/export"
        ) from error


def averaged(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return (1 - alpha) a + alpha b for weights of the same names and shapes, computed in float64.
    Whole numbers, such as counts of batches, are those of the nearer model. With alpha 0 or 1 the
    result equals a or b.
    """
    import torch

    nearer = a if alpha < 0.5 else b
    return {
        name: (
            torch.lerp(value.double(), b[name].double(), alpha).to(value.dtype)
            if value.is_floating_point()
            else nearer[name]
        )
        for name, value in a.items()
    }


def average(a: Path, b: Path, output: Path, alpha: float = 0.5) -> str:
    """Write the average of two exported models to a new folder, and return the call that loads it.

    Raises:
        BadExport: a folder is not an exported model, or is damaged.
        WrongUse: the models differ in more than their weights, or `output` exists.
        CannotExport: `output` cannot be written.
    """
    from open_diht.trainer.config_files import differences
    from open_diht.trainer.export import DESCRIPTION, export, loaded_by

    if output.exists():
        raise WrongUse(f"{output} exists; name a new folder for the average")
    first = read(a)
    second = read(b)
    shapes = [
        {name: (str(v.dtype), *v.shape) for name, v in one.weights.items()}
        for one in (first, second)
    ]
    if parameters := differences(shapes[0], shapes[1]):
        one, other = (shape.get(parameters[0], "not there") for shape in shapes)
        raise WrongUse(
            f"{a} and {b} have different architectures: {parameters[0]} is {one} in the first and"
            f" {other} in the second; average a model with one that was fine-tuned from it"
        )
    if settings := differences(first.description, second.description):
        raise WrongUse(
            f"{a} and {b} differ in {settings[0]} of {DESCRIPTION}, so their weights have no"
            " average"
        )
    model = first.description["model_cfg"]
    seen = first.description["preprocess_cfg"]
    call = loaded_by(model, None)
    weights = averaged(first.weights, second.weights, alpha)
    card = _card(first, second, alpha, call)
    export(output, model, weights, seen, card, [*record_in(a), *record_in(b)])
    return loaded_by(model, output)


def _card(a: Export, b: Export, alpha: float, call: str) -> str:
    """Return the card of the average: the models with their hashes, and their own cards below."""
    rows = "\n".join(
        f"| {name} | `{one.folder}` | `{one.sha256}` |" for name, one in (("A", a), ("B", b))
    )
    cards = "\n".join(
        f"## Card of {name}\n\n"
        + re.sub("^#", "###", one.card.removeprefix(one.front), flags=re.MULTILINE)
        for name, one in (("A", a), ("B", b))
    )
    return f"""{a.front}
# Average of two dual encoders

The weights are (1 - alpha) A + alpha B with alpha {alpha:g} (WiSE-FT, Wortsman et al. 2022,
arXiv:2109.01903). `{call}` loads them.

| model | folder | SHA-256 of its weights |
|---|---|---|
{rows}

{cards}"""


def _run(options: argparse.Namespace) -> int:
    check_folder("--output", options.output)
    with ended_at_once():  # torch takes seconds
        call = average(options.a, options.b, options.output, options.alpha)
    say(f"average in {options.output}/, for {call}")
    return OK


main = command(parse, _run, failed=(TrainingError,))

if __name__ == "__main__":
    raise SystemExit(main())
