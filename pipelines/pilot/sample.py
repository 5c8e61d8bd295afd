"""Choose the units that a pilot filters.

Many small units make a better sample than a few large ones. But a unit has a fixed cost (files,
footers), which small units spread over fewer rows. If the units of a run are much larger and the
sample has enough units, some of them are made longer than the others, so that the fixed cost and
the cost per row can be told apart (see `estimate.recut`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import counted
from open_diht.common.spelling import spelled_option
from open_diht.pipelines.manifests import in_words
from open_diht.pipelines.manifests.plan import UNIT_ROWS, Plan, Unit, make_plan, part_of
from open_diht.pipelines.pilot.options import UNITS
from open_diht.pipelines.settings import RunSettings

FOLDER = "pilot"
"""Name of a pilot's output folder, which lies in the run's output folder."""
LONG = 4
"""Number of neighboring units that are joined into a long one. A larger number would separate the
two costs better, but would make the sample take longer."""
LONG_SHARE = 3
"""One unit in this many is a long one. At least 2 are, since one shows no spread."""
_MOST_UNITS = 20_000
"""Bound of the units of a plan that is only made to draw from."""


@dataclass(frozen=True)
class Sampling:
    """A sample and the whole that it represents."""

    whole: Plan
    """The plan that a run would make."""
    plan: Plan
    """The units to filter."""
    of: int
    """Number of units that the units of `plan` were drawn from."""
    recut: bool
    """Whether the units of `plan` are smaller than those of `whole`."""


def sampling(settings: RunSettings, count: int | None, share: float | None, seed: int) -> Sampling:
    """Draw the units of a pilot. Their number is `count`, or the fraction `share` of all units, or
    `UNITS` if neither is given. If some units are made longer than others, `share` is a fraction of
    the rows. Raise WrongUse if the input has no readable rows or a number is wrong."""
    if count is not None and share is not None:
        raise WrongUse(
            f"{spelled_option('units')} and --share both set the size of the sample; give only one"
        )
    if share is not None and not 0 < share <= 1:
        raise WrongUse(f"--share is {share}; it must be above 0 and at most 1")
    if count is not None and count < 1:
        raise WrongUse(f"{spelled_option('units', 0)}: a sample has at least 1 unit")

    def cut(unit_rows: int | None) -> Plan:
        cores = 1 if settings.unit_rows else settings.workers
        # The pilot's output may be a folder in that of a run, whose results are not input.
        results = settings.output.parent if settings.output.name == FOLDER else settings.output
        return make_plan(
            settings.input, settings.dataset, cores, unit_rows, settings.output, results
        )

    def wanted(units: int, longer: float = 1.0) -> int:
        if share is not None:
            return max(1, round(share / longer * units))
        return min(UNITS if count is None else count, units)

    whole = cut(settings.unit_rows)
    dice = random.Random(seed)
    if not whole.units:
        files = counted(len(whole.unreadable), "file")
        why = (
            f" ({files} that cannot be, first {in_words(whole.unreadable[0])})"
            if whole.unreadable
            else ""
        )
        raise WrongUse(f"{settings.input}: the manifests hold no rows that can be read{why}")
    size = max(UNIT_ROWS[0], -(-whole.rows // _MOST_UNITS))
    # Units of a size that the user set are those of the run; others no longer than a long one are
    # near enough.
    if not settings.unit_rows and whole.rows > LONG * size * len(whole.units):
        fine = cut(size)
        # Long units make the rows of the sample more than those of as many small ones, by this
        # factor.
        chosen = two_sizes(
            fine.units, wanted(len(fine.units), longer=1 + (LONG - 1) / LONG_SHARE), dice
        )
        if chosen is not None:
            return Sampling(whole, part_of(fine, chosen), len(fine.units), recut=True)
        dice = random.Random(seed)
    places = dice.sample(range(len(whole.units)), wanted(len(whole.units)))
    chosen = [whole.units[place] for place in sorted(places)]
    return Sampling(whole, part_of(whole, chosen), len(whole.units), recut=False)


def two_sizes(units: Sequence[Unit], count: int, dice: random.Random) -> list[Unit] | None:
    """Draw units of two sizes, in plan order. Return None if `count` or the units do not suffice
    for 2 of each size."""
    long = max(2, count // LONG_SHARE)
    if count < long + 2:
        return None
    order = dice.sample(range(len(units)), len(units))
    taken: set[int] = set()
    chosen: dict[int, Unit] = {}
    for length, wanted in ((LONG, long), (1, count)):  # long ones first: they need free neighbors
        for place in order:
            if len(chosen) == wanted:
                break
            places = range(place, place + length)
            joined = units[place : place + length]
            first = joined[0]
            last = joined[-1]
            # Neighbors at the end of the plan are too few, and those in two files are no unit.
            if (
                len(joined) == length
                and first.span.path == last.span.path
                and taken.isdisjoint(places)
            ):
                chosen[place] = first if length == 1 else _joined(joined)
                taken.update(places)
        if len(chosen) < wanted:
            return None
    return [chosen[place] for place in sorted(chosen)]


def _joined(units: Sequence[Unit]) -> Unit:
    rows = sum(unit.span.rows for unit in units)
    exact = all(unit.span.exact for unit in units)
    span = replace(units[0].span, stop=units[-1].span.stop, rows=rows, exact=exact)
    return Unit(f"{units[0].name}x{len(units)}", span)
