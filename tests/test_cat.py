"""CAT as a function: the decisions of a run, for lists and batches of any engine."""

import io
import itertools
import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image
from pyarrow import csv

from open_diht import Cat
from open_diht.cat import TABLE, _Models, _typed, image_file
from open_diht.filters.captions.numpy_spacy.tokenizer import _Generation
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.output import SPOTTED
from open_diht.filters.presets import BadPreset, load_preset
from open_diht.filters.score import ScoreRule
from open_diht.filters.spotting.decode import (
    DecodeLimits,
    UnreadableImage,
    UnreadableImageReason,
    decode_image,
)
from open_diht.filters.spotting.settings import SpotterSettings
from open_diht.filters.spotting.spotter import TextSpotter
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import BadSchema, inspect, read
from tests.filters.spotting.test_decode import png_with_header
from tests.filters.spotting.test_spotter import CRASHES_ON_WIDE, stub_worker
from tests.pipelines.conftest import filter_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE = REPOSITORY / "data/sample"
CC3M = REPOSITORY / "data/captions/cc3m_validation/Validation_GCC-1.1.0-Validation.tsv"
DOG = "a brown dog catches a red ball"
NAME = "IMG_2034.jpg"


@pytest.fixture(scope="module")
def sample() -> dict[str, list[Any]]:
    """The sample's captions, paths and images."""
    table = csv.read_csv(
        SAMPLE / "manifest.tsv", parse_options=csv.ParseOptions(delimiter="\t", quote_char=False)
    )
    paths, captions = (table[name].to_pylist() for name in ("image_path", "caption"))
    images = [file.read_bytes() if (file := SAMPLE / path).is_file() else file for path in paths]
    return {"path": paths, "caption": [caption or None for caption in captions], "image": images}


def run(source: Path, **how: Any) -> list[dict[str, Any]]:
    """What a run writes about each row, by the names that `Cat` uses."""
    found = filter_manifest(source, **how)
    assert found.status == 0
    dead = [{**row, "reason": row["error"]} for row in found.rows("dead_letter")]
    return [*found.rows("kept"), *found.rows("rejected"), *dead]


def compared(row: dict[str, Any], names: Iterable[str] = TABLE.names) -> list[Any]:
    return [row.get(name) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "strict"])
def test_it_decides_as_a_run_of_the_sample_does(preset, sample, ocr_models, tmp_path):
    how = {"dataset": load_dataset("sample"), "preset": preset, "stages": ("captions", "spotting")}
    written = {
        (row["image_path"], row["caption"]): row
        for row in run(SAMPLE / "manifest.tsv", output=tmp_path / "out", **how)
        if "image_path" in row
    }
    decisions = Cat(preset)(sample["caption"], sample["image"])
    assert len(decisions) == len(sample["path"])
    found = zip(sample["path"], sample["caption"], decisions.table.to_pylist(), strict=True)
    same = [
        compared(row) == compared(written[path, caption])
        for path, caption, row in found
        if (path, caption) in written
    ]
    assert len(same) > 280 and all(same)
    assert decisions.keep == [reason is None for reason in decisions.reason]


@pytest.mark.slow
def test_it_decides_as_a_run_of_two_thousand_captions_does(tmp_path):
    captions = [
        line.split("\t")[0] for line in CC3M.read_text(encoding="utf-8").splitlines()[:2000]
    ]
    pq.write_table(pa.table({"caption": captions}), tmp_path / "in.parquet")
    rows = run(
        tmp_path / "in.parquet", output=tmp_path / "out", stages=("captions",), preset="balanced"
    )
    written = {row["caption"]: row for row in rows}
    table = Cat("balanced")(captions).table
    assert all(
        compared(row) == compared(written[caption])
        for caption, row in zip(captions, table.to_pylist(), strict=True)
    )


def test_a_caption_that_cannot_be_used_costs_its_row():
    captions = [DOG, None, 5, "x\ud800", "", "nan", "dog " * 250_000, b"dog", DOG]
    decisions = Cat()(captions)
    assert decisions.reason == [
        None, "no_caption", "not_text", "not_text", "no_caption", "no_caption", "caption_length",
        "not_text", None,
    ]  # fmt: skip
    assert (
        decisions.table["actions"].to_pylist()[0]
        == ["catches"]
        == decisions.table["actions"].to_pylist()[-1]
    )
    assert Cat()(["dog " * 5_000_000]).reason == ["oversized"]


@pytest.mark.slow
def test_an_image_that_cannot_be_used_costs_its_row(ocr_models, tmp_path):
    good = next((SAMPLE / "images").glob("0*.jpg"))
    truncated = good.read_bytes()[:500]
    images = {
        "bytes": (good.read_bytes(), None), "path": (str(good), None), "Path": (good, None),
        "undecoded": ({"bytes": good.read_bytes(), "path": None}, None),
        "of a path": ({"bytes": None, "path": str(good)}, None), "PIL": (Image.open(good), None),
        "none": (None, "image_not_available"), "absent": (tmp_path / "absent.jpg", "image_missing"),
        "folder": (tmp_path, "image_missing"),
        "on the web": ("https://example.org/a.jpg", "image_not_available"), "empty": (b"", "empty"),
        "junk": (b"<html>" * 50, "not_an_image"), "truncated": (truncated, "truncated"),
        "truncated PIL": (Image.open(io.BytesIO(good.read_bytes()[:5000])), "image_unreadable"),
        "bomb": (png_with_header(60_000, 60_000), "too_many_pixels"),
        "number": (3, "image_unreadable"),
    }  # fmt: skip
    decisions = Cat()([DOG] * len(images), [image for image, _ in images.values()])
    assert dict(zip(images, decisions.reason, strict=True)) == {
        name: reason for name, (_, reason) in images.items()
    }


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_pil_image_is_read_upright(form, orientation):
    pixels = np.repeat(np.repeat(np.arange(0, 240, 40, np.uint8).reshape(2, 3), 16, 0), 16, 1)
    stored = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).convert("RGB").save(stored, form, exif=exif)
    given = image_file(Image.open(stored))
    assert isinstance(given, bytes)
    upright, expected = (
        decode_image(file, DecodeLimits()).pixels.astype(int) for file in (given, stored.getvalue())
    )
    assert upright.shape == expected.shape and np.abs(upright - expected).max() < 20


def test_damaged_metadata_of_a_pil_image_costs_nothing():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageDescription] = 6, "a dog"
    whole = exif.tobytes()
    for place, byte in itertools.product(range(6, len(whole)), (0, 1, 9, 255)):
        stored = io.BytesIO()
        damaged = whole[:place] + bytes([byte]) + whole[place + 1 :]
        Image.new("L", (2, 3)).save(stored, "PNG", exif=damaged)
        assert isinstance(image_file(Image.open(stored)), bytes)


def test_ocr_that_crashes_or_hangs_costs_one_image(tmp_path, monkeypatch):
    stub_worker(tmp_path, CRASHES_ON_WIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(TextSpotter, "check_installed", lambda self: None)
    images = [Image.new("RGB", (width, 12)) for width in (20, 13, 21, 14, 22)]
    reasons = Cat(ocr=SpotterSettings(timeout_s=3.0))([DOG] * 5, images).reason
    assert reasons == [None, "ocr_crashed", None, "ocr_timeout", None]


def test_a_preset_says_how_images_are_read(tmp_path):
    (tmp_path / "own.yaml").write_text("base: paper\nocr: {effort: high}\n")
    assert Cat(tmp_path / "own.yaml").ocr == SpotterSettings(effort="high")
    assert Cat(tmp_path / "own.yaml", ocr=SpotterSettings()).ocr == Cat().ocr == SpotterSettings()


def test_only_images_whose_caption_passes_are_read(monkeypatch):
    def spot(self: TextSpotter, images: Iterable[bytes]) -> Any:
        assert not list(images)
        return iter(())

    monkeypatch.setattr(TextSpotter, "spot", spot)
    assert Cat()([NAME, None], [b"never decoded", b""]).reason == ["complexity", "no_caption"]


def test_without_captions_there_are_no_decisions():
    decisions = Cat()([])
    assert (len(decisions), decisions.keep, decisions.table.num_rows) == (0, [], 0)
    assert Cat()([], []).reason == []


@pytest.mark.parametrize(
    "values", [[DOG, NAME], pa.array([DOG, NAME]), np.array([DOG, NAME]), (DOG, NAME)]
)
def test_captions_come_in_any_sequence(values):
    assert Cat()(values).keep == [True, False]


def reversed_frame(values: list[Any]) -> Any:
    """A pandas Series whose index labels run against its positions."""
    return pytest.importorskip("pandas").Series(values[::-1])[::-1]


@pytest.mark.parametrize("of", [pa.array, pa.chunked_array, np.array, tuple, reversed_frame])
@pytest.mark.parametrize("n", [3, 20])
def test_images_are_paired_with_captions_by_their_places(of, n, monkeypatch):
    read: list[bytes] = []

    def spot(self: TextSpotter, images: Iterable[bytes]) -> Any:
        read.extend(images)
        return (UnreadableImage(UnreadableImageReason.TRUNCATED, "") for _ in read)

    monkeypatch.setattr(TextSpotter, "spot", spot)
    images = [b"%d" % row for row in range(n)]
    reasons = Cat()(
        [NAME, *[DOG] * (n - 1)], of([images]) if of is pa.chunked_array else of(images)
    ).reason
    assert reasons == ["complexity", *["truncated"] * (n - 1)] and read == images[1:]


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: Cat("papr"), BadPreset, "paper"),
        (lambda: Cat(3), TypeError, "int"),  # type: ignore[arg-type]
        (lambda: Cat(ocr="high"), TypeError, "SpotterSettings"),  # type: ignore[arg-type]
        (lambda: Cat()(DOG), TypeError, "list"),
        (lambda: Cat()([5] * 20), TypeError, "int"),
        (lambda: Cat()([DOG] * 20, [5] * 20), TypeError, "int"),
        (
            lambda: Cat()([DOG], columns=[1]),  # type: ignore[arg-type]
            TypeError,
            "columns is a list; pass a dict",
        ),
        (lambda: Cat()([DOG], [None, None]), ValueError, "2"),
        (lambda: Cat().batch(caption="texts")({"text": [DOG]}), KeyError, "text"),
        (lambda: Cat().batch(caption="text", image="jpg")({"text": [DOG]}), KeyError, "image="),
    ],
)
def test_a_wrong_argument_is_named(call, error, named):
    with pytest.raises(error, match=named):
        call()


def test_a_preset_may_have_conditions_on_columns():
    preset = replace(load_preset("paper"), columns=(ColumnCondition(reason="similarity", min=0.3),))
    assert Cat(preset)([DOG, DOG], columns={"similarity": [0.2, 0.4]}).reason == [
        "similarity",
        None,
    ]
    rows = Cat(preset).batch(caption="text")({"text": [DOG, NAME], "similarity": [0.4, 0.4]})
    assert rows["cat_reason"] == [None, "complexity"]
    with pytest.raises(ValueError, match="similarity"):
        Cat(preset)([DOG])


def test_a_column_of_mixed_types_is_compared_as_in_a_run(tmp_path):
    values = [0.2, "0.4", "much", True, None, 0.5, 10**30, 7]
    lines = [
        json.dumps({"caption": f"{DOG} {row}", "similarity": value})
        for row, value in enumerate(values)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    condition = ColumnCondition(reason="similarity", min=0.3)
    dataset = load_dataset("custom")
    (batch,) = read(inspect(str(tmp_path / "in.jsonl"), dataset), dataset)
    rejected = condition.rejects_values(condition.stored(batch.table["similarity"]))
    cat = Cat(replace(load_preset("paper"), columns=(condition,)))
    expected = ["similarity" if row else None for row in rejected.tolist()]
    assert expected[:2] == ["similarity", None]
    assert cat([DOG] * 8, columns={"similarity": values}).reason == expected
    assert (
        cat.batch(caption="text")({"text": [DOG] * 8, "similarity": values})["cat_reason"]
        == expected
    )


@pytest.mark.parametrize("twice", ["text", "jpg", "similarity"])
def test_a_column_that_occurs_twice_is_named(twice):
    preset = replace(load_preset("paper"), columns=(ColumnCondition(reason="similarity", min=0.3),))
    table = pa.table([[DOG], [b""], [0.4], [1]], ["text", "jpg", "similarity", "id"])
    table = table.append_column(twice, table[twice])
    with pytest.raises(BadSchema, match=f"'{twice}'"):
        Cat(preset).batch(caption="text", image="jpg")(table)


def test_types_survive_a_dict_of_lists():
    values = [[], None, [{"text": "a", "score": 0.5, "box": [[1.0, 2.0], [3.0, 4.0]]}]]
    for kind, given in ((SPOTTED, values), (pa.int32(), [None, 3]), (pa.bool_(), [True, None])):
        assert pa.array(_typed(given, kind)).equals(pa.array(given, kind))


@pytest.mark.parametrize("text", ["object", "string"])
def test_empty_cells_of_pandas_are_missing_values(text):
    pandas = pytest.importorskip("pandas")
    file = io.StringIO(
        f"text,license,score,jpg\n{DOG},cc0,0.5,\n{DOG},,0.5,\n{DOG},cc0,,\n,cc0,0.5,\n"
    )
    rows = pandas.read_csv(file, dtype={"text": text, "license": text})
    conditions = (
        ColumnCondition(reason="license", among=("cc0",)),
        ColumnCondition(reason="score", min=0.3),
    )
    cat = Cat(replace(load_preset("paper"), columns=conditions))
    expected = [None, "license", "score", "no_caption"]
    assert cat(rows.text, columns=rows[["license", "score"]].to_dict("list")).reason == expected
    assert cat.batch(caption="text")(rows.to_dict("list"))["cat_reason"] == expected
    assert Cat()([float("nan")] * 20).reason == ["no_caption"] * 20, (
        "an empty column is no column of numbers"
    )
    assert Cat()(rows.text, rows.jpg).reason == [*["image_not_available"] * 3, "no_caption"]
    assert (
        Cat()([DOG] * 20, pandas.Series([float("nan")] * 20)).reason == ["image_not_available"] * 20
    )


@pytest.mark.slow
def test_conditions_find_their_columns_as_a_run_does(tmp_path):
    names = [
        "text",
        "clip_l14_similarity_score",
        "width",
        "height",
        "original_width",
        "original_height",
    ]
    rows = [[f"{DOG} {n}", 0.1 * n, 10 * n, 9, 60 - 10 * n, 9] for n in range(6)]
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, tmp_path / "in.parquet")
    preset = tmp_path / "own.yaml"
    preset.write_text("base: paper\ncolumns:\n  width: {min: 25}\n  similarity: {min: 0.15}\n")
    rows_of_run = run(
        tmp_path / "in.parquet", output=tmp_path / "out", stages=("captions",), preset=str(preset)
    )
    written = {row["caption"]: row.get("reason") for row in rows_of_run}
    expected = [written[row[0]] for row in rows]
    assert expected == ["similarity", "similarity", None, None, "width", "width"]
    cat = Cat(preset)
    columns = table.drop_columns("text").to_pydict()
    assert cat(table["text"], columns=columns).reason == expected
    assert cat.batch(caption="text")(table)["cat_reason"].to_pylist() == expected
    assert cat.batch(caption="text")({"text": table["text"], **columns})["cat_reason"] == expected


def test_a_preset_with_scores_is_refused_with_the_command_that_computes_them():
    with pytest.raises(ValueError, match="--score-model"):
        Cat(replace(load_preset("paper"), score=ScoreRule(min=0.3)))


def test_a_batch_keeps_its_kind_and_its_rows():
    batch = {"text": [DOG, NAME], "id": [7, 8]}
    function = pickle.loads(pickle.dumps(Cat().batch(caption="text")))
    rows = function(batch)
    assert (
        rows["id"] == [7, 8]
        and rows["cat_keep"] == [True, False]
        and rows["cat_actions"] == [["catches"], []]
    )
    table = function(pa.table(batch))
    assert table.column_names == [
        "text",
        "id",
        "cat_keep",
        *(f"cat_{name}" for name in TABLE.names[:-2]),
    ]
    assert {name: table[name].to_pylist() for name in table.column_names} == rows
    assert function(pa.table(batch).slice(0, 0)).schema == table.schema, (
        "empty batches have the same types"
    )


def test_rows_may_be_decided_again():
    decided = Cat("paper").batch(caption="text")({"text": [DOG, NAME], "id": [7, 8]})
    again = Cat("strict").batch(caption="text")
    assert again(decided)["cat_reason"] == [None, "complexity"]
    table = again(pa.table(decided))
    assert sorted(table.column_names) == sorted(decided) and table["cat_reason"].to_pylist() == [
        None,
        "complexity",
    ]


def in_a_worker(function: Any, caption: str) -> Any:
    return function({"text": [caption], "jpg": [None]})["cat_reason"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_other_processes(method):
    function = Cat().batch(caption="text", image="jpg")
    assert in_a_worker(function, DOG) == ["image_not_available"], (
        "models are loaded in this process"
    )
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, context) as pool:
        reasons = list(pool.map(in_a_worker, [function] * 4, [DOG, NAME] * 2))
    assert reasons == [["image_not_available"], ["complexity"]] * 2


@pytest.mark.slow
def test_a_forked_process_starts_an_ocr_process_of_its_own(ocr_models):
    image = next((SAMPLE / "images").glob("0*.jpg"))
    assert Cat()([DOG], [image]).keep == [True]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, context) as pool:
        kept = list(pool.map(Cat(), [[DOG]] * 4, [[image]] * 4))
    assert all(decisions.keep == [True] for decisions in kept) and Cat()([DOG], [image]).keep == [
        True
    ]


def test_threads_share_it():
    cat = Cat()
    captions = [
        f"a {word} dog catches a red ball" for word in ("big", "small", "brown", "black")
    ] * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda caption: cat([caption]).table.to_pylist()[0], captions))
    assert found == cat(captions).table.to_pylist()


FORKS = """
import os, random, signal, sys, threading, time
from open_diht import Cat

cat, stop = Cat(sys.argv[1]), threading.Event()
sizes = [(number, size) for number in range(60) for size in ("big", "small")]
captions = [f"a {size} dog catches red ball number {number}" for number, size in sizes]
expected = cat(captions[:4]).table

def work(first):
    while not stop.is_set():
        cat(captions[first : first + 20])

threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 40, 60)]
for thread in threads:
    thread.start()
failed = 0
for number in range(25):
    time.sleep(random.random() / 50)
    if not (forked := os.fork()):
        signal.alarm(60)
        os._exit(0 if cat(captions[:4]).table.equals(expected) else 1)
    failed += os.waitpid(forked, 0)[1] != 0
stop.set()
for thread in threads:
    thread.join()
print(failed)
"""
"""Forks a process while four threads are inside `Cat`, and prints how many of the forked ones hang
or err."""


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "precise"])
def test_a_process_that_is_forked_while_threads_decide_decides_too(preset):
    command = [sys.executable, "-c", FORKS, preset]
    assert (
        subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()
        == "0"
    )


def test_an_interrupted_call_changes_no_later_one(monkeypatch):
    """An interrupt inside the tokenizer leaves its caches half written."""
    captions = ["a zebra chases seven ostriches", DOG]
    expected = Cat()(captions).table
    monkeypatch.setattr(_Models, "annotators", {})
    Cat()([DOG])
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(_Generation, "add_tokens", add_half)
        Cat()(captions)
    assert Cat()(captions).table.equals(expected)


def add_half(self: _Generation, keys: Sequence[int], *_: Any) -> None:
    self.rows.update(zip(keys, range(len(self.words), len(self.words) + len(keys)), strict=True))
    raise KeyboardInterrupt


def test_a_signal_handler_may_decide_during_a_call():
    found: list[Any] = []
    before = signal.signal(signal.SIGALRM, lambda *_: found.append(Cat()([DOG]).keep))
    captions = [f"a dog catches ball {number}" for number in range(1_000)]
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert all(Cat()(captions).keep)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found == [[True]] and Cat()([DOG]).keep == [True]


@pytest.mark.slow
def test_it_imports_neither_beam_nor_torch():
    use = "import sys; from open_diht import Cat; Cat()(['a dog runs'], [None])"
    code = f"{use}; print({{'apache_beam', 'torch'}} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
