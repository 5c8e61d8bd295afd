"""Choose the units that a pilot filters.

Many small units make a better sample than a few large ones. But a unit has a fixed cost (files,
footers), which small units spread over fewer rows. If the units of a run are much larger and the
sample has enough units, some of them are made longer than the others, so that both costs can be
estimated (see `estimate.recut`).
"""

from __future__ import annotations

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
"""Name of the output folder of a pilot in that of a run."""
LONG = 4
"""Number of neighboring units that are joined to a long one."""
LONG_SHARE = 3
"""One unit in so many is a long one, and at least 2 are."""
_MOST_UNITS = 20_000


@dataclass(frozen=True)
class Sampling:
    """A sample and the whole that it represents."""

    whole: Plan
    """The plan that a run would make."""
    plan: Plan
    """The units to filter."""
    of: int
    """Number of units that they were drawn from."""
    recut: bool
    """Whether these units are smaller than those of `whole`."""

    @property
    def said(self) -> str:
        """The size of the sample and of the whole, for messages."""
        rows = sum(unit.span.rows for unit in self.plan.units)
        longer = f", {rows:,} of {counted(self.whole.rows, 'row')}" if self.recut else ""
        return f"{len(self.plan.units):,} of {counted(self.of, 'unit')}{longer}"


def sampling(settings: RunSettings, count: int | None, share: float | None, seed: int) -> Sampling:
    """Draw the units of a pilot.

    Args:
        count: number of units; None: by `share`, else `UNITS`.
        share: fraction of all units; where some are made longer than others, of the rows.

    Raises:
        WrongUse: the input has no readable rows, `count` and `share` are both given, `count` is below 1, or `share`
            is not above 0 and at most 1.
        ManifestError, PlanMismatch: see `make_plan`.
    """
    whole = _plan(settings, settings.unit_rows)
    unreadable = whole.unreadable
    if not whole.units:
        files = counted(len(unreadable), "file")
        why = f" ({files} that cannot be, first {in_words(unreadable[0])})" if unreadable else ""
        raise WrongUse(f"{settings.input}: the manifests hold no rows that can be read{why}")
    fine = _finer(settings, whole)
    if fine is not None:
        # Long units make the rows of the sample more than those of `count` small ones, by this factor.
        wanted = _count(len(fine.units), count, share, longer=1 + (LONG - 1) / LONG_SHARE)
        chosen = _two_sizes(fine.units, wanted, random.Random(seed))
        if chosen is not None:
            return Sampling(whole, part_of(fine, chosen), len(fine.units), recut=True)
    wanted = _count(len(whole.units), count, share)
    chosen = [whole.units[place] for place in sorted(random.Random(seed).sample(range(len(whole.units)), wanted))]
    return Sampling(whole, part_of(whole, chosen), len(whole.units), recut=False)


def _plan(settings: RunSettings, unit_rows: int | None) -> Plan:
    cores = 1 if settings.unit_rows else settings.workers
    # The pilot's output may be a folder in that of a run, whose results are not input.
    results = settings.output.parent if settings.output.name == FOLDER else settings.output
    return make_plan(settings.input, settings.dataset, cores, unit_rows, settings.output, results)


def _finer(settings: RunSettings, whole: Plan) -> Plan | None:
    """Return a plan with smaller units than a run's, where files can be divided. Return None if the user set the size
    of units, or if a run's units are on average no longer than a long unit of the sample."""
    size = max(UNIT_ROWS[0], -(-whole.rows // _MOST_UNITS))
    if settings.unit_rows or whole.rows <= LONG * size * len(whole.units):
        return None
    return _plan(settings, size)


def _count(units: int, count: int | None, share: float | None, longer: float = 1.0) -> int:
    if count is not None and share is not None:
        raise WrongUse(f"{spelled_option('units')} and --share both set the size of the sample; give only one")
    if share is not None:
        if not 0 < share <= 1:
            raise WrongUse(f"--share is {share}; it must be above 0 and at most 1")
        count = max(1, round(share / longer * units))
    count = min(UNITS if count is None else count, units)
    if count < 1:
        raise WrongUse(f"{spelled_option('units', 0)}: a sample has at least 1 unit")
    return count


def _two_sizes(units: Sequence[Unit], count: int, dice: random.Random) -> list[Unit] | None:
    """Draw units of two sizes, in plan order; None if `count` allows no 2 of each size, or the units do not suffice."""
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
            if taken.isdisjoint(places) and (unit := _joined(units[place : place + length], length)) is not None:
                chosen[place] = unit
                taken.update(places)
        if len(chosen) < wanted:
            return None
    return [chosen[place] for place in sorted(chosen)]


def _joined(units: Sequence[Unit], length: int) -> Unit | None:
    """Join neighboring units; None if they are too few or lie in different files."""
    first, last = units[0], units[-1]
    if len(units) < length or last.span.path != first.span.path:
        return None
    if length == 1:
        return first
    rows, exact = sum(unit.span.rows for unit in units), all(unit.span.exact for unit in units)
    return Unit(f"{first.name}x{length}", replace(first.span, stop=last.span.stop, rows=rows, exact=exact))
