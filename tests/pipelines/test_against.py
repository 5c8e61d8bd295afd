"""Rows that earlier outputs have are rejected with the output, the uid and what they share; no
earlier image is read."""

import io
import json
import shutil
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.storage import stamps, store_path
from open_diht.pipelines.verify.command import main as verify
from tests.pipelines.conftest import pairs_of, sorted_tables

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "images"
IMAGES = [path.read_bytes() for path in sorted(SAMPLE.glob("*.jpg"))[:12]]
CAPTIONS = [f"A brown dog runs on the beach {n}" for n in range(12)]
STAGES = ("captions", "dedup", "export")
NEAR = "{base: paper, against: {images: near}}"


def _as(image: bytes, form: str, **options) -> bytes:
    content = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize((150, 120)).save(content, form, **options)
    return content.getvalue()


def _cropped(image: bytes) -> bytes:
    whole = Image.open(io.BytesIO(image)).convert("RGB")
    content = io.BytesIO()
    ImageOps.mirror(whole).resize((whole.width // 2, whole.height // 2)).save(content, "JPEG")
    return content.getvalue()


def _manifest(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a manifest of uid, url and caption; column n has the number of the row."""
    lines = [f"{n}\t{uid}\t{url}\t{caption}" for n, (uid, url, caption) in enumerate(rows)]
    path.write_text("\n".join(["n\tuid\turl\tcaption", *lines]) + "\n")
    return path


def _uid(number: int) -> str:
    return f"{number:032x}"


def _evidence(done) -> dict[int, tuple[str, str]]:
    found = [row for row in done.rows("rejected") if row["reason"] == "duplicate_earlier"]
    return {int(row["n"]): (Path(row["earlier_output"]).name, row["earlier_how"]) for row in found}


def _verdicts(done) -> dict[int, str]:
    return {int(n): verdict for n, verdict in done.verdicts().items()}


def test_a_uid_or_a_pair_of_an_earlier_output_is_rejected_with_its_evidence(tmp_path, filtering):
    captions = {"stages": ("captions", "dedup")}
    old = [(_uid(n), f"http://a/{n}", CAPTIONS[n]) for n in range(5)]
    older = [(_uid(50), "http://a/50", CAPTIONS[7]), (_uid(51), "http://a/51", "IMG_1.jpg")]
    first = filtering(_manifest(tmp_path / "1.tsv", old), tmp_path / "1", **captions, unit_rows=2)
    second = filtering(_manifest(tmp_path / "2.tsv", older), tmp_path / "2", **captions)
    rows = [
        (_uid(0), "http://b/0", CAPTIONS[8]),  # the uid of an earlier row
        (_uid(100), "http://a/1", CAPTIONS[1]),  # its pair
        (_uid(101), "http://a/1", CAPTIONS[2]),  # its url alone
        (_uid(102), "http://a/50", CAPTIONS[7]),
        (_uid(103), "http://a/51", "IMG_1.jpg"),  # rejected before, here and there
        (_uid(104), "http://a/51", CAPTIONS[9]),
        (_uid(105), "http://a/51", CAPTIONS[9]),  # a duplicate in this run
    ]
    new = _manifest(tmp_path / "new.tsv", rows)
    asked = {"against": f"{tmp_path}/1, {tmp_path}/2", "unit_rows": 3, **captions}
    done = filtering(new, tmp_path / "out", **asked)
    assert _verdicts(done) == {
        0: "duplicate_earlier",
        1: "duplicate_earlier",
        2: "kept",
        3: "duplicate_earlier",
        4: "complexity",
        5: "kept",
        6: "duplicate_pair",
    }
    assert _evidence(done) == {0: ("1", "uid"), 1: ("1", "pair"), 3: ("2", "pair")}
    kept = {row["uid"] for done in (first, second) for row in done.rows("kept")}
    cited = [row["earlier_uid"] for row in done.rows("rejected") if row["earlier_uid"]]
    assert len(cited) == 3 and set(cited) <= kept
    assert all(row["earlier_output"] is None for row in done.rows("kept"))
    assert filtering(new, tmp_path / "out", **asked).did_nothing
    assert "| compared with |" in (tmp_path / "out" / "README.md").read_text()
    assert any("(6 rows): by uid, pair, of 6 rows" in line for line in done.said)
    without = filtering(new, tmp_path / "out", **captions, unit_rows=3)
    assert set(without.verdicts().values()) == {"kept", "complexity", "duplicate_pair"}
    assert "earlier_output" not in without.rows("kept")[0]


def test_images_are_compared_by_bytes_pixels_and_near_copies_as_the_preset_says(
    tmp_path, filtering
):
    images = [IMAGES[0], _as(IMAGES[1], "PNG"), *IMAGES[2:4]]
    old = pairs_of(tmp_path / "old.parquet", CAPTIONS[:4], images, 4)
    seen = [IMAGES[0], _as(IMAGES[1], "BMP"), _cropped(IMAGES[2]), IMAGES[3], *IMAGES[4:6]]
    captions = [*CAPTIONS[4:7], CAPTIONS[3], *CAPTIONS[8:10]]
    new = pairs_of(tmp_path / "new.parquet", captions, seen, 3)
    asked = {"stages": STAGES, "unit_rows": 3}
    filtering(old, tmp_path / "old", preset=NEAR, **asked)
    shutil.move(tmp_path / "old.parquet", tmp_path / "moved.parquet")  # no image is read again
    found = {0: "bytes", 1: "pixels", 2: "near", 3: "pair"}
    asked["against"] = f"{tmp_path}/old"
    for asks, kinds in {
        "near": {"bytes", "pixels", "near", "pair"},
        "pixels": {"bytes", "pixels", "pair"},
        "bytes": {"bytes", "pair"},
        "none": {"pair"},
    }.items():
        preset = f"{{base: paper, against: {{images: {asks}}}}}"
        done = filtering(new, tmp_path / "out", preset=preset, **asked)
        expected = {n: ("old", how) for n, how in found.items() if how in kinds}
        assert _evidence(done) == expected, asks
    near = filtering(new, tmp_path / "out", preset=NEAR, **asked)
    bits = {row["n"]: row["earlier_bits"] for row in near.rows("rejected")}
    assert bits[0] == bits[1] == bits[3] == 0 and 0 <= bits[2] <= 22
    closer = f"{{base: paper, against: {{images: near, distance: {int(bits[2])}}}}}"
    assert len(_evidence(filtering(new, tmp_path / "out", preset=closer, **asked))) == 4
    if bits[2]:
        closer = f"{{base: paper, against: {{images: near, distance: {int(bits[2]) - 1}}}}}"
        assert len(_evidence(filtering(new, tmp_path / "out", preset=closer, **asked))) == 3


def test_a_preset_names_earlier_outputs_and_the_option_replaces_them(tmp_path, filtering):
    rows = [(_uid(n), f"http://a/{n}", CAPTIONS[n]) for n in range(3)]
    old = _manifest(tmp_path / "old.tsv", rows)
    stages = ("captions",)
    filtering(old, tmp_path / "old", stages=stages)
    preset = f"{{base: paper, against: {{outputs: [{tmp_path}/old]}}}}"
    done = filtering(old, tmp_path / "out", preset=preset, stages=stages)
    assert set(done.verdicts().values()) == {"duplicate_earlier"}
    others = [(_uid(10 + n), f"http://c/{n}", CAPTIONS[n]) for n in range(3)]
    filtering(_manifest(tmp_path / "c.tsv", others), tmp_path / "c", stages=stages)
    done = filtering(old, tmp_path / "out", preset=preset, stages=stages, against=f"{tmp_path}/c")
    assert set(done.verdicts().values()) == {"kept"}


def test_an_earlier_output_that_changed_is_compared_again(tmp_path, filtering):
    rows = [(_uid(n), f"http://a/{n}", CAPTIONS[n]) for n in range(4)]
    all_of_them = _manifest(tmp_path / "all.tsv", rows)
    few = "{base: paper, columns: {n: {max: 1}}}"
    filtering(all_of_them, tmp_path / "old", preset=few, stages=("captions",))
    asked = {"against": f"{tmp_path}/old", "stages": ("captions",)}
    done = filtering(all_of_them, tmp_path / "out", **asked)
    assert sorted(_evidence(done)) == [0, 1]
    filtering(all_of_them, tmp_path / "old", stages=("captions",))
    assert sorted(_evidence(filtering(all_of_them, tmp_path / "out", **asked))) == [0, 1, 2, 3]


@pytest.fixture
def compared(tmp_path, filtering):
    """A run with images against an earlier output."""
    old = pairs_of(tmp_path / "old.parquet", CAPTIONS[:3], IMAGES[:3], 3)
    captions = [CAPTIONS[0], *CAPTIONS[3:7]]  # the first is the same pair
    images = [IMAGES[0], IMAGES[3], *IMAGES[:3]]
    new = pairs_of(tmp_path / "new.parquet", captions, images, 2)
    filtering(old, tmp_path / "old", preset=NEAR, stages=STAGES)
    done = filtering(
        new, tmp_path / "out", preset=NEAR, stages=STAGES, against=f"{tmp_path}/old", unit_rows=2
    )
    assert len(_evidence(done)) == 4
    return done


def test_verify_looks_all_rows_up_again(tmp_path, compared, capsys):
    assert verify([str(tmp_path / "out")]) == 0
    assert "looked up again among 3 rows" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "old")
    assert verify([str(tmp_path / "out")]) == 0
    assert "its keys as they were copied are checked" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["pair", "bytes", "near"])
def test_verify_finds_a_row_that_no_earlier_output_has(tmp_path, compared, kind, capsys):
    folder = tmp_path / "out" / "work" / f"against_{kind}_duplicates" / "data"
    (path,) = [one for one in sorted(folder.glob("*.parquet")) if pq.read_table(one).num_rows][:1]
    pq.write_table(pq.read_table(path).slice(1), path)
    assert verify([str(tmp_path / "out")]) == 1
    assert path.name in capsys.readouterr().out


def test_verify_finds_that_run_json_names_another_earlier_output(tmp_path, compared, capsys):
    path = tmp_path / "out" / "run.json"
    record = json.loads(path.read_text())
    record["models"]["against"]["outputs"][0]["identity"] = "0" * 16
    path.write_text(json.dumps(record))
    assert verify([str(tmp_path / "out")]) == 1
    assert "earlier outputs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("against", "remedy"),
    [
        ("{}/nowhere", "does not exist"),
        ("{}/root", "name the folder that was its OUTPUT"),
        ("{}/old,", "name the OUTPUT of each earlier run"),
        ("{}/old,{}/old", "name each earlier output once"),
        ("{}/out", "name earlier ones"),
        ("{}/unfinished", "finish it with the same command first"),
        ("{}/lacking", "run its command again"),
        ("{}/begun", "run its command again"),
        ("{}/captions", "set against.images of this preset to none"),
    ],
)
def test_what_is_no_earlier_output_is_refused_before_any_work(tmp_path, filtering, against, remedy):
    (tmp_path / "root").symlink_to("/")
    old = pairs_of(tmp_path / "old.parquet", CAPTIONS[:2], IMAGES[:2], 2)
    rows = [(_uid(n), f"http://a/{n}", CAPTIONS[n]) for n in range(3)]
    asked = against.replace("{}", str(tmp_path))
    if against.endswith("captions"):
        manifest = _manifest(tmp_path / "c.tsv", rows)
        filtering(manifest, tmp_path / "captions", stages=("captions",))
    elif "nowhere" not in against and "root" not in against:
        filtering(old, tmp_path / "old", preset=NEAR, stages=STAGES)
        for name in ("out", "unfinished", "lacking", "begun"):
            shutil.copytree(tmp_path / "old", tmp_path / name)
        (tmp_path / "unfinished" / "funnel.json").unlink()
        # A run with another preset was killed before it made all keys.
        fingerprints = tmp_path / "begun" / "work" / "pair_keys" / "fingerprints.json"
        fingerprints.write_text(json.dumps({"00000-00000": "another"}))
        next((tmp_path / "lacking" / "work" / "pair_keys" / "data").iterdir()).unlink()
    with pytest.raises(WrongUse) as refused:
        filtering(old, tmp_path / "out", stages=STAGES, against=asked)
    text = str(refused.value)
    assert remedy in text and "\n" not in text and tmp_path.name in text


def test_hashes_that_an_earlier_output_lacks_are_refused_with_the_remedy(tmp_path, filtering):
    old = pairs_of(tmp_path / "old.parquet", CAPTIONS[:2], IMAGES[:2], 2)
    dedup = "{base: paper, dedup: {images: true}}"
    filtering(old, tmp_path / "old", preset=dedup, stages=STAGES)
    with pytest.raises(WrongUse, match="set it to bytes in this one"):
        filtering(old, tmp_path / "out", preset=NEAR, stages=STAGES, against=f"{tmp_path}/old")
    done = filtering(old, tmp_path / "out", stages=STAGES, against=f"{tmp_path}/old")
    assert {how for _, how in _evidence(done).values()} == {"pair"}


def test_rows_without_url_and_image_equal_no_earlier_row(tmp_path, filtering):
    for name in ("1", "2"):
        (tmp_path / f"{name}.tsv").write_text("n\tcaption\n0\tA brown dog runs on the beach\n")
    filtering(tmp_path / "1.tsv", tmp_path / "one", stages=("captions",))
    done = filtering(
        tmp_path / "2.tsv", tmp_path / "two", stages=("captions",), against=f"{tmp_path}/one"
    )
    assert _verdicts(done) == {0: "kept"}


def test_many_ranges_find_what_one_finds(tmp_path, filtering, monkeypatch):
    rows = [(_uid(7 * n), f"http://a/{n}", CAPTIONS[n % 12]) for n in range(40)]
    old = _manifest(tmp_path / "old.tsv", rows[:20])
    new = _manifest(tmp_path / "new.tsv", rows[10:])
    filtering(old, tmp_path / "old", stages=("captions",))
    asked = {"against": f"{tmp_path}/old", "stages": ("captions",), "unit_rows": 7}
    one = filtering(new, tmp_path / "one", **asked)
    monkeypatch.setattr("open_diht.pipelines.stages.against.MEMORY", 300)
    many = filtering(new, tmp_path / "many", **asked)
    assert many.tables() == one.tables() and len(_evidence(many)) == 10
    names = list((tmp_path / "many" / "work" / "against_uid_duplicates" / "data").iterdir())
    assert len(names) > 1


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", pytest.param("store", marks=pytest.mark.store)])
def test_killed_in_each_of_its_stages_it_equals_an_undisturbed_run(
    place, tmp_path, filtering, compared, runs, request
):
    """On a disk, and in one of them with both outputs in a store, where each run takes longer."""
    root = request.getfixturevalue("bucket") if place == "store" else tmp_path
    preset = tmp_path / "near.yaml"
    preset.write_text(NEAR)
    old = store_path(f"{root}/earlier")
    asked = ["--stages", ",".join(STAGES), "--preset", str(preset), "--unit-rows", "2"]
    runs.finish(tmp_path / "old.parquet", old, *asked)
    output = store_path(f"{root}/killed")
    asked += ["--against", str(old)]
    stages = ("against_earlier", "against_keys", "against_bytes_duplicates", "decide")
    for stage in stages[1:2] if place == "store" else stages:
        killed = runs.start(tmp_path / "new.parquet", output, *asked)
        while not stamps(output / "work" / stage / "commits", ".json"):
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.002)
        killed.clear()
        assert killed.returncode == -signal.SIGKILL, killed.communicate()[0]
        for left in (output / "work" / "leases").glob("*.json"):
            left.unlink()  # of the killed run; it would count for minutes
    runs.finish(tmp_path / "new.parquet", output, *asked)

    def without_output(tables):
        return {
            kind: [{**row, "earlier_output": None} for row in rows] for kind, rows in tables.items()
        }

    ended = sorted_tables(output)  # type: ignore[arg-type]
    assert without_output(ended) == without_output(compared.tables())


def test_captions_first_and_then_what_is_left_keeps_what_one_run_keeps(tmp_path, filtering):
    """Rows without URL and uid: the uids that the first run makes are of captions alone."""
    for name, images in (("old", IMAGES[:3]), ("new", [IMAGES[0], *IMAGES[3:5]])):
        rows = {"caption": CAPTIONS[:3], "image": pa.array(images, pa.binary())}
        pq.write_table(pa.table({"n": range(3), **rows}), tmp_path / f"{name}.parquet")
    asked = {"stages": STAGES, "against": f"{tmp_path}/old"}
    preset = "{base: paper, dedup: {images: true}}"
    filtering(tmp_path / "old.parquet", tmp_path / "old", preset=preset, stages=STAGES)
    once = filtering(tmp_path / "new.parquet", tmp_path / "once", **asked)
    assert _verdicts(once) == {0: "duplicate_earlier", 1: "kept", 2: "kept"}
    first = {**asked, "stages": ("captions",)}
    filtering(tmp_path / "new.parquet", tmp_path / "first", **first)
    then = filtering(tmp_path / "first" / "kept", tmp_path / "then", **asked)
    assert _verdicts(then) == {1: "kept", 2: "kept"}
    none = "{base: paper, against: {images: none}}"  # the same pair, by the image's bytes
    alone = filtering(tmp_path / "new.parquet", tmp_path / "alone", preset=none, **asked)
    assert _evidence(alone) == {0: ("old", "pair")}


def test_hashes_of_some_images_are_no_hashes(tmp_path, filtering):
    old = pairs_of(tmp_path / "old.parquet", CAPTIONS[:4], IMAGES[:4], 4)
    few = "{base: paper, against: {images: near}, columns: {n: {max: 0}}}"
    filtering(old, tmp_path / "old", preset=few, stages=STAGES)
    filtering(old, tmp_path / "old", stages=STAGES)
    with pytest.raises(WrongUse, match="has no hashes of its images"):
        filtering(old, tmp_path / "out", preset=NEAR, stages=STAGES, against=f"{tmp_path}/old")


def test_damage_of_the_same_size_ends_the_run_with_the_remedy(tmp_path, filtering):
    rows = [(_uid(n), f"http://a/{n}", CAPTIONS[n]) for n in range(3)]
    old = _manifest(tmp_path / "old.tsv", rows)
    filtering(old, tmp_path / "old", stages=("captions",))
    (path,) = (tmp_path / "old" / "work" / "pair_keys" / "data").iterdir()
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFailed, match=f"run the command of {tmp_path}/old again"):
        filtering(old, tmp_path / "out", stages=("captions",), against=f"{tmp_path}/old")
