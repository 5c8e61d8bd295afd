"""Every data set file says what a user needs to know, and a mistake in one is an error with a way
out."""

from pathlib import Path

import pytest

from open_diht.pipelines.datasets import (
    Dataset,
    DatasetError,
    dataset_names,
    load_dataset,
    missing_message,
)

MINIMAL = """
name: mine
title: My set
homepage: ""
where: a disk
size: 3 rows
license: mine
default_glob: "*.tsv"
"""


def load_text(folder: Path, text: str) -> Dataset:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return load_dataset(str(path))


def test_the_promised_sets_are_there() -> None:
    promised = {
        "sample",
        "laion2b",
        "laion400m",
        "relaion2b",
        "laion-coco",
        "coyo700m",
        "cc12m",
        "cc3m",
        "datacomp",
    }
    assert {*promised, "pmd", "custom"} <= set(dataset_names())


@pytest.mark.parametrize("name", dataset_names())
def test_a_set_says_where_how_large_and_under_which_license(name: str) -> None:
    dataset = load_dataset(name)
    assert dataset.name == name
    message = missing_message(dataset, f"data/{name}/")
    for part in (
        dataset.title,
        dataset.where,
        dataset.size,
        dataset.license,
        f"open-diht filter --dataset {name}",
    ):
        assert part and part in message


def test_the_two_header_less_sets_have_opposite_orders() -> None:
    assert load_dataset("cc12m").columns == ("url", "caption")
    assert load_dataset("cc3m").columns == ("caption", "url")


def test_laion_swaps_height_and_width() -> None:
    assert load_dataset("laion400m").swap_size and load_dataset("laion2b").swap_size
    assert not load_dataset("coyo700m").swap_size


def test_an_unknown_name_is_met_with_the_nearest() -> None:
    with pytest.raises(DatasetError, match=r"did you mean 'laion400m'.*choose .*coyo700m"):
        load_dataset("LAION-400M")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    assert load_text(tmp_path, MINIMAL + "roles: {caption: alt}\n").roles.caption == "alt"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("headr: true", r"unknown key headr \(did you mean 'header'\?\)"),
        ("roles: {captoin: x}", r"unknown key roles.captoin \(did you mean 'caption'\?\)"),
        ("aliases: {ulr: [x]}", r"unknown role 'ulr' \(did you mean 'url'\?\)"),
        ("needs: [caption, photo]", "unknown role 'photo'"),
        ("header: 'no'", "header is 'no'; it must be true or false"),
        (
            "name: again",
            r"mine\.yaml, line 9, column 1: key 'name' is given twice; remove one of them$",
        ),
        ("header: false", "name the columns in order"),
        ("columns: [a, b]", "for files without header"),
        ("header: false\ncolumns: [a, a]", "names a more than once"),
        ("delimiter: ab", "must be one character"),
        ("roles: {width: w}", "width and height go together"),
        ("aliases: {width: [w]}", "name both columns, as in roles: {width: W, height: H}"),
        ("a: [", r"mine\.yaml, line 10, column 1: not YAML, .*; write `key: value`, [^\n]*$"),
    ],
)
def test_a_mistake_is_an_error_that_names_it(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(DatasetError, match=complaint):
        load_text(tmp_path, f"{MINIMAL}{line}\n")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="license is missing"):
        load_text(tmp_path, MINIMAL.replace("license: mine\n", ""))


def test_data_that_is_not_there_is_said_in_english() -> None:
    message = missing_message(load_dataset("custom"), "data/custom")
    assert message.startswith("There is no manifest in data/custom: nothing there matches *.\n")
    assert "data set  a manifest of your own\n" in message


def test_an_absent_file_is_named() -> None:
    with pytest.raises(
        DatasetError,
        match=r"data set file /no/such\.yaml: No such file or directory; give the path",
    ):
        load_dataset("/no/such.yaml")


def test_with_roles_overrides_and_keeps() -> None:
    custom = load_dataset("custom")
    mine = custom.with_roles(caption="alt", url=None, format="tsv", columns=["alt", "src"])
    assert (mine.roles.caption, mine.roles.url) == ("alt", None)
    assert (mine.format, mine.header, mine.columns) == ("tsv", False, ("alt", "src"))
    assert mine.with_roles(header=True).columns == ()
    assert custom.roles.caption is None
    with pytest.raises(DatasetError, match=r"unknown role 'captoin' \(did you mean 'caption'\?\)"):
        custom.with_roles(captoin="alt")
