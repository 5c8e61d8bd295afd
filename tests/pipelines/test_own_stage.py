"""Stages of the user's own, those of `docs/extend/stage.md`: they annotate, decide, are resumed and
explained."""

import json
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import open_diht.pipelines.driver.cli  # it imports all stages before it loads plugins
import open_diht.pipelines.teachers.features  # noqa: F401
from open_diht.common.command_line import WrongUse
from open_diht.common.plugins import Registry
from open_diht.filters.presets import load_preset
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver.run import run
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import Annotator, register_annotator
from tests.pipelines.conftest import NOTHING_LEFT

PAGE = Path(__file__).parents[2] / "docs" / "extend" / "stage.md"
MODULE, IMAGES = re.findall(
    r"```{.python .compile}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
)
DOG = "a brown dog runs"
CAPTIONS = (DOG, "\u00fc\u00f6\u00e4 a dog runs", "two cats sleep on a red sofa", "SALE NOW", DOG)


@pytest.mark.slow
def test_a_stage_of_ones_own_annotates_decides_and_is_resumed(tmp_path, command):
    def run(*more: str) -> subprocess.CompletedProcess[str]:
        words = [
            "--dataset",
            "custom",
            "--input",
            "rows.tsv",
            "--output",
            "out",
            "--workers",
            "2",
            "--unit-rows",
            "2",
        ]
        return command(*words, *more, cwd=tmp_path)

    (tmp_path / "my_stage.py").write_text(MODULE, encoding="utf-8")
    rows = "".join(
        f"http://127.0.0.1/{number % 4}.jpg\t{caption}\n" for number, caption in enumerate(CAPTIONS)
    )
    (tmp_path / "rows.tsv").write_text("url\tcaption\n" + rows, encoding="utf-8")
    output = tmp_path / "out"
    done = run("--plugin", "my_stage", "--stages", "captions,ascii,dedup,export")
    assert done.returncode == 0, done.stderr
    rejected = pq.read_table(output / "rejected")
    found = dict(zip(rejected["caption"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    assert found[CAPTIONS[1]] == "not_ascii" and found["SALE NOW"] in ("complexity", "action")
    assert found[CAPTIONS[4]] == "duplicate_pair", "its row_filter comes before the duplicates"
    assert pq.read_table(output / "kept")["caption"].to_pylist() == [CAPTIONS[0], CAPTIONS[2]]
    funnel = json.loads((output / "funnel.json").read_text())
    (step,) = [step for step in funnel["steps"] if step["reason"] == "not_ascii"]
    assert step["rejected"] == 1 and step["stage"] == "ascii"
    assert "Too many characters are not ASCII." in (output / "report.html").read_text(
        encoding="utf-8"
    )
    assert "ascii" in done.stderr, "it has a progress line of its own"

    again = run("--plugin", "my_stage", "--stages", "captions,ascii,dedup,export")
    assert NOTHING_LEFT in again.stdout
    next((output / "work" / "ascii" / "data").glob("*.parquet")).unlink()
    mended = run("--plugin", "my_stage", "--stages", "captions,ascii,dedup,export")
    assert (
        mended.returncode == 0
        and "are missing or damaged; a run of this stage writes them again" in mended.stdout
    )
    assert len(list((output / "work" / "ascii" / "data").glob("*.parquet"))) == 3

    without = run("--stages", "captions,dedup,export")
    assert (
        without.returncode == 0
        and CAPTIONS[1] in pq.read_table(output / "kept")["caption"].to_pylist()
    )
    unknown = run("--stages", "captions,ascii")
    assert unknown.returncode == 2 and "unknown stage ascii" in unknown.stderr


def test_a_stage_of_ones_own_measures_images(tmp_path, filtering, monkeypatch):
    """From files and after a break; rows that another preset lets pass in addition are measured
    then."""
    monkeypatch.setattr(
        "open_diht.pipelines.stages.annotator._registered", Registry("{name} is taken")
    )
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    images = {
        "sharp": Image.fromarray(noise),
        "flat": Image.new("RGB", (64, 64)),
        "dot": Image.new("L", (1, 1)),
    }
    for name, image in images.items():
        image.save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "page.png").write_text("<html>")
    names = ["sharp", "flat", "dot", "page", "absent", "sharp", "sharp"]
    captions = [DOG] * 5 + ["SALE NOW", "a man rides a horse"]
    rows = [
        f"{n}\timages/{name}.png\t{text}\n"
        for n, (name, text) in enumerate(zip(names, captions, strict=True))
    ]
    (tmp_path / "rows.tsv").write_text("n\timage_path\tcaption\n" + "".join(rows))
    module = types.ModuleType("my_images")
    monkeypatch.setitem(sys.modules, "my_images", module)
    exec(IMAGES, module.__dict__)

    def run(preset: str = "paper", *stages: str):
        stages = (*stages, "sharpness", "export")
        return filtering(tmp_path / "rows.tsv", tmp_path / "out", preset=preset, stages=stages)

    done = run("paper", "captions")
    blurred = {1: "blurred", 2: "blurred"}
    expected = {0: "kept", **blurred, 3: "kept", 4: "kept", 5: "complexity", 6: "kept"}
    assert done.verdicts() == {str(n): verdict for n, verdict in expected.items()}
    assert run("paper", "captions").did_nothing
    more = run("paper")
    assert more.verdicts() == {str(n): verdict for n, verdict in {**expected, 5: "kept"}.items()}
    data = tmp_path / "out" / "work" / "sharpness" / "data"
    ordinals = [
        pq.read_table(path)["ordinal"].to_pylist() for path in sorted(data.glob("*.parquet"))
    ]
    assert ordinals == [[0, 1, 2, 3, 4, 6], [5]], "only the row that was not measured before"


@pytest.mark.parametrize(
    "name", ["captions", "columns", "score", "dedup", "export", "decide", "embeddings", "features"]
)
def test_the_name_of_a_stage_of_this_program_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "open_diht.pipelines.stages.annotator._registered", Registry("{name} is taken")
    )
    kind = type("Mine", (Annotator,), {"name": name})
    with pytest.raises(
        ValueError, match=f"stage {name!r} of Mine is taken by .*; choose another name"
    ):
        register_annotator(kind)


def settings_of(manifest: Path, *stages: str) -> RunSettings:
    return RunSettings(
        dataset=load_dataset("custom"),
        input=str(manifest),
        output=manifest.parent / "out",
        preset=load_preset("paper"),
        stages=stages,
        workers=1,
    )


def test_a_stage_refuses_a_run_before_any_work_and_is_left_out_where_it_has_nothing_to_do(
    tmp_path, monkeypatch
):
    class Picky(Annotator):
        name = "picky"

        @classmethod
        def applies(cls, settings, plan):
            return plan.rows > 1

        @classmethod
        def check(cls, settings, plan, say):
            if plan is not None and cls.name in settings.stages:
                raise WrongUse(f"{plan.rows} rows are not to its taste")

    monkeypatch.setattr(
        "open_diht.pipelines.stages.annotator._registered", Registry("{name} is taken")
    )
    register_annotator(Picky)
    (tmp_path / "two.tsv").write_text(f"caption\n{DOG}\n{DOG}s\n", encoding="utf-8")
    (tmp_path / "one.tsv").write_text(f"caption\n{DOG}\n", encoding="utf-8")
    settings = settings_of(tmp_path / "two.tsv", "captions", "picky")
    with pytest.raises(WrongUse, match="2 rows are not to its taste"):
        run(settings)
    assert not settings.output.exists()
    assert run(replace(settings, input=str(tmp_path / "one.tsv"))).status == 0


def test_a_stage_gets_the_calls_of_the_built_in_ones_and_counts_in_the_funnel(
    tmp_path, monkeypatch
):
    calls = []

    class Tally(Annotator):
        name = "tally"

        @classmethod
        def contribute(cls, made):
            calls.append(("contribute", sorted(made.states), sorted(made.decided)))

        @classmethod
        def count(cls, made, funnel):
            calls.append(("count", sorted(made.decided), funnel["kept"]))
            funnel["tally"] = 7

        @classmethod
        def conclude(cls, made, funnel):
            calls.append(("conclude", funnel["duplicates"]["pair"]["compared"], funnel["left"]))

    monkeypatch.setattr("open_diht.pipelines.stages.annotator._registered", {"tally": Tally})
    (tmp_path / "rows.tsv").write_text(f"url\tcaption\nhttp://a.b/1\t{DOG}\n", encoding="utf-8")
    settings = settings_of(tmp_path / "rows.tsv", "captions", "dedup")
    assert run(settings).status == 0
    unit = "00000-00000"
    assert calls == [
        ("contribute", [unit], []), ("count", [unit], 1), ("conclude", 1, {}),
    ]  # fmt: skip
    assert json.loads((tmp_path / "out" / "funnel.json").read_text())["tally"] == 7
