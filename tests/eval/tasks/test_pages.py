"""The page of a task says what its YAML says, and every task of every suite has one."""

from __future__ import annotations

from open_diht.eval.tasks import load_suite, suite_names
from open_diht.eval.tasks.pages import suite_tables, task_pages


def test_every_task_has_a_page_that_its_suite_links() -> None:
    pages, tables = task_pages(), "\n".join(suite_tables())
    for name in suite_names():
        assert f"## {name}" in tables
        for task in load_suite(name).tasks:
            assert f"[{task.name}]({task.name}.md)" in tables
            page = pages[task.name]
            assert task.title in page and f"`{task.metric}`" in page and f"TASKS={task.name}" in page
            assert " ".join(task.note.split()).replace("<", "&lt;") in page


def test_a_page_says_whose_the_data_is_where_it_lies_and_what_goes_wrong() -> None:
    page = task_pages()["sugarcrepe"]
    for said in ("arXiv 2306.14610", "7,511 questions", "`sugarcrepe` (selection, val2017)", "## Traps", "blind"):
        assert said in page, said
    assert "bench-data TASK=sugarcrepe" in page and "bench-data" not in task_pages()["hateful_memes"]  # a form
    assert "854 cues" in task_pages()["winogavil"] and "webdataset with its own" in task_pages()["fmow"]
    assert "in the suites | `datacomp38`, `diht29`" in task_pages()["cifar10"]


def test_tasks_of_the_newer_suites_say_where_they_were_published() -> None:
    for name in ("compositional", "robustness", "multilingual", "datacomp38"):
        for task in load_suite(name).tasks:
            assert task.paper or task in load_suite("diht29").tasks, task.name
