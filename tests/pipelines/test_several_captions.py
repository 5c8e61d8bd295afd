"""Rows with several captions: each is decided as in a row of its own, and none is lost."""

import json
import random
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_diht.common.command_line import WrongUse
from open_diht.filters.captions.annotate import CaptionAnnotator
from open_diht.filters.cascade import NO_REASON, apply_cascade, cascade
from open_diht.filters.output import output_rows
from open_diht.filters.presets import load_preset
from open_diht.filters.several_captions import OTHERS, nested
from open_diht.pipelines.conservation import NotConserved, check_conservation
from open_diht.pipelines.datasets import Dataset, load_dataset
from open_diht.pipelines.driver.cli import main
from open_diht.pipelines.manifests import BadSchema, inspect, read, read_rows
from open_diht.pipelines.manifests.plan import load_plan
from open_diht.pipelines.output import Output
from open_diht.pipelines.settings import ScoreSettings
from open_diht.pipelines.stages.rows import identities
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.view.evidence import evidence_of, place_at
from open_diht.pipelines.view.pages import Workbench
from open_diht.pipelines.view.pages import row as view_row
from tests.pipelines.conftest import (
    Filtered,
    filter_manifest,
    image_rows,
    members_of,
    sample_captions,
)
from tests.pipelines.kills import Moment, check_kills

PAPER = load_preset("paper")
BLANK = (None, "", "  ", "nan")
DOG = "A brown dog runs after a red ball"
BOY = "A small boy jumps into cold water"
CAR = "a shiny red car"
WALL = "Aqua Wallpaper HD 2560x1600"
EVIDENCE = ("complexity", "actions", "objects", "attributes", "spotted", "overlap")


def dataset(*columns: str) -> Dataset:
    return load_dataset("custom").with_roles(captions=columns)


def written(path: Path, rows: list[dict[str, Any]], group: int = 20) -> Path:
    table = pa.Table.from_pylist(rows)
    at = table.column_names.index("more")
    table = table.set_column(at, "more", table["more"].cast(pa.list_(pa.string())))
    pq.write_table(table, path, row_group_size=group)
    return path


def pairs_with_captions(folder: Path, count: int) -> list[dict[str, Any]]:
    """Rows of `image_rows` with more captions: repeated, blank, of other rows, those in the image,
    and none."""
    dice = random.Random(5)
    pool = [*sample_captions()[:30], *BLANK]
    rows = [
        {**row, "more": dice.choices(pool, k=dice.randrange(5))}
        for row in image_rows(folder, count)
    ]
    for n in range(0, count, 9):
        rows[n]["more"] = None
    for n in range(3, count, 11):
        rows[n] |= {"caption": dice.choice(BLANK), "more": [*BLANK]}
    for n in range(4, count, 7):
        rows[n]["image_path"] = f"{folder.name}/missing.png"
    return rows


def captions_of(row: dict[str, Any]) -> list[str | None]:
    given = dict.fromkeys([row["caption"], *(row["more"] or [])])
    return [text for text in given if text not in BLANK] or [None]


UNIT_ROWS = 20


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("several")
    return folder, pairs_with_captions(folder / "images", 48)


@pytest.fixture(scope="module")
def several(rows: tuple[Path, list[dict[str, Any]]], ocr_models: None) -> Filtered:
    path = written(rows[0] / "several.parquet", rows[1])
    asked: dict[str, Any] = {
        "stages": ("captions", "spotting", "export"),
        "unit_rows": UNIT_ROWS,
        "max_dead_share": 1,
    }
    return filter_manifest(path, rows[0] / "out", dataset=dataset("caption", "more"), **asked)


@pytest.fixture(scope="module")
def alone(
    rows: tuple[Path, list[dict[str, Any]]], ocr_models: None
) -> dict[tuple[int, str | None], dict[str, Any]]:
    """What a run of one caption per row makes of each caption and its image: the row, with its
    reason."""
    folder, made = rows
    flat = [{**row, "caption": caption, "more": []} for row in made for caption in captions_of(row)]
    stages = ("captions", "spotting", "export")
    run = filter_manifest(
        written(folder / "one.parquet", flat), folder / "one", stages=stages, max_dead_share=1
    )
    found = {
        (row["n"], row["caption"]): row for kind in ("kept", "rejected") for row in run.rows(kind)
    }
    dead = {flat[row["ordinal"]]["n"]: row for row in run.rows("dead_letter")}
    for row in flat:
        found.setdefault(
            (row["n"], row["caption"]), {"reason": "dead_letter", **dead.get(row["n"], {})}
        )
    return found


def test_each_caption_is_decided_as_a_row_of_its_own(rows, several, alone) -> None:
    order = [step.reason for step in cascade(PAPER)]
    found = {row["n"]: (kind, row) for kind in ("kept", "rejected") for row in several.rows(kind)}
    ends = Counter[str]()
    for row in rows[1]:
        captions = captions_of(row)
        reasons = {
            caption: alone[row["n"], caption].get("reason", NO_REASON) for caption in captions
        }
        if "dead_letter" in reasons.values():
            ends["dead_letter"] += 1
            assert row["n"] not in found
            continue
        kind, out = found[row["n"]]
        passed = [caption for caption in captions if reasons[caption] == NO_REASON]
        ends[kind] += 1
        assert kind == ("kept" if passed else "rejected"), out
        assert out["captions"] == passed
        assert out["rejected_captions"] == [
            {"caption": caption, "reason": reason}
            for caption, reason in reasons.items()
            if reason != NO_REASON
        ]
        furthest = max(
            reasons.values(), key=lambda reason: order.index(reason) if reason else len(order)
        )
        assert out["caption"] == next(
            caption for caption in captions if reasons[caption] == furthest
        )
        assert out.get("reason", NO_REASON) == furthest
        mine = alone[row["n"], out["caption"]]
        assert {name: out[name] for name in EVIDENCE} == {name: mine[name] for name in EVIDENCE}
    assert min(ends["kept"], ends["rejected"], ends["dead_letter"]) >= 3, ends
    assert len(several.rows("dead_letter")) == ends["dead_letter"]
    seen = {one["reason"] for row in several.rows("kept") for one in row["rejected_captions"]}
    assert {
        "action",
        "text_spotting",
    } <= seen, "images are kept although one of their captions is rejected"


def test_captions_are_conserved(rows, several) -> None:
    counted = several.funnel["captions"]
    assert counted["captions_in"] == sum(len(captions_of(row)) for row in rows[1])
    out = several.rows("kept") + several.rows("rejected")
    assert counted["passed"] == sum(len(row["captions"]) for row in out)
    assert counted["rejected"] == Counter(
        one["reason"] for row in out for one in row["rejected_captions"]
    )
    by_ordinal = {(row["unit"], row["ordinal"]): row for row in several.rows("dead_letter")}
    places = {f"00000-{unit:05d}": 20 * unit for unit in range(3)}
    dead = [captions_of(rows[1][places[unit] + ordinal]) for unit, ordinal in by_ordinal]
    assert counted["dead_letter"] == sum(map(len, dead)) > 0
    said = (
        f"rows have several captions, {counted['captions_in']} in all: {counted['passed']} passed, "
    )
    assert any(said in line for line in several.said)
    assert said in (several.output / "report.html").read_text()
    assert json.loads((several.output / "funnel.json").read_text())["captions"] == counted


def test_a_caption_that_is_lost_or_doubled_ends_the_run(tmp_path) -> None:
    path = written(tmp_path / "a.parquet", [{"caption": DOG, "more": [BOY, CAR]}])
    run = filter_manifest(
        path, tmp_path / "out", dataset=dataset("caption", "more"), stages=("captions",)
    )
    layout = Layout(run.output)
    units = load_plan(Layout(run.output).plan).units
    check_conservation(layout, units, run.funnel)
    [part] = (run.output / "kept").glob("*.parquet")
    whole = pq.read_table(part)
    for captions, rejected in (
        ([DOG], None),
        ([DOG, DOG, BOY], None),
        ([DOG, BOY], [{"caption": CAR, "reason": "x"}]),
    ):
        [row] = whole.to_pylist()
        row |= {"captions": captions} | ({"rejected_captions": rejected} if rejected else {})
        pq.write_table(pa.Table.from_pylist([row], whole.schema), part)
        with pytest.raises(NotConserved, match="captions"):
            check_conservation(layout, units, run.funnel)


@pytest.mark.parametrize("name", ["kept", "rejected", "dead_letter", "captions"])
def test_flipped_bits_in_a_file_are_named_or_do_not_count(name, several, tmp_path) -> None:
    """Commit records hold sizes, not hashes. The bytes are damaged one at a time."""
    layout = Layout(Path(shutil.copytree(several.output, tmp_path / "out")))
    unit = "00000-00000"
    units = load_plan(layout.plan).units
    path = layout.data("captions", unit) if name == "captions" else layout.part(name, unit)
    content = path.read_bytes()
    errors = set[type | None]()
    for at in np.linspace(0, len(content) - 1, 40, dtype=int).tolist():
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x88]) + content[at + 1 :])
        try:
            check_conservation(layout, units, several.funnel)
        except NotConserved as error:
            assert "\n" not in str(error)
            errors.add(type(error.__cause__))
    assert errors >= {OSError, pa.ArrowInvalid}
    path.write_bytes(content)
    check_conservation(layout, units, several.funnel)


def test_an_image_is_read_once_for_all_its_captions(rows, several, alone) -> None:
    wanted = {
        n
        for (n, _), row in alone.items()
        if row.get("reason", NO_REASON) in (NO_REASON, "text_spotting", "dead_letter")
    }
    layout = Layout(several.output)
    read_images = [
        int(path.name[6:11]) * UNIT_ROWS + ordinal
        for path in layout.data("spotting", "x").parent.glob("*.parquet")
        for ordinal in pq.read_table(path)["ordinal"].to_pylist()
    ]
    assert len(read_images) == len({*read_images})
    assert wanted <= {*read_images}  # and those that foreseen presets want


def test_shards_and_pages_have_the_captions_that_passed(several) -> None:
    kept = {row["n"]: row for row in several.rows("kept")}
    samples = {}
    for shard in (several.output / "shards").glob("*.tar"):
        for name, content in members_of(shard).items():
            if name.endswith(".json"):
                sample = json.loads(content)
                samples[sample["n"]] = sample
                assert (
                    members_of(shard)[name.replace(".json", ".txt")].decode()
                    == sample["captions"][0]
                )
    assert samples.keys() == kept.keys()
    for n, sample in samples.items():
        assert {name: sample[name] for name in ("captions", "rejected_captions")} == {
            name: kept[n][name] for name in ("captions", "rejected_captions")
        }
    output = Output(several.output)
    for unit in load_plan(Layout(several.output).plan).units:
        part = pq.read_table(Layout(several.output).part("kept", unit.name)).to_pylist()
        ordinals = pq.read_table(Layout(several.output).data("decide", unit.name))[
            "ordinal"
        ].to_pylist()
        for ordinal, row in zip(ordinals, part, strict=True):
            place = place_at(output, unit.name, ordinal)
            assert place is not None and (shown := evidence_of(output, place)) is not None
            assert (shown["caption"], shown["overlap"]) == (row["caption"], row["overlap"])
    _, page = view_row(Workbench(output, 10), {"place": str(place)})
    columns = page["columns"]
    assert isinstance(columns, list)
    assert {name for name, _ in columns} == {"n", "original_caption", "more", "image_path"}


def test_one_caption_per_row_gives_the_rows_of_one_column(tmp_path) -> None:
    texts = sample_captions()[:40]
    path = written(
        tmp_path / "a.parquet",
        [{"n": n, "caption": text, "more": []} for n, text in enumerate(texts)],
    )
    runs = [
        filter_manifest(path, tmp_path / name, dataset=given, stages=("captions", "export"))
        for name, given in (
            ("one", load_dataset("custom")),
            ("several", dataset("caption", "more")),
        )
    ]
    for kind in ("kept", "rejected"):
        one, listed = ([*run.rows(kind)] for run in runs)
        assert [
            {k: v for k, v in row.items() if k not in ("captions", "rejected_captions")}
            for row in listed
        ] == [{**row, "original_caption": row["caption"]} for row in one]
    assert "captions" not in runs[0].funnel


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([DOG, BOY, CAR, WALL, *BLANK]), max_size=5), max_size=6))
def test_every_caption_is_in_one_list_of_its_row(lists: list[list[str | None]]) -> None:
    batch = read_rows(pa.table({"all": pa.array(lists, pa.list_(pa.string()))}), dataset("all"))
    annotator = _annotator()
    table = identities(batch)
    annotations = annotator.annotate([text or "" for text in batch.captions])
    others = nested(
        batch.others, annotator.annotate([text for texts in batch.others for text in texts])
    )
    names = [*table.column_names, *annotations.column_names, OTHERS]
    rows = pa.table([*table.columns, *annotations.columns, others], names)
    decisions = apply_cascade(rows, None, PAPER, ("captions",))
    reasons = dict.fromkeys((DOG, BOY), NO_REASON) | {
        CAR: "action",
        WALL: "complexity",
        None: "no_caption",
    }
    out = output_rows(batch.table, decisions, None).to_pylist()
    for texts, row in zip(lists, out, strict=True):
        expected = captions_of({"caption": None, "more": texts})
        assert row["captions"] == [text for text in expected if reasons[text] == NO_REASON]
        assert [(one["caption"], one["reason"]) for one in row["rejected_captions"]] == [
            (text, reasons[text]) for text in expected if reasons[text] != NO_REASON
        ]


@cache
def _annotator() -> CaptionAnnotator:
    return CaptionAnnotator()


LAYOUTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "published": (
        {"URL": "u", "TEXT": DOG, "top_caption": BOY, "all_captions": [CAR, BOY]},
        [DOG, BOY, CAR],
    ),
    "lower case": ({"url": "u", "text": DOG, "all_captions": [BOY, None, ""]}, [DOG, BOY]),
    "without alt text": ({"url": "u", "top_caption": BOY, "all_captions": [CAR]}, [BOY, CAR]),
    "alt text alone": ({"url": "u", "TEXT": DOG}, [DOG]),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_laion_coco_is_read_as_it_is(name: str, format: str, tmp_path: Path) -> None:
    row, expected = LAYOUTS[name]
    path = tmp_path / f"a.{format}"
    if format == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    else:
        path.write_text(json.dumps(row) + "\n")
    coco = load_dataset("laion-coco")
    [batch] = read(inspect(str(path), coco), coco)
    assert [*batch.captions, *(batch.others or [[]])[0]] == expected
    if "TEXT" in row:
        alone = coco.with_roles(caption="TEXT")
        [batch] = read(inspect(str(path), alone), alone)
        assert (batch.captions, batch.others) == ([DOG], [])


def test_a_list_that_cannot_be_read_costs_its_row(tmp_path: Path) -> None:
    lists: list[Any] = [
        [DOG],
        [DOG, 7],
        [f"A dog {n}" for n in range(10_000)],
        [None, ""],
        None,
        [["x"]],
        DOG,
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"all": one}) + "\n" for one in lists))
    [batch] = read(inspect(str(path), dataset("all")), dataset("all"))
    assert batch.captions == [DOG, None, None, DOG]
    assert [(row.ordinal, row.error) for row in batch.bad] == [
        (1, "not_text"),
        (2, "oversized"),
        (5, "not_text"),
    ]
    assert "10,000 captions, more than 1,000" in batch.bad[1].message
    large = pa.array([[DOG], lists[2], ["x" * 9_000_000] * 2, None], pa.list_(pa.string()))
    batch = read_rows(pa.table({"all": large}), dataset("all"))
    assert batch.captions == [DOG, None] and [row.error for row in batch.bad] == ["oversized"] * 2


def test_a_wrong_column_is_named_with_the_remedy(tmp_path: Path, here: None, capsys: Any) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"alt": DOG, "scores": [0.5], "all": [BOY]}]), path)
    arguments = ["--input", str(path), "--output", str(tmp_path / "out"), "--stages", "captions"]
    for columns, said in (
        (
            "alt,al",
            ("no column 'al' for the role captions", "alt, scores, all", "--caption-columns A,B"),
        ),
        (
            "alt,scores",
            ("column 'scores' is list", "cannot be the captions", "--caption-columns A,B"),
        ),
    ):
        assert main([*arguments, "--caption-columns", columns]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert all(part in line for part in said), line
    assert main([*arguments, "--caption-columns", "alt,all", "--caption-column", "alt"]) == 2
    assert "--caption-columns" in capsys.readouterr().err
    assert main([*arguments, "--caption-columns", "alt,all"]) == 0
    with pytest.raises(BadSchema, match="--caption-columns"):
        inspect(str(path), dataset("missing"))
    with pytest.raises(WrongUse, match="--caption-column"):
        how: dict[str, Any] = {
            "stages": ("captions", "score"),
            "score": ScoreSettings(model="reference"),
        }
        filter_manifest(path, tmp_path / "scored", dataset=dataset("alt", "all"), **how)


def test_other_captions_make_another_pair(tmp_path: Path) -> None:
    lists = [[BOY], [BOY], [CAR], [BOY, CAR]]
    rows = [{"url": "https://example.org/1", "caption": DOG, "more": one} for one in lists]
    given = written(tmp_path / "a.parquet", rows)
    stages = ("captions", "dedup", "export")
    both = dataset("caption", "more")
    run = filter_manifest(
        given, tmp_path / "out", preset="paper-dedup", dataset=both, stages=stages
    )
    assert [row["more"] for row in run.rows("rejected")] == [[BOY]]
    expected = [{"caption": text, "reason": "duplicate_pair"} for text in (DOG, BOY)]
    assert run.rows("rejected")[0]["rejected_captions"] == expected
    assert run.funnel["captions"]["passed"] == 2 + 1 + 2
    # A uid is made from the first caption, so the three kept pairs share theirs, and it would
    # select all of them.
    assert len(np.load(run.output / "subset.npy")) == 0


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_captions(tmp_path, runs, rows) -> None:
    placed = [{**row, "image_path": str(rows[0] / row["image_path"])} for row in rows[1]]
    path = written(tmp_path / "a.parquet", placed * 3)
    options = [
        "--caption-columns",
        "caption,more",
        "--stages",
        "captions,export",
        "--images-root",
        str(rows[0]),
    ]
    runs.finish(path, tmp_path / "calm", *options)
    moments = (Moment("captions", 1, 0.1), Moment("decide", 1, 0.02))
    left = check_kills(
        runs, path, options, moments, calm=tmp_path / "calm", killed=tmp_path / "killed", hits=1
    )
    assert left["kept"] and any(row["rejected_captions"] for row in left["kept"])


def test_a_training_draws_from_the_captions_that_passed_and_resumes_with_the_same_bits(
    several, tmp_path
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
    pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[train]'")
    from open_diht.common.fields import build
    from open_diht.trainer.config import Config
    from open_diht.trainer.data import DataSettings, ShardLoader, Source
    from open_diht.trainer.loop import train
    from tests.trainer.conftest import TINY_ARCHITECTURE, interrupted, losses

    seen: list[str] = []

    def tokens(captions: list[str]) -> Any:
        seen.extend(captions)
        return torch.zeros(len(captions), 4, dtype=torch.int64)

    drawn = DataSettings(sources=(Source(path=str(several.output)),), captions="random", workers=0)
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    loader = ShardLoader(drawn, batch_size=4, transform=lambda image: pixels, tokenizer=tokens)
    for epoch in range(60):
        list(loader.epoch(epoch))
    assert {*seen} == {text.strip() for row in several.rows("kept") for text in row["captions"]}

    def config(captions: str) -> Config:
        data = {"sources": [{"path": str(several.output)}], "workers": 0, "captions": captions}
        schedule = {"samples": 80, "batch_size": 8, "warmup_samples": 16}
        how = {
            "run": {"precision": "fp32", "device": "cpu", "threads": 1},
            "concepts": {"path": ""},
        }
        log = {"every_steps": 1, "tensorboard": False}
        model = {"architecture": TINY_ARCHITECTURE}
        return build(
            Config, {"model": model, "data": data, "schedule": schedule, "log": log, **how}
        )

    assert not interrupted(config("random"), tmp_path / "a", 4)[0].finished
    for run, captions in (("a", "random"), ("b", "random"), ("c", "first")):
        train(config(captions), tmp_path / run, lambda text: None)
    assert len(losses(tmp_path / "a")) == 10 and losses(tmp_path / "a") == losses(tmp_path / "b")
    models = [
        (tmp_path / run / "export" / "open_clip_model.safetensors").read_bytes() for run in "abc"
    ]
    assert models[0] == models[1] != models[2]
