"""The sides of the caption benchmark."""

from __future__ import annotations

import sys

import pytest

from benchmarks import captions, data_juicer


def test_data_juicer_is_left_out_with_a_line_where_it_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "data_juicer", None)
    assert captions.data_juicer_side() == {}
    assert capsys.readouterr().out == "data-juicer: not installed\n"


@pytest.mark.skipif(not data_juicer.is_installed(), reason=data_juicer.MISSING)
def test_data_juicer_counts_verbs_and_arcs_by_the_model_it_is_given() -> None:
    (counted,) = captions.data_juicer_side().values()
    rows = counted((), ["A dog chases a cat"])
    assert isinstance(rows, list)
    (row,) = rows
    (stats,) = (value for name, value in row.items() if name != "text")
    assert stats["num_action"] == 1
    assert stats["num_dependency_edges"] == [2, 2]
