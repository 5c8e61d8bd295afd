"""What `make lint` finds in docstrings, comments and pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs import prose


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""Of each row whether it is kept."""\n', 1),
        ("a.py", '"""Return whether each row is kept."""\n', 0),
        ("a.py", "x = 1  # is read anew\n", 1),
        ("a.py", "x = 'anew'  # a string that the program prints\n", 0),
        ("a.py", '"""Return `set_aside` and "anew"."""\n', 0),
        ("a.md", "It goes on where nobody is.\n", 2),
        ("a.md", "```\nIt goes on.\n```\nIt continues.\n", 0),
        ("a.md", "|" + "a|" * 9 + "\n|" + "a|" * 8 + "\n", 1),
    ],
)
def test_odd_sentences(name, text, found, tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert len(list(prose.odd(tmp_path / name))) == found


def test_a_file_may_have_fewer_and_not_more(tmp_path, monkeypatch, capsys):
    page = Path("README.md")
    found = len(list(prose.odd(prose.ROOT / page)))
    monkeypatch.setattr(prose, "BASELINE", tmp_path / "baseline.json")
    prose.BASELINE.write_text("{}")
    assert prose.main([]) == 1 and "docs/" in capsys.readouterr().out
    assert prose.main(["--update"]) == 0 and prose.BASELINE.read_text() == "{}\n", "the baseline only shrinks"
    assert found == 0
