"""The parts of the figures: that each measures all of its sides, in its short form."""

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks.figures.__main__ import PARTS
from benchmarks.figures.peers import is_made
from benchmarks.figures.turns import PROGRAMS, Process, locked

SHORT = ("overlap", "copies", "download")
"""Others take a minute each, or need more weights of OCR; CI measures two of them with their
peers by `make figures`."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name in SHORT else pytest.param(name, marks=pytest.mark.soak) for name in PARTS],
)
def test_a_part_measures_all_of_its_sides(name: str, tmp_path: Path) -> None:
    part = import_module(f"benchmarks.figures.parts.{name}")
    figures = part.measure(True, tmp_path)
    least = 2 if part.PEERS is None or is_made(part.PEERS) else 1
    assert figures and len({(figure.name, figure.unit) for figure in figures}) == len(figures)
    for figure in figures:
        values = {side.name: side.values for side in figure.sides}
        assert figure.base in {"", *values}, figure.name
        assert len(values) == len(figure.sides) >= least, figure.name
        assert len(set(map(len, values.values()))) == 1, f"{figure.name}: {values}"
        assert all(value >= 0 for some in values.values() for value in some), figure.name


def test_a_side_answers_in_its_own_process_and_its_end_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "side.py"
    program.write_text(
        "print('loading')\n"
        "def start(by):\n"
        "    try:\n        import json as hidden\n    except ImportError:\n        hidden = None\n"
        "    return lambda n: [n * by, hidden is None, 1 // n]\n"
    )
    with Process(program, "start", without=["json"], by=3) as side:
        assert side.ask(1).value == [3, True, 1]
        assert side.ask(2).mib > 1
        with pytest.raises(RuntimeError, match=r"side\.py start ended: (.|\n)*ZeroDivisionError"):
            side.ask(0)


def test_peers_run_the_libraries_of_our_lock() -> None:
    """A peer that runs other versions of spaCy or NumPy would be compared with those too."""
    ours = (PROGRAMS.parents[2] / "requirements.lock").read_text(encoding="utf-8")
    for asked in PROGRAMS.glob("*.in"):
        _, _, shared = asked.read_text(encoding="utf-8").partition("\n# the versions of")
        for requirement in shared.splitlines()[1:]:
            assert f"\n{requirement} \\\n" in ours, f"{asked.name}: {requirement}"
            package, _, version = requirement.partition("==")
            assert locked(asked.stem, package) == version
