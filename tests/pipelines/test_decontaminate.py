"""Rows of evaluation sets are rejected with their evidence; other sets and thresholds read no image
again."""

import io
import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from open_diht.common.command_line import WrongUse
from open_diht.common.files import sha256_file
from open_diht.filters.decontamination import PIXELS
from open_diht.pipelines.stages import evaluation_sets
from open_diht.pipelines.stages.decontamination import FingerprintStage
from open_diht.pipelines.stages.evaluation_sets import find_sets
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.storage import stamps, store_path
from tests.pipelines.conftest import pairs_of, sorted_tables

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
IMAGES = [path.read_bytes() for path in sorted(SAMPLE.glob("*.jpg"))[:12]]
STAGES = ("captions", "export")
CAPTION = "A brown dog runs on the beach"


def _as(image: bytes, form: str, **options) -> bytes:
    content = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize((150, 120)).save(content, form, **options)
    return content.getvalue()


def _cropped(image: bytes, mirrored: bool = False) -> bytes:
    whole = Image.open(io.BytesIO(image))
    content = io.BytesIO()
    part = whole.crop((whole.width // 20, whole.height // 30, whole.width - 5, whole.height - 4))
    (ImageOps.mirror(part) if mirrored else part).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder with the first four images, the second small, and a caption beside the fourth."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for number, content in enumerate([IMAGES[0], _as(IMAGES[1], "PNG"), IMAGES[2], IMAGES[3]]):
        (folder / f"{number}.png").write_bytes(content)
    (folder / "3.txt").write_text("two dogs  RUN on the beach\n")
    return folder


@pytest.fixture
def rows(tmp_path) -> Path:
    """Rows with the same file, the same pixels, two near copies, and no copies; one has that
    caption, one no image."""
    images = [
        IMAGES[0],
        _as(IMAGES[1], "BMP"),
        _cropped(IMAGES[2], mirrored=True),
        _cropped(IMAGES[3]),
        *IMAGES[4:8],
    ]
    captions = [f"{CAPTION} {n}" for n in range(7)] + ["Two dogs run on the beach"]
    return pairs_of(tmp_path / "rows.parquet", [*captions, CAPTION], [*images, b"no image"], 3)


EXPECTED = {0: "same bytes", 1: PIXELS, 2: "near copy", 3: "near copy"}


def _evidence(done) -> dict[int, tuple[str, str]]:
    found = [row for row in done.rows("rejected") if row["reason"].startswith("evaluation")]
    assert all(row["evaluation_set"] and row["evaluation_distance"] is not None for row in found)
    return {row["n"]: (row["evaluation_how"], row["evaluation_item"]) for row in found}


def test_copies_are_rejected_with_evidence_and_other_thresholds_read_nothing(
    tmp_path, filtering, mine, rows, monkeypatch
):
    output = tmp_path / "out"
    asked = {"decontaminate": f"{mine}/", "stages": STAGES, "unit_rows": 3}
    hashed = Counter[str]()
    monkeypatch.setattr(
        evaluation_sets, "sha256_file", lambda path: hashed.update([path.name]) or sha256_file(path)
    )
    done = filtering(rows, output, **asked)
    assert hashed == Counter(path.name for path in mine.glob("*.png"))
    assert _evidence(done) == {n: (how, f"{n}.png") for n, how in EXPECTED.items()}
    assert done.verdicts() == {n: "evaluation_image" if n in EXPECTED else "kept" for n in range(9)}
    assert all(row["evaluation_how"] is None for row in done.rows("kept"))
    (step,) = [step for step in done.funnel["steps"] if step["reason"] == "evaluation_image"]
    assert step["rejected"] == 4 and "mine" in step["explanation"]
    assert filtering(rows, output, **asked).did_nothing

    monkeypatch.setattr(FingerprintStage, "add", None)  # no image is read from here on
    exact = filtering(
        rows, output, preset="{base: paper, evaluation: {distance: 0, captions: true}}", **asked
    )
    assert {n: how for n, (how, _) in _evidence(exact).items()} == {
        0: "same bytes",
        1: PIXELS,
        7: "same caption",
    }
    assert exact.verdicts()[7] == "evaluation_caption"
    table = {"key": ["x"], "image": [{"bytes": IMAGES[5], "path": None}], "caption": ["nothing"]}
    pq.write_table(pa.table(table), tmp_path / "others.parquet")
    others = filtering(
        rows, output, **{**asked, "decontaminate": f"{tmp_path}/others.parquet,{mine}/"}
    )
    assert _evidence(others)[5] == ("same bytes", "x") and len(_evidence(others)) == 5
    assert f"mine (4 images): same bytes, {PIXELS}, near copies up to 22 of 128 bits" in " ".join(
        others.said
    )
    assert (
        "| checked against | others (1 image), mine (4 images)"
        in (output / "README.md").read_text()
    )
    assert "near copy" in (output / "report.html").read_text()
    record = json.loads((output / "run.json").read_text())["models"]["evaluation"]
    assert [one["name"] for one in record["sets"]] == ["others", "mine"] and record["sets"][1][
        "images"
    ] == 4
    assert record["compared"] == 8 and record["unread"] == 1
    without = filtering(rows, output, stages=STAGES)
    assert (
        set(without.verdicts().values()) == {"kept"}
        and "evaluation_set" not in without.rows("kept")[0]
    )


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", pytest.param("store", marks=pytest.mark.store)])
def test_killed_in_each_of_its_stages_it_equals_an_undisturbed_run(
    place, tmp_path, filtering, mine, rows, runs, request
):
    calm = filtering(rows, tmp_path / "calm", decontaminate=f"{mine}/", stages=STAGES, unit_rows=3)
    assert _evidence(calm) == {n: (how, f"{n}.png") for n, how in EXPECTED.items()}
    output = store_path(
        f"{request.getfixturevalue('bucket') if place == 'store' else tmp_path}/decontaminated"
    )
    asked = ["--stages", ",".join(STAGES), "--decontaminate", f"{mine}/", "--unit-rows", "3"]
    for stage in ("fingerprints", "evaluation", "decide"):
        killed = runs.start(rows, output, *asked)
        while not stamps(output / "work" / stage / "commits", ".json"):
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.002)
        killed.clear()
        assert killed.returncode == -signal.SIGKILL, killed.communicate()[0]
        for left in (output / "work" / "leases").glob("*.json"):
            left.unlink()  # of the killed run; it would count for minutes
    runs.finish(rows, output, *asked)
    assert sorted_tables(output) == calm.tables()  # type: ignore[arg-type]


def test_images_that_pass_later_are_read_then(tmp_path, filtering, mine, rows):
    output = tmp_path / "out"
    asked = {"decontaminate": f"{mine}/", "stages": STAGES}
    few = filtering(rows, output, preset="{base: paper, columns: {n: {min: 3}}}", **asked)
    assert set(_evidence(few)) == {3}
    assert set(_evidence(filtering(rows, output, **asked))) == set(EXPECTED)
    data = sorted((output / "work" / "fingerprints" / "data").glob("*.parquet"))
    assert [pq.read_table(path)["ordinal"].to_pylist() for path in data] == [
        [3, 4, 5, 6, 7, 8],
        [0, 1, 2],
    ]


@pytest.mark.slow
def test_embeddings_of_semantic_deduplication_are_compared_and_computed_once(
    tmp_path, filtering, mine, rows
):
    preset = "{base: paper, dedup: {semantic: true}, evaluation: {distance: 0, eps: 0.2}}"
    done = filtering(
        rows,
        tmp_path / "out",
        preset=preset,
        stages=("captions", "dedup"),
        decontaminate=f"{mine}/",
        unit_rows=3,
    )
    hows = {n: how for n, (how, _) in _evidence(done).items()}
    assert hows == {**EXPECTED, 2: "embedding", 3: "embedding"}
    assert not (tmp_path / "out" / "work" / "embeddings").exists()
    # With an image, and not rejected before.
    assert done.funnel["duplicates"]["semantic"]["compared"] == 4


@pytest.mark.parametrize(
    "sets",
    [
        pytest.param("sample_t2i,food101", marks=pytest.mark.slow),
        "/nowhere/",
        "rows.tsv.parquet",
        "nothing_known",
    ],
)
def test_a_set_that_is_not_here_is_one_line_before_any_work(
    tmp_path, filtering, rows, sets, monkeypatch
):
    monkeypatch.setenv("DIHT_BENCH_DATA", str(tmp_path / "empty"))
    with pytest.raises(WrongUse) as caught:
        filtering(rows, tmp_path / "out", stages=STAGES, decontaminate=sets)
    text = str(caught.value)
    assert "\n" not in text and not (tmp_path / "out").exists()
    if "food101" in sets:
        assert "open-diht bench-data --task food101`" in text


def test_a_folder_is_the_same_set_wherever_and_whenever_it_was_written_until_its_content_changes(
    tmp_path, mine
):
    sets = find_sets(f"{mine}/")
    os.utime(mine / "0.png", (1, 1))
    copied = shutil.copytree(mine, tmp_path / "elsewhere" / "mine")
    assert find_sets(f"{mine}/") == find_sets(f"{copied}/") == sets
    (mine / "3.txt").write_text("two dogs run on the street\n")
    (copied / "0.png").write_bytes(IMAGES[5])
    assert (
        len({one.sha256 for one in [*sets, *find_sets(f"{mine}/"), *find_sets(f"{copied}/")]}) == 3
    )


def test_an_empty_image_is_no_copy_of_a_row_of_a_set_without_image(tmp_path, filtering):
    pq.write_table(pa.table({"image": [b"", None, IMAGES[0]]}), tmp_path / "set.parquet")
    rows = pairs_of(tmp_path / "rows.parquet", [CAPTION] * 3, [b"", None, IMAGES[0]], 3)
    done = filtering(rows, tmp_path / "out", stages=STAGES, decontaminate=f"{tmp_path}/set.parquet")
    assert _evidence(done) == {2: ("same bytes", "2")}


_DYING = """
import os, sys
import pyarrow as pa
content = pa.BufferOutputStream()
with pa.ipc.new_stream(content, pa.schema([("image", pa.binary())])) as out:
    out.write_table(pa.table({"image": [b"x" * 9999]}))
sys.stdout.buffer.write(memoryview(content.getvalue())[:BYTES])
sys.stdout.flush()
WORDS
os._exit(1)
"""


@pytest.mark.parametrize("count", [0, 20, 5000])
@pytest.mark.parametrize(
    ("words", "why"),
    [("print('error: the disk is gone', file=sys.stderr)", "the disk is gone"), ("", "status 1")],
)
def test_images_of_tasks_that_cannot_be_read_are_one_line(monkeypatch, count, words, why):
    program = _DYING.replace("BYTES", str(count)).replace("WORDS", words)
    monkeypatch.setattr(evaluation_sets, "_COMMAND", (sys.executable, "-c", program))
    with pytest.raises(WrongUse, match=f"images cannot be read: .*{why}") as caught:
        list(evaluation_sets._rows("demo"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sets", "columns", "named"),
    [
        ("set.parquet", {"image": ["images/1.jpg"]}, "column image has the type string"),
        (
            "set.parquet",
            {"image": [{"path": "1.jpg"}]},
            "column image has the type struct<path: string>",
        ),
        ("set.parquet", {"image": [b"x"], "caption": [3]}, "column caption has the type int64"),
        (
            "set.parquet",
            {"image": [b"x"], "captions": [[3]]},
            "column captions has the type list<element: int64>",
        ),
        (
            "set.parquet,s3://bucket/x.parquet",
            {"image": [b"x"]},
            "s3://bucket/x.parquet: .*download it first",
        ),
        ("https://example.org/images/", {}, "https://example.org/images/: .*download it first"),
        ("hf://datasets/a/b.yaml", {}, "hf://datasets/a/b.yaml: .*download it first"),
        ("absent.yaml", {}, "absent"),
        (
            "set.parquet",
            {"image": [b"x", None, b""]},
            "--decontaminate set.parquet: there is no image in it that can",
        ),
        ("./none/", {}, "--decontaminate ./none/: there is no image in it that can be read"),
        (
            "set.parquet,./empty/",
            {"image": [IMAGES[0]]},
            "--decontaminate ./empty/: there is no image",
        ),
        ("./absent/", {}, "--decontaminate ./absent/: no such folder or file"),
        ("./broken/", {}, "--decontaminate ./broken/: cannot be read .*gone.jpg"),
        (
            "set.parquet,./broken/gone.parquet",
            {"image": [IMAGES[0]]},
            "--decontaminate ./broken/gone.parquet: .*magic bytes",
        ),
    ],
)
def test_sets_that_cannot_be_read_are_one_line_before_any_work(
    tmp_path, monkeypatch, sets, columns, named
):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(columns), "set.parquet")
    Path("broken").mkdir()
    Path("broken", "gone.jpg").symlink_to("/nowhere.jpg")
    Path("broken", "gone.parquet").write_bytes(b"a file without its end")
    for folder in ("none", "empty"):
        Path(folder).mkdir()
    for name in ("none/1.jpg", "none/2.png"):
        Path(name).write_bytes(b"no image")
    with pytest.raises(WrongUse, match=named) as caught:
        find_sets(sets)
    assert "\n" not in str(caught.value)


def test_rows_of_a_set_that_are_damaged_are_one_line(tmp_path):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"image": IMAGES[:2]}), path, compression="none", use_dictionary=False)
    path.write_bytes(b"PAR1" + b"\xff" * 100 + path.read_bytes()[104:])
    for find in (lambda: find_sets(str(path)), lambda: list(evaluation_sets._rows(str(path)))):
        with pytest.raises(WrongUse, match=f"--decontaminate {path}: cannot be read") as caught:
            find()
        assert "\n" not in str(caught.value)


def test_a_set_that_is_damaged_during_the_run_ends_it_and_a_repaired_one_resumes(
    tmp_path, filtering, mine, rows
):
    """The run has begun, so it fails with status 1 instead of claiming that nothing was written."""
    output = tmp_path / "out"
    asked = {"decontaminate": f"{mine}/", "stages": STAGES, "unit_rows": 3}
    content = (mine / "0.png").read_bytes()

    def damage(line: str) -> None:
        (mine / "0.png").unlink(missing_ok=True)
        (mine / "0.png").symlink_to("/nowhere.png")

    with pytest.raises(RunFailed, match=r"0\.png.* run the same command to resume"):
        filtering(rows, output, on_line=damage, **asked)
    assert (output / "work").exists()
    (mine / "0.png").unlink()
    (mine / "0.png").write_bytes(content)
    assert _evidence(filtering(rows, output, **asked)) == {
        n: (how, f"{n}.png") for n, how in EXPECTED.items()
    }


@pytest.mark.parametrize(
    "captions",
    [["a", None], [["a", "b"], None], [None, None], pa.array(["a", "b"]).dictionary_encode()],
)
@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})]
)
def test_columns_of_images_and_captions_are_read(tmp_path, kind, captions):
    data = [
        {"bytes": image, "path": None} if pa.types.is_struct(kind) else image
        for image in IMAGES[:2]
    ]
    pq.write_table(
        pa.table({"image": pa.array(data, kind), "caption": captions}), tmp_path / "set.parquet"
    )
    assert find_sets(f"{tmp_path}/set.parquet")[0].images == 2
    rows = list(evaluation_sets._rows(f"{tmp_path}/set.parquet"))
    assert [row[2] for row in rows] == IMAGES[:2]
    assert evaluation_sets._table(rows, None)["hashes"].null_count == 0


def test_a_suite_file_is_of_the_evaluation_wherever_it_is_and_a_folder_is_one_set(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = f"demo,mine.yaml,{tmp_path}/mine.yml,{tmp_path}/images,./images/,{tmp_path}/x.parquet"
    assert evaluation_sets._divided(words) == (
        {tmp_path / "images": "./images/", tmp_path / "x.parquet": f"{tmp_path}/x.parquet"},
        f"demo,mine.yaml,{tmp_path}/mine.yml",
    )


def test_a_blank_image_is_a_copy_of_the_same_file_alone(tmp_path, filtering):
    blank = Image.new("RGB", (150, 120), "white")
    for form in ("PNG", "BMP"):
        blank.save(tmp_path / f"blank.{form.lower()}")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "blank.png").write_bytes((tmp_path / "blank.png").read_bytes())
    (tmp_path / "set" / "broken.png").write_bytes(b"no image")
    images = [(tmp_path / name).read_bytes() for name in ("blank.png", "blank.bmp")]
    rows = pairs_of(tmp_path / "rows.parquet", [CAPTION] * 2, images, 2)
    done = filtering(rows, tmp_path / "out", stages=STAGES, decontaminate=f"{tmp_path}/set/")
    assert _evidence(done) == {0: ("same bytes", "blank.png")}
    assert "1 evaluation image cannot be decoded" in " ".join(done.said)
    for known in (
        done,
        filtering(rows, tmp_path / "out", stages=STAGES, decontaminate=f"{tmp_path}/set/"),
    ):
        (about,) = known.funnel["checked"]["sets"]
        assert (about["images"], about["unread"]) == (2, 1)
    for page in ("README.md", "report.html"):
        assert "set (2 images, 1 unreadable)" in (tmp_path / "out" / page).read_text()
    (of_run,) = json.loads((tmp_path / "out" / "run.json").read_text())["models"]["evaluation"][
        "sets"
    ]
    assert of_run == {**about, "tasks": []}


def test_rows_without_images_are_refused(tmp_path, filtering, mine):
    (tmp_path / "rows.tsv").write_text(f"url\tcaption\nhttp://127.0.0.1/1.jpg\t{CAPTION}\n")
    with pytest.raises(WrongUse, match="download"):
        filtering(tmp_path / "rows.tsv", tmp_path / "out", stages=STAGES, decontaminate=f"{mine}/")


@pytest.mark.slow
def test_a_task_of_the_evaluation_rejects_its_images(tmp_path, filtering):
    """The sample is a task of the suite demo, in both directions, which are one set."""
    rows = pairs_of(tmp_path / "rows.parquet", [CAPTION] * 2, [IMAGES[0], _cropped(IMAGES[1])], 3)
    done = filtering(rows, tmp_path / "out", stages=STAGES, decontaminate="sample_t2i,sample_i2t")
    found = {
        row["n"]: (row["evaluation_set"], row["evaluation_how"]) for row in done.rows("rejected")
    }
    assert found == {0: ("sample_t2i", "same bytes"), 1: ("sample_t2i", "near copy")}
    (about,) = done.funnel["checked"]["sets"]
    assert about["images"] > 200
