"""What a session of pytest skipped: counted by reason at its end, and kept for `--skipped` of the
next one."""

from collections import Counter
from typing import Any

import pytest

KEY = "open-diht/skipped"


class Skips:
    """The skipped tests of a session, and the files that a missing package skips as a whole."""

    def __init__(self, config: pytest.Config):
        self._config = config
        self._reasons = dict[str, str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            # Of an expected failure it is none.
            self._reasons[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.pytest_runtest_logreport(report)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if not config.getoption("--skipped"):
            return
        last = {*config.cache.get(KEY, ())}  # type: ignore[union-attr]  # the cache is a plugin of pytest's own
        again = [item for item in items if last & {node.nodeid for node in item.listchain()}]
        config.hook.pytest_deselected(items=[item for item in items if item not in again])
        items[:] = again

    def pytest_sessionfinish(self) -> None:
        # Workers of pytest-xdist do not pass on which files they skipped as a whole.
        if hasattr(self._config, "workerinput"):
            self._config.workeroutput["skipped"] = self._reasons  # type: ignore[attr-defined]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A crashed worker has none.
        self._reasons |= getattr(node, "workeroutput", {}).get("skipped", {})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if hasattr(self._config, "cache"):  # absent with -p no:cacheprovider
            self._config.cache.set(KEY, sorted(self._reasons))  # type: ignore[union-attr]
        if not self._reasons:
            return
        terminalreporter.section(
            f"{len(self._reasons)} skipped; after a remedy: make test ARGS=--skipped"
        )
        found = Counter(
            reason if "::" in node else f"{reason} (all of {node})"
            for node, reason in self._reasons.items()
        )
        for reason, count in found.most_common():
            terminalreporter.write_line(f"{count:5}  {' '.join(reason.split())}")
