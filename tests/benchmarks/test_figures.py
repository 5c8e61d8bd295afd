"""The command of the figures: what it keeps, refuses and publishes."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import __main__ as command
from benchmarks.figures import chart, page
from benchmarks.figures.figure import Figure, Side

TWO = Figure(
    "Captions",
    "captions/core-s",
    "5,000 captions.",
    [Side("peer", "1.6.1", {"threads": 1}, [10, 20, 40]), Side("ours", "", {}, [30, 40, 160])],
    base="peer",
)


def part(**changes: Any) -> dict[str, Any]:
    """Return a measured part."""
    about = {"kind": "time", "commit": "0123abcd", "date": "2026-12-02", "cores": 2, "others": 0.0}
    machine = {"processor": "a Xeon", "kernel": "6", "python": "3.11", "BLAS": "OpenBLAS"}
    return {**about, **machine, "figures": [asdict(TWO)], **changes}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of published figures, with a page."""
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    monkeypatch.setattr(page, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(page, "CHART", tmp_path / "figures.svg")
    page.RESULTS.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n", encoding="utf-8")
    return tmp_path


def test_ratios_are_those_of_a_repeat() -> None:
    assert TWO.ratios("ours") == [2, 3, 4]
    with pytest.raises(ValueError, match="its base 'other'"):
        Figure("a", "s", "", TWO.sides, base="other")
    with pytest.raises(ValueError, match="as many repeats"):
        Figure("a", "s", "", [TWO.sides[0], Side("ours", "", {}, [1])], base="peer")


def test_a_base_of_zero_has_no_ratios() -> None:
    none = Figure(
        "Failures", "failures", "", [Side("peer", "1", {}, [0]), Side("ours", "", {}, [2])], "peer"
    )
    assert [*page.table([none])][2:] == ["| peer | 1 | 0.00 |", "| ours |  | 2.00 |"]


def test_figures_with_the_same_sides_share_a_table() -> None:
    memory = replace(
        TWO, name="Memory", unit="MiB", sides=[replace(side, values=[64]) for side in TWO.sides]
    )
    alone = replace(TWO, name="Alone", sides=TWO.sides[1:], base="")
    groups = page.alike([TWO, alone, memory])
    assert groups == [[TWO, memory], [alone]]
    assert [*page.table(groups[0])] == [
        "| side | version | Captions, captions/core-s | Memory, MiB |",
        "|---|---|--:|--:|",
        "| peer | 1.6.1 | 20.0 | 64.0 |",
        "| ours |  | 40.0 (3.00x, 2.00 to 4.00) | 64.0 |",
    ]
    assert [len(group) for group in page.alike([TWO] * 6)] == [5, 1]


def test_a_part_that_was_not_measured_stays_as_published(folder: Path) -> None:
    page.publish({"captions": part(), "ocr": part()})
    page.publish({"people": part(kind="quality")})
    page.publish({"ocr": part(commit="4567abcd", date="2026-12-03")})
    assert sorted(file.name for file in folder.glob("*.json")) == [
        "2026-12-02-0123abcd-quality.json",
        "2026-12-03-4567abcd.json",
    ]
    commits = {name: one["commit"] for name, one in page.published().items()}
    assert commits == {"captions": "0123abcd", "people": "0123abcd", "ocr": "4567abcd"}
    text = page.RESULTS.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| ours |  | 40.0 (3.00x, 2.00 to 4.00) |" in text


def test_the_page_has_the_published_figures() -> None:
    text = page.RESULTS.read_text(encoding="utf-8")
    made = text.partition(page.BEGIN)[2].partition(page.END)[0]
    parts = page.published()
    assert made == page.rendered(parts), "run python -m benchmarks.figures --write"
    assert page.CHART.read_text(encoding="utf-8") == chart.drawn(parts)


def test_nothing_is_published_from_a_machine_that_others_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "git", lambda *_: "")
    loud = {"captions": part(others=0.5), "ocr": part(), "people": part(kind="quality", others=2)}
    assert "during captions (0.50 cores);" in command.publishable(loud)
    assert not command.publishable({"ocr": part(others=0.1)})
    monkeypatch.setattr(command, "git", lambda *_: " M setup.py")
    assert command.publishable({"ocr": part()})


def test_finished_parts_are_measured_again_only_where_others_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def measure(name: str, quick: bool, file: Path) -> dict[str, Any]:
        asked.append(name)
        file.write_text("[]", encoding="utf-8")
        return part(seconds=1.0, others=0.5 if name == "b" else 0.0)

    for name in "ab":
        module = types.SimpleNamespace(MINUTES=1, PEERS=None)
        monkeypatch.setitem(sys.modules, f"benchmarks.figures.parts.{name}", module)
    monkeypatch.setattr(command, "PARTS", ["a", "b"])
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "git", lambda *words: "abc" if words[0] == "rev-parse" else "")
    monkeypatch.setattr(command, "measure", measure)
    assert command.main([]) == 1 and command.main([]) == 1
    assert asked == ["a", "b", "b"]
    assert json.loads((tmp_path / "out/figures/abc/a.json").read_text())["others"] == 0
    with pytest.raises(SystemExit, match="no part 'c'"):
        command.main(["--only", "c"])


def test_time_that_a_process_of_ours_takes_is_not_others() -> None:
    began = command.own_s()
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    assert command.own_s() > began and command.busy_s() > 0
