"""What a test set can show, before it is measured."""

import numpy as np
import pytest

from open_diht.eval import cli
from open_diht.eval.power import detectable, items_needed, power_table
from open_diht.eval.statistics import mcnemar
from open_diht.eval.tasks import load_suite


@pytest.mark.parametrize(("n", "disagree"), [(400, 0.05), (400, 0.2), (2000, 0.1)])
def test_the_difference_is_found_in_80_of_100_test_sets(n, disagree):
    gain = detectable(n, disagree)
    generator = np.random.default_rng(0)
    found = []
    odds = [(disagree - gain) / 2, (disagree + gain) / 2, 1 - disagree]
    for lost, won, _ in generator.multinomial(n, odds, size=4000):
        found.append(mcnemar(np.repeat([1, 0], [lost, won]), np.repeat([0, 1], [lost, won])) < 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.015)  # 2.4 standard errors


def test_items_and_differences_are_two_sides_of_one_thing():
    assert detectable(items_needed(0.01, 0.1), 0.1) == pytest.approx(0.01, rel=1e-3)
    assert detectable(3, 0.1) == 0.1
    with pytest.raises(ValueError, match=r"disagree on 0\.1"):
        items_needed(0.2, 0.1)


def test_the_command_says_it_and_measures_nothing(capsys, tmp_path):
    assert (
        cli.main(
            ["--power", "--tasks", "imagenet1k,winoground_t2i", "--output", str(tmp_path / "out")]
        )
        == 0
    )
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("imagenet1k ")]
    assert "winoground_t2i                400" in said
    assert line.split() == ["imagenet1k", "50,000", "0.28", "0.40", "0.56"]
    assert not (tmp_path / "out").exists()
    assert cli.main(["--power", "--tasks", "imagenet1k,winoground_t2i", "--sample", "1000"]) == 0
    lines = {
        line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if line
    }
    assert lines["imagenet1k"] == "1,000" and lines["winoground_t2i"] == "400"


def test_a_worst_group_has_no_number_as_nobody_knows_its_size_before():
    lines = {
        line.split()[0]: line.split()[1:]
        for line in power_table(load_suite("datacomp38")).splitlines()
        if line
    }
    assert (
        lines["fmow"] == ["-"] * 4
        and lines["winogavil"][0] == "854"
        and lines["iwildcam"][0] == "42,791"
    )


@pytest.mark.parametrize("words", [["--power", "--tasks", "demo"], ["--list"]])
def test_a_full_standard_output_is_reported_as_such(words, monkeypatch, capfd):
    with open("/dev/full", "w", encoding="utf-8") as full, pytest.raises(SystemExit) as ended:
        monkeypatch.setattr("sys.stdout", full)
        cli.main(words)
    assert ended.value.code == 1
    assert (
        capfd.readouterr().err
        == "error: standard output cannot be written (No space left on device); make room there\n"
    )
