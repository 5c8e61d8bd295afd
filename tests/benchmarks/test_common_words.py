"""The counts of common caption words."""

from pathlib import Path

import pytest

from benchmarks.weights import common_words


def test_counting_counts_captions_and_not_occurrences() -> None:
    assert common_words.count_chances(["Red, red RED", "blue"]) == {"red": 0.5, "blue": 0.5}
    with pytest.raises(ValueError, match="no captions"):
        common_words.count_chances([])


def test_the_command_writes_a_table_with_its_provenance(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red car\na blue car\n")
    assert (
        common_words.main(
            ["--output", str(tmp_path / "table.txt"), f"two cars={tmp_path / 'captions.txt'}"]
        )
        == 0
    )
    table = (tmp_path / "table.txt").read_text()
    assert "two cars (2 captions)" in table
    assert "car\t1.0000" in table
