"""The page of a pilot, for people who decide about a run: the answer, then what it rests on."""

from collections.abc import Mapping
from typing import Any

from open_diht.common.html.charts import interval_bar
from open_diht.common.html.page import render_page
from open_diht.pipelines.pilot.estimate import Estimate
from open_diht.pipelines.pilot.forecast import Forecast, in_words, percent, run_in_words
from open_diht.pipelines.pilot.probe import Probe
from open_diht.pipelines.report.funnel import FunnelRecord


def render_pilot(
    content: Mapping[str, Any], run: Forecast, probed: Probe | None, funnel: FunnelRecord
) -> str:
    """Return the page as one HTML file that loads nothing. `content` is that of pilot.json."""
    lines = run_in_words(run)
    return render_page(
        "open_diht.pipelines.report",
        "pilot.html.j2",
        pilot=content,
        answer=run.run,
        lines=lines,
        value={name: line[1] for name, line in zip(run.run, lines, strict=True)},
        is_alive="kept, alive" in run.rows,
        rates=_bars(run.rates),
        alive=_bars(probed.rates) if probed else [],
        funnel=funnel,
        link=lambda reason: "",  # the page has no examples
    )


def _bars(rates: Mapping[str, Estimate]) -> list[tuple[str, str, str, str]]:
    """Return (name, value, interval, bar as HTML) of each rate, the largest first."""
    return [
        (name, *in_words(rate, percent), interval_bar(rate.value, rate.low, rate.high, None))
        for name, rate in sorted(rates.items(), key=lambda one: -one[1].value)
    ]
