"""What the presets make of the labelled sample."""

import csv
from pathlib import Path

import pytest

from open_diht.pipelines.datasets import load_dataset

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, filtering, ocr_models) -> dict[str, tuple[set[int], list[str]]]:
    """Of each preset on the sample: the rows that it keeps, and what its run said."""
    output = tmp_path_factory.mktemp("sample") / "out"
    with open(SAMPLE / "manifest.tsv", encoding="utf-8") as file:
        given = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    place = {(row["image_path"], row["caption"]): n for n, row in enumerate(given)}
    assert len(place) == len(given)
    runs = {}
    for preset in ("paper", "strict"):
        source = SAMPLE / "manifest.tsv"
        result = filtering(source, output, dataset=load_dataset("sample"), preset=preset)
        assert result.status == 0
        runs[preset] = (
            {place[row["image_path"], row["caption"]] for row in result.rows("kept")},
            result.said,
        )
    return runs


@pytest.fixture(scope="module")
def labels() -> list[dict[str, str]]:
    with open(SAMPLE / "expected.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("preset", ["paper", "strict"])
def test_agreement_with_the_labels_of_the_sample(preset, runs, labels):
    same = [(int(label["row"]) in runs[preset][0]) == (label["keep"] == "1") for label in labels]
    rate = sum(same) / len(same)
    print(f"{preset}: {rate:.3f} of {len(same)} rows")
    assert rate >= 0.9


@pytest.mark.parametrize("preset", ["paper", "strict"])
def test_styles_of_the_sample(preset, runs, labels):
    kept: dict[str, float] = {}
    for style in {label["style"] for label in labels}:
        rows = [int(label["row"]) in runs[preset][0] for label in labels if label["style"] == style]
        kept[style] = sum(rows) / len(rows)
    print(preset, kept)
    assert kept["broken"] == 0 and kept["text_overlap"] <= 0.15
    assert kept["action"] >= 0.85 and kept["text_unrelated"] >= 0.7
    assert kept["product"] <= 0.15 and kept["attributes"] <= 0.25


def test_the_tutorial_shows_the_table_of_the_sample(
    runs: dict[str, tuple[set[int], list[str]]],
) -> None:
    tutorial = (SAMPLE.parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
    said = "\n".join(runs["paper"][1])
    table = said[said.index("stage     reason") :].splitlines()
    assert [line for line in table if line not in tutorial and "results in" not in line] == []
