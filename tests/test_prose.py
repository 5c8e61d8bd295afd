"""What `make lint` finds in docstrings, comments and pages."""

import subprocess

import pytest

from docs import prose


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""Of each row whether it is kept."""\n', 1),
        ("a.py", '"""Return whether each row is kept."""\n', 0),
        ("a.py", "x = 1  # is read anew\n", 1), ("a.py", "x = 'anew'  # a word in data\n", 0),
        ("a.py", "x = f'{y} is then read anew'  # a message\n", 1),
        ("a.py", 'class A:\n    b: bool\n    """Whether it is kept there."""\n', 0),
        ("a.py", '"""Return `set_aside` and "anew"."""\n', 0),
        ("a.md", "It goes on where nobody is.\n", 2),
        ("a.md", "```\nIt goes on.\n```\nIt continues.\n", 0),
        ("a.md", "|" + "a|" * 9 + "\n|" + "a|" * 8 + "\n", 1),
        ("a.md", "|" + "a|" * 7 + "a \\| b|\n", 0),
        ("a.md", "It is" + " so" * 28 + ".\n", 0), ("a.md", "It is" + " so" * 29 + ".\n", 1),
        ("a.md", "It is" + " so" * 15 + "\nand it is" + " so" * 15 + ".\n", 1),
        ("a.md", "It is" + " so" * 15 + ".\nIt is" + " so" * 15 + ".\n", 0),
        ("a.md", "- It is" + " so" * 15 + "\n- and it is" + " so" * 15 + "\n", 0),
        ("a.md", "It is so: " + "so " * 28 + "`is it not so`.\n", 0),
        ("a.md", "| It is" + " so" * 40 + " |\n", 0),
        ("README.md", "It is" + " so" * 40 + ".\n", 0),
        ("a.md", "A list of which one is taken.\n", 1),
        ("a.md", "Lists, each of which is read.\n", 0),
    ],
)  # fmt: skip
def test_odd_sentences(name, text, found, tmp_path, monkeypatch):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert len(list(prose.odd(tmp_path / name))) == found


def test_marks_of_a_merge_conflict_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    (tmp_path / "page.md.j2").write_text("A page.\n" + "<" * 7 + " HEAD\n")
    subprocess.run("git init -q && git add .", shell=True, cwd=tmp_path, check=True)
    assert prose.main() == 1
    assert capsys.readouterr().out == "page.md.j2:2:<<<<<<< HEAD is left of a merge\n"
