"""Command line of `make study`: parses options and runs the claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open_diht.common.command_line import Parser, WrongUse, check_folder, exit_status
from open_diht.eval.errors import EvalError
from study.rows import CLAIMS, CPU, GPU, GPU_TINY, Rows

SCALES = ("full", "quick", "tiny")
CLAIMS_OF = {CPU: CLAIMS, GPU: ("cat", "concepts", "negatives")}
"""The claims of each track. Few-shot trains no towers; the others on the CPU alone use features."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m study") -> int:
    parser = Parser(prog=prog, description="The paper's claims and their rivals in miniature.")
    parser.add_argument(
        "--study", choices=SCALES, default="full", help="how much: full (default), quick or tiny"
    )
    parser.add_argument(
        "--track",
        choices=list(CLAIMS_OF),
        default=CPU,
        help=(
            "what learns: cpu (default), small towers; gpu, a ViT-S/16 at 112 pixels on CUDA (with"
            " --study tiny a tiny ViT on the CPU), only the claims cat, concepts and negatives. No"
            " GPU has run it yet"
        ),
    )
    parser.add_argument(
        "--claims", help=f"comma-separated, of {','.join(CLAIMS)} (default all of the track)"
    )
    parser.add_argument(
        "--data",
        help=(
            "folder of the sets (default out/study-data; tiny draws its own, in the folder of the"
            " results)"
        ),
    )
    parser.add_argument(
        "--output", help="folder of the results (default out/study; of tiny, out/study-tiny)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--page", type=Path, metavar="DIR", help="run nothing: make the pages of the results in DIR"
    )
    instead.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help=(
            "run nothing: print which changes between arms of the results lie outside the intervals"
            " of those in DIR, such as study/results; status 1 if there is any"
        ),
    )

    def run() -> int:
        options = parser.parse_args(arguments)
        # With drawn shapes, whose rows must not be compared with those of photographs.
        tiny = options.study == "tiny"
        output = Path(options.output or ("out/study-tiny" if tiny else "out/study"))
        claims = _claims(options.claims, options.track)
        check_folder("OUTPUT", output)
        if tiny and options.data:
            raise WrongUse(
                "--study tiny draws its own data; leave --data out, or run --study quick on yours"
            )
        # These import torch and open_clip, which would delay the help and the report of a typing
        # error.
        from study import synthetic
        from study.data import DRAWN, Data
        from study.run import compare_rows, make_pages, study

        if options.page:
            return make_pages(Rows(output), options.page)
        if options.compare:
            return compare_rows(Rows(output), Rows(options.compare))
        track = _runnable(options.track, options.study)
        folder = Path(options.data or "out/study-data")
        if tiny:
            folder = output / "data"
            synthetic.write_synthetic(folder)
        data = Data(folder, output / "cache", drawn=synthetic.DRAWN if tiny else DRAWN)
        return study(track, options.study, claims, data, Rows(output))

    stopped = "stopped; finished arms are kept; run the same command to resume"
    return exit_status(run, failed=(EvalError,), stopped=stopped)


def _runnable(track: str, scale: str) -> str:
    """Return the track of the rows. Raises `WrongUse` if it needs a GPU and there is none."""
    if track != GPU:
        return track
    if scale == "tiny":
        return GPU_TINY
    import torch

    if not torch.cuda.is_available():
        raise WrongUse(
            f"track gpu needs a GPU, and torch {torch.__version__} sees none: run it where there is"
            " one, --track cpu anywhere, or --study tiny, which tries the track's code on the CPU"
        )
    return track


def _claims(text: str | None, track: str) -> list[str]:
    there = CLAIMS_OF[track]
    names = list(there) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CLAIMS:
            raise WrongUse(f"claim {name!r} is unknown; there are {', '.join(CLAIMS)}")
        if name not in there:
            raise WrongUse(f"the claim {name} is not part of track {track}: use --track cpu")
    return names
