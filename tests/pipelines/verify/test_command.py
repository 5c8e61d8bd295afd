"""`make verify`: it finds every damage, names the row or the file, calls no good output damaged,
and writes nothing."""

import itertools
import json
import math
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

for module in ("torch", "open_clip"):
    pytest.importorskip(module, reason=f"{module} is not installed: pip install '.[score]'")

from open_diht.common.command_line import WrongUse  # noqa: E402
from open_diht.common.files import sha256_file  # noqa: E402
from open_diht.common.shard_index import load, save  # noqa: E402
from open_diht.pipelines.datasets import load_dataset  # noqa: E402
from open_diht.pipelines.manifests.plan import load_plan  # noqa: E402
from open_diht.pipelines.settings import INDEX, ScoreSettings  # noqa: E402
from open_diht.pipelines.stages import captions  # noqa: E402
from open_diht.pipelines.stages.tar_indexes import kept_samples  # noqa: E402
from open_diht.pipelines.store.layout import Layout  # noqa: E402
from open_diht.pipelines.store.locking import is_locked, output_lock  # noqa: E402
from open_diht.pipelines.store.storage import store_path  # noqa: E402
from open_diht.pipelines.verify import command, findings, rows  # noqa: E402
from open_diht.pipelines.verify.command import main, verify  # noqa: E402
from open_diht.pipelines.verify.findings import Difference, Verification, escape  # noqa: E402
from open_diht.pipelines.verify.options import parse  # noqa: E402
from open_diht.pipelines.verify.provenance import UNRECORDED  # noqa: E402
from tests.pipelines.conftest import (  # noqa: E402
    _UNCOLLECTED,
    _lasting_annotator,
    _LastingSpotter,
    pairs_of,
    tar_of,
)
from tests.tiny_clip import write_tiny  # noqa: E402

SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample" / "images"
ROWS = 60
UNIT = "00000-00001"
PRESET = "base: paper\nscore: {min: -1}\ndedup: {pairs: true}"
KEPT = f"kept/part-{UNIT}.parquet"
REJECTED = f"rejected/part-{UNIT}.parquet"
SCORED = f"work/score/data/{UNIT}.0000.g0.parquet"
ANNOTATED = f"work/captions/data/{UNIT}.parquet"
SHARD = f"shards/{UNIT}-000.tar"


@pytest.fixture(autouse=True)
def _lasting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TextSpotter", _LastingSpotter)
    monkeypatch.setattr(captions, "CaptionAnnotator", _lasting_annotator)
    monkeypatch.setattr(captions, "gc", _UNCOLLECTED)


def checked(output: Any, *words: object) -> Verification:
    return verify(store_path(output), parse([str(output), *map(str, words)]))


@pytest.fixture(scope="module")
def scored(
    with_images: Any, filtering: Any, ocr_models: None, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """An output with all that may be damaged, and its manifest, which was moved since, so that it
    is not found."""
    folder = tmp_path_factory.mktemp("verified")
    rows = with_images(folder / "first" / "images", ROWS)
    manifest = folder / "first" / "pairs.tsv"
    filler = "x" * 3_000  # a change in the middle is then beyond the ends that a fingerprint covers
    lines = [
        "\t".join([*rows[0], "filler"]),
        *("\t".join([*map(str, row.values()), filler]) for row in rows),
    ]
    manifest.write_text("\n".join([*lines, lines[1], "7\ttoo few fields"]) + "\n", encoding="utf-8")
    model = ScoreSettings(
        model=f"local-dir:{write_tiny(folder / 'tiny')}", device="cpu", precision="fp32"
    )
    preset = folder / "mine.yaml"
    preset.write_text(PRESET, encoding="utf-8")
    done = filtering(
        manifest, folder / "out", unit_rows=20, preset=str(preset), score=model, max_dead_share=1
    )
    assert (
        done.status == 0
        and done.funnel["rejected"]["duplicate_pair"]
        and done.funnel["dead_letter"]["rows"] == 1
    )
    (folder / "first").rename(folder / "moved")
    return folder / "out", folder / "moved" / "pairs.tsv"


@pytest.fixture
def copied(scored: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored[0], tmp_path / "copy"))


# ---- good outputs


def test_a_good_output_has_no_difference_and_nothing_is_written_into_it(scored: Any) -> None:
    output, manifest = scored
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    found = checked(output, "--input", manifest)
    assert not found.differences and [*found.skipped] == [UNRECORDED], [*found.lines()]
    assert found.rows == found.sampled == ROWS + 1 and found.read_again == (ROWS + 1, ROWS + 1)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
    lost = checked(output)
    assert (
        not lost.differences
        and any("--input" in line for line in lost.skipped)
        and lost.read_again == (0, 0)
    )


@pytest.mark.slow
def test_outputs_of_workers_resumed_and_decided_again(paper, pairs, strict, filtering, tmp_path):
    assert not checked(paper.output).differences and not checked(strict.output).differences
    output = Path(shutil.copytree(paper.output, tmp_path / "again"))
    (output / KEPT).unlink()
    filtering(pairs, output, unit_rows=15)
    assert not checked(output).differences
    filtering(pairs, output, unit_rows=15, preset="strict")
    filtering(pairs, output, unit_rows=15, preset="strict", stages=("captions", "dedup"))
    found = checked(output)
    assert not found.differences and "exports: the run made none" in found.skipped


@pytest.mark.slow
def test_outputs_of_shards_of_lean_runs_and_of_several_captions(pairs, filtering, tmp_path):
    for shard in ((0, 2), (1, 2)):
        filtering(
            pairs, tmp_path / "shards", unit_rows=15, shard=shard, stages=("captions", "export")
        )
    filtering(pairs, tmp_path / "lean", lean=True, stages=("captions",))
    several = tmp_path / "several.jsonl"
    texts = [
        ["a dog runs", "IMG_1"],
        ["IMG_2", "IMG_3"],
        ["a red cat sleeps on a sofa", "two men talk"],
    ]
    several.write_text(
        "".join(json.dumps({"caption": some, "url": str(n)}) + "\n" for n, some in enumerate(texts))
    )
    dataset = load_dataset("custom").with_roles(captions=("caption",))
    filtering(several, tmp_path / "several", dataset=dataset, stages=("captions",))
    for name in ("shards", "lean", "several"):
        found = checked(tmp_path / name)
        assert not found.differences and found.sampled == found.read_again[0] > 0, [*found.lines()]


def test_an_output_in_a_store(scored: Any) -> None:
    output, manifest = scored
    fs = fsspec.filesystem("memory")
    for path in output.rglob("*"):
        if path.is_file() and not path.name.endswith("lock"):
            fs.pipe_file(f"/verified/{path.relative_to(output)}", path.read_bytes())
    try:
        found = checked("memory://verified", "--input", manifest)
        assert not found.differences and found.sampled == ROWS + 1, [*found.lines()]
        fs.rm(f"/verified/{KEPT}")
        assert any(
            one.file.endswith(KEPT)
            for one in checked("memory://verified", "--sample", 0).differences
        )
    finally:
        fs.rm("/verified", recursive=True)


def test_an_output_without_hashes_is_checked_by_size(copied: Path) -> None:
    """Outputs of earlier versions have none."""
    for path in records_of(copied):
        altered(path, lambda record: record.pop("hashes", None))
    found = checked(copied)
    assert not found.differences and any("no SHA-256" in line for line in found.skipped)


# ---- damage


def with_value(path: Path, column: str, row: int, value: object) -> None:
    """Change a value in a Parquet file."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, table[column].type)), path)


def altered(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file in place."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def uid_at(output: Path, name: str, row: int = 0) -> str:
    return str(pq.read_table(output / name, columns=["uid"])["uid"][row])


def moved(output: Path) -> str:
    kept, rejected = (pq.read_table(output / name) for name in (KEPT, REJECTED))
    pq.write_table(
        pa.concat_tables([kept, rejected.slice(0, 1).select(kept.column_names)]), output / KEPT
    )
    pq.write_table(rejected.slice(1), output / REJECTED)
    return str(rejected["uid"][0])


def flipped(output: Path) -> str:
    row = pq.read_table(output / REJECTED)["reason"].to_pylist().index("action")
    with_value(output / REJECTED, "reason", row, "complexity")
    return uid_at(output, REJECTED, row)


def captioned(output: Path) -> str:
    with_value(output / KEPT, "caption", 0, "a man eats a red apple")
    return uid_at(output, KEPT)


def without_a_caption(output: Path) -> str:
    with_value(output / KEPT, "caption", 0, None)
    return uid_at(output, KEPT)


def without_a_uid(output: Path) -> str:
    with_value(output / KEPT, "uid", 0, None)
    return KEPT


def with_another_shard(output: Path) -> str:
    shutil.copy(output / SHARD, output / "shards" / "mine.tar")
    return "shards/mine.tar"


def with_a_link_to_nowhere(output: Path) -> str:
    (output / "kept" / "mine.parquet").symlink_to("gone.parquet")
    return "kept/mine.parquet"


def swapped(output: Path) -> str:
    one = output / KEPT
    other = output / "kept/part-00000-00000.parquet"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return KEPT


def truncated(output: Path) -> str:
    (output / SHARD).write_bytes((output / SHARD).read_bytes()[:-20_000])
    return SHARD


def doubled(output: Path) -> str:
    uid = uid_at(output, KEPT)
    with_value(output / KEPT, "uid", 1, uid)
    return uid


def another_preset(output: Path) -> str:
    altered(
        output / "run.json", lambda record: record["preset"]["captions"].update(min_complexity=3)
    )
    return "run.json"


def another_model(output: Path) -> str:
    for row in range(len(pq.read_table(output / ANNOTATED))):
        with_value(output / ANNOTATED, "actions", row, [])
    return UNIT


def without_dead_letters(output: Path) -> str:
    (path,) = [path for path in output.glob("dead_letter/*.parquet") if len(pq.read_table(path))]
    path.unlink()
    return path.name


def scored_higher(output: Path) -> str:
    with_value(output / KEPT, "clip_score", 0, 0.99)
    return uid_at(output, KEPT)


def embedded_higher(output: Path) -> str:
    with_value(output / SCORED, "clip_score", 0, 0.99)
    return uid_at(output, SCORED)


def without_a_shard(output: Path) -> str:
    (output / SHARD).unlink()
    return SHARD


DAMAGE = (
    *(
        moved,
        flipped,
        captioned,
        swapped,
        truncated,
        doubled,
        another_preset,
        another_model,
        without_dead_letters,
    ),
    *(
        scored_higher,
        embedded_higher,
        without_a_shard,
        without_a_caption,
        without_a_uid,
        with_another_shard,
    ),
    with_a_link_to_nowhere,
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_by_its_record_and_without_it(
    damage: Callable[[Path], str], copied: Path
) -> None:
    """Whoever alters a file may alter its record too. Then the rows still disagree with their
    annotations."""
    named = damage(copied)

    def names(one: Difference) -> bool:
        return one.part != "input" and (named in one.file or named == one.uid)

    found = checked(copied)
    assert any(map(names, found.differences)), [*found.lines()]
    forge(copied)
    found = checked(copied)
    if damage is another_preset:
        assert {one.part for one in found.differences} == {"decisions"}, [*found.lines()]
    else:
        assert any(map(names, found.differences)), [*found.lines()]


# ---- exports

Members = list[tuple[str, bytes]]


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]


def another_image(members: Members, images: list[int]) -> None:
    """An image of the same size."""
    name, content = members[images[0]]
    members[images[0]] = (name, content[:-1] + bytes([content[-1] ^ 1]))


def swapped_images(members: Members, images: list[int]) -> None:
    first = images[0]
    second = next(n for n in images if members[n][1] != members[images[0]][1])
    (one, mine), (other, theirs) = members[first], members[second]
    members[first], members[second] = (one, theirs), (other, mine)


def doubled_sample(members: Members, images: list[int]) -> None:
    """In place of another."""
    members[images[1] : images[1] + 3] = members[images[0] : images[0] + 3]


def another_json(members: Members, images: list[int]) -> None:
    name, content = members[images[0] + 2]
    members[images[0] + 2] = (name, content.replace(b'"complexity": ', b'"complexity": 1'))


def another_text(members: Members, images: list[int]) -> None:
    members[images[0] + 1] = (members[images[0] + 1][0], b"another caption")


def foreign_member(members: Members, images: list[int]) -> None:
    members.append(("mine.txt", b"a foreign member"))


def without_a_sample(members: Members, images: list[int]) -> None:
    del members[images[0] : images[0] + 3]


EXPORTS = (
    another_image,
    swapped_images,
    doubled_sample,
    another_json,
    another_text,
    foreign_member,
    without_a_sample,
)


@pytest.mark.parametrize("change", EXPORTS)
def test_an_altered_shard_is_found_although_all_records_were_altered_to_match(
    change: Callable[[Members, list[int]], None], scored: Any, copied: Path
) -> None:
    members = members_of(copied / SHARD)
    change(members, [*range(0, len(members), 3)])
    tar_of(copied / SHARD, members)
    samples = sum(name.endswith(".png") for name, _ in members)
    altered(
        copied / f"work/export/commits/{UNIT}.json",
        lambda record: record.update(
            rows=samples, shards=[{**record["shards"][0], "samples": samples}]
        ),
    )
    sizes = copied / "shards" / "sizes.json"
    altered(sizes, lambda content: content.update({Path(SHARD).name: samples}))
    altered(
        copied / "shards/manifest.json",
        lambda content: content.update(samples=sum(json.loads(sizes.read_text()).values())),
    )
    forge(copied)
    found = checked(copied, "--input", scored[1])
    assert {Path(one.file).name for one in found.differences} <= {
        Path(SHARD).name,
        f"{UNIT}.json",
    }, [*found.lines()]
    assert any(one.file.endswith(SHARD) for one in found.differences), [*found.lines()]


@pytest.mark.parametrize("altered_part", ["uid", "place"])
def test_an_altered_index_of_the_tars_of_the_input_is_found(
    altered_part: str, filtering: Any, draw: Any, tmp_path: Path
) -> None:
    members: Members = []
    texts = "A brown dog runs on the sand", "A man throws a red ball", "A girl rides a small pony"
    for number, caption in enumerate(texts):
        image = draw(tmp_path / "image.png", size=(32 + number, 32)).read_bytes()
        members += [(f"{number}.png", image), (f"{number}.txt", caption.encode())]
    tar_of(tmp_path / "in.tar", members)
    done = filtering(
        tmp_path / "in.tar", tmp_path / "out", stages=("captions", "export"), export=INDEX
    )
    assert done.funnel["left"]["samples"] == 3 and not checked(tmp_path / "out").differences
    layout = Layout(tmp_path / "out")
    whole = Path(str(layout.index("00000-00000")))
    listed = Path(str(layout.indexes / "in.tar.npz"))
    index = load(whole)
    if altered_part == "place":  # in both indexes, so that only the tar shows it
        index.rows["image_at"][0] += 1
        save(index, whole)
        save(kept_samples(layout, index, load_plan(layout.plan).units)[0], listed)
    else:
        index = load(listed)
        index.rows["uid_low"][0] ^= 1
        save(index, listed)
    forge(tmp_path / "out")
    one, *_ = checked(tmp_path / "out").differences
    assert (one.part, one.file) == (
        ("input", str(whole)) if altered_part == "place" else ("structure", str(listed))
    )


# ---- columns, files and dead letters


@pytest.mark.parametrize("kind", ["added", "retyped"])
def test_other_columns_are_found_although_all_records_were_altered_to_match(
    kind: str, copied: Path
) -> None:
    """Without the input, too, and in units of which no row was sampled."""
    table = pq.read_table(copied / KEPT)
    place = table.column_names.index("complexity")
    column = table["complexity"].cast(pa.int64())
    table = (
        table.append_column("mine", column)
        if kind == "added"
        else table.set_column(place, "complexity", column)
    )
    pq.write_table(table, copied / KEPT)
    forge(copied)
    told = {one.file: one.what for one in checked(copied, "--sample", 0).differences}
    assert ("mine" if kind == "added" else "int64") in told[str(copied / KEPT)]


@pytest.mark.parametrize(
    "name", ["kept/mine.csv", "rejected/part-9.parquet", "shards/mine.txt", "index/mine.npz"]
)
def test_a_file_that_is_not_of_the_run_is_found(name: str, copied: Path) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_bytes(b"mine")
    (copied / "mine.txt").write_bytes(b"")
    found = checked(copied, "--sample", 0)
    assert [one.file for one in found.differences] == [str(copied / name)]
    assert any("mine.txt" in line for line in found.skipped)


@pytest.mark.parametrize("column", ["file", "unit", "uid", "caption", "stage", "message", "raw"])
@pytest.mark.parametrize("row", ["manifest", "spotting"])
def test_an_altered_dead_letter_is_found(
    row: str, column: str, lossy: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(lossy, tmp_path / "copy"))
    (path,) = (
        path
        for path in copy.glob("dead_letter/*.parquet")
        if row in pq.read_table(path)["stage"].to_pylist()
    )
    place = pq.read_table(path)["stage"].to_pylist().index(row)
    with_value(path, column, place, b"mine" if column == "raw" else "mine")
    forge(copy)
    found = checked(copy)
    assert any(one.file == str(path) and column in one.what for one in found.differences), [
        *found.lines()
    ]


@pytest.fixture(scope="module")
def lossy(
    with_images: Any,
    tsv: Any,
    filtering: Any,
    ocr_models: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An output with dead letters of the manifest and of images."""
    folder = tmp_path_factory.mktemp("lossy")
    rows = with_images(folder / "images", 4)
    (folder / "images" / "broken.png").write_bytes(b"no image")
    rows += [{"n": 4, "caption": "A brown dog runs on the sand", "image_path": "images/broken.png"}]
    manifest = tsv(folder / "pairs.tsv", rows)
    with manifest.open("a", encoding="utf-8") as file:
        file.write("only one field\n")
    done = filtering(manifest, folder / "out", max_dead_share=1)
    assert done.funnel["dead_letter"]["rows"] == 2
    return folder / "out"


def test_dead_letters_of_the_manifest_and_of_images_are_no_differences(lossy: Path) -> None:
    found = checked(lossy)
    assert not found.differences and found.read_again == (5, 5), [*found.lines()]


def test_a_row_that_the_input_does_not_have_among_those_that_cannot_be_read_is_found(
    lossy: Path, tmp_path: Path
):
    copy = Path(shutil.copytree(lossy, tmp_path / "copy"))
    for path in (*copy.glob("work/captions/dead/*.parquet"), *copy.glob("dead_letter/*.parquet")):
        with_value(
            path, "message", pq.read_table(path)["stage"].to_pylist().index("manifest"), "mine"
        )
    forge(copy)
    assert {one.part for one in checked(copy).differences} == {"input"}


# ---- records


def records_of(output: Path) -> list[Path]:
    exported = output / "work" / "exported.json"  # not of a run without exports
    return [
        output / "funnel.json",
        *([exported] if exported.exists() else []),
        *output.glob("work/*/commits/*.json"),
    ]


def forge(output: Path) -> None:
    """Make all records agree with the files as they are."""

    def agree(record: Any) -> None:
        there = [name for name in record["files"] if (output / name).exists()]
        record["files"] = {name: (output / name).stat().st_size for name in there}
        record["hashes"] = {name: sha256_file(output / name) for name in there}
        for shard in record.get("shards", ()):
            if (output / "shards" / shard["shard"]).exists():
                shard["sha256"] = sha256_file(output / "shards" / shard["shard"])

    manifest = output / "shards" / "manifest.json"
    exported = output / "work" / "exported.json"
    for path in records_of(output):
        if path != exported:
            altered(path, agree)
    if manifest.exists():
        shards = [
            json.loads(path.read_text())["shards"]
            for path in sorted(output.glob("work/export/commits/*.json"))
        ]
        altered(manifest, lambda content: content.update(shards=[*itertools.chain(*shards)]))
    if exported.exists():
        altered(exported, agree)


@pytest.mark.parametrize(
    "name",
    ["/dev/zero", "../outside", "kept/../../outside", "file:///etc/passwd", "shards", "a\0b"],
)
def test_names_that_lead_out_of_the_output_are_differences(name: str, copied: Path) -> None:
    """Whoever made an output may have written any name into its records, and nothing else is read
    for it."""
    (copied.parent / "outside").write_bytes(b"secret")

    def lead_out(record: Any) -> None:
        record["files"][name], record["hashes"], record["shards"][0]["shard"] = (
            6,
            {name: "0" * 64},
            name,
        )

    altered(copied / f"work/export/commits/{UNIT}.json", lead_out)
    what = (
        "is not a regular file" if name == "shards" else f"names {name}, which is not in the output"
    )
    assert what in [one.what for one in checked(copied, "--sample", 0).differences]


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", ".."])
def test_units_whose_files_would_not_be_in_the_output_are_differences(
    name: str, copied: Path
) -> None:
    altered(copied / "work" / "plan.json", lambda plan: plan["units"][0].update(name=name))
    (one,) = checked(copied).differences
    assert one.file.endswith("plan.json") and repr(name) in one.what


@pytest.mark.parametrize("kind", ["pipe", "link", "pipe in a record"])
def test_files_that_are_not_regular_are_differences_and_are_not_opened(
    kind: str, copied: Path
) -> None:
    path = copied / ("other" if kind == "pipe in a record" else ANNOTATED)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind.startswith("pipe") else path.symlink_to("/dev/zero")
    altered(copied / "funnel.json", lambda record: record["files"].update(other=0))
    altered(copied / "funnel.json", lambda record: record["hashes"].update(other="0" * 64))
    found = {one.file: one.what for one in checked(copied, "--sample", 0).differences}
    assert found[str(path)] == (
        "is a link that leads out of the output" if kind == "link" else "is not a regular file"
    )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (f"work/export/commits/{UNIT}.json", {"shards": [{}]}),
        (f"work/export/commits/{UNIT}.json", {"shards": 5}),
        (f"work/export/commits/{UNIT}.json", {"files": {"kept": "many"}}),
        (f"work/captions/commits/{UNIT}.json", {"hashes": 5}),
        (f"work/captions/commits/{UNIT}.json", {"good": [1]}),
        ("funnel.json", {"hashes": {"kept": 5}}),
        ("run.json", {"models": {"captions": 5}}),
        ("run.json", {"dataset": 5}),
    ],
)
def test_an_altered_record_is_a_difference(
    name: str, change: dict[str, object], copied: Path
) -> None:
    altered(copied / name, lambda record: record.update(change))
    found = checked(copied, "--sample", 5)
    assert ("is no record of this version", str(copied / name)) in {
        (one.what, one.file) for one in found.differences
    }


def test_the_sums_of_the_results_are_compared(copied: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record.update(kept=0, rejected={**record["rejected"], "action": 999})
        record["histograms"]["complexity"]["2"] += 1
        record["keep_rate"] = 0.9
        record["steps"][1]["left"] += 1

    altered(copied / "funnel.json", change)
    found = checked(copied, "--sample", 0).differences
    assert {one.what.partition(":")[0] for one in found} == {
        *("kept", "keep_rate", "steps", "rejected.action", "histograms.complexity.2"),
    }


def reject_earlier(funnel: dict[str, Any]) -> None:
    """Count a rejected row at the step before, so that the rows left still add up."""
    before, after = funnel["steps"][:2]
    before["rejected"] += 1
    before["left"] -= 1
    after["rejected"] -= 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("duplicates.pair.found", lambda record: record["duplicates"]["pair"].update(found=7)),
        (
            "duplicates.pair.compared",
            lambda record: record["duplicates"]["pair"].update(compared=7),
        ),
        (
            "duplicates.pair.rejected",
            lambda record: record["duplicates"]["pair"].update(rejected=False),
        ),
        ("left", lambda record: record.update(left={"shards": 1})),
        ("steps: reject other numbers", reject_earlier),
        ("another dataset", lambda record: record.update(dataset="laion2b")),
    ],
)
def test_other_facts_of_the_results_are_compared(
    name: str, change: Callable[[Any], object], copied: Path
) -> None:
    altered(copied / "funnel.json", change)
    assert any(name in one.what for one in checked(copied, "--sample", 0).differences)


def test_records_of_two_units_that_were_swapped_are_found(copied: Path) -> None:
    one, other = sorted(copied.glob("work/uid_keys/commits/*.json"))[:2]
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert {str(one), str(other)} <= {
        found.file for found in checked(copied, "--sample", 0).differences
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plan.json", lambda plan: plan["files"][0].update(bytes=7)),
        ("plan.json", lambda plan: plan["units"][1]["span"].update(start=7)),
        ("plan.json", lambda plan: plan["units"][1]["span"].update(start="7")),
        ("plan.json", lambda plan: plan["inspected"]["files"][0].update(stamp=[0])),
        ("run.json", lambda run: run["dataset"]["roles"].update(url="mine")),
        ("run.json", lambda run: run["dataset"].update(commits={"hf://datasets/a/b": "0"})),
        ("run.json", lambda run: run["models"]["subset"].update(uids=7)),
    ],
)
def test_an_altered_plan_or_settings_are_differences(
    name: str, change: Callable[[Any], object], copied: Path
) -> None:
    path = next(copied.rglob(name))
    altered(path, change)
    assert any(
        "plan.json" in one.file or "run.json" in one.file for one in checked(copied).differences
    )


def test_of_an_altered_hash_of_the_ocr_model_the_text_says_that_it_was_not_checked(
    copied: Path,
) -> None:
    assert not any(
        "spotting in run.json" in line for line in checked(copied, "--sample", 0).skipped
    )
    altered(
        copied / "run.json", lambda run: run["models"]["spotting"].update(model_sha256="0" * 16)
    )
    assert any("spotting in run.json" in line for line in checked(copied, "--sample", 0).skipped)


@pytest.mark.parametrize(("stage", "content"), [("download", '{"files": {}}'), ("spotting", "[1]")])
def test_a_record_of_images_that_holds_something_else_is_a_difference(
    stage: str, content: str, scored: Any, copied: Path
) -> None:
    path = copied / "work" / stage / "commits" / f"{UNIT}.0000.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    found = checked(copied, "--input", scored[1]).differences
    assert ("is no record of this version", str(path)) in {(one.what, one.file) for one in found}


@pytest.mark.parametrize("stage", ["captions", "decide"])
def test_records_that_cannot_be_summed_are_differences(stage: str, copied: Path) -> None:
    path = copied / "work" / "decide" / "commits" / f"{UNIT}.json"
    if stage == "captions":  # of a unit that is not decided
        path.unlink()
        path.parents[2].joinpath("captions", "commits", path.name).write_text('{"rows"')
    else:
        altered(path, lambda record: record["histograms"].update(overlap={"many": 1}))
    found = {one.file: one.what for one in checked(copied, "--sample", 0).differences}
    assert "cannot be compared with the records of all units" in found[str(copied / "funnel.json")]


def test_annotations_without_their_rows_are_differences(copied: Path) -> None:
    """As their record may have been altered too."""
    pq.write_table(
        pq.read_table(copied / ANNOTATED).drop_columns("parsed").slice(3), copied / ANNOTATED
    )
    pq.write_table(pq.read_table(copied / SCORED).slice(0, 1), copied / SCORED)
    forge(copied)
    found = checked(copied)
    assert any(one.part == "decisions" and UNIT in one.file for one in found.differences), [
        *found.lines()
    ]


@pytest.fixture
def input_of(scored: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scored[1].parent, tmp_path / "input")) / "pairs.tsv"


def test_a_changed_input_is_found_by_its_ends_or_by_its_rows(scored: Any, input_of: Path) -> None:
    content = input_of.read_text(encoding="utf-8")
    lines = content.splitlines(keepends=True)
    n = next(n for n in range(25, 35) if lines[n + 1].split("\t")[1].strip())
    lines[n + 1] = lines[n + 1].replace("xxx", "xyx", 1)
    input_of.write_text("".join(lines), encoding="utf-8")
    found = checked(scored[0], "--input", input_of)
    (one,) = found.differences
    assert one.part == "input" and one.uid is not None and "filler" in one.what
    input_of.write_text(content + "1\t2\n", encoding="utf-8")
    (one,) = checked(scored[0], "--input", input_of.parent).differences
    assert one.part == "input" and one.file == str(input_of) and "has changed" in one.what


def test_a_changed_image_is_found(scored: Any, input_of: Path, draw: Any) -> None:
    draw(input_of.parent / "images" / "blank.png", "another text")
    found = checked(scored[0], "--input", input_of)
    assert found.differences and all(
        one.part == "input" and "image" in one.what for one in found.differences
    )


def test_with_an_input_no_recorded_path_is_opened(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a stranger may name any file or address."""
    (tmp_path / "none.tsv").write_text("url\tcaption\n")
    asked = list[str]()

    def stamped(paths: Iterable[str]) -> dict[str, Any]:
        asked.extend(paths)
        return {}

    monkeypatch.setattr(command, "stamps_of", stamped)
    found = checked(copied, "--input", tmp_path / "none.tsv")
    assert asked == [] and not found.differences and found.read_again == (0, 0)
    assert any("pairs.tsv: not there" in line for line in found.skipped)


# ---- decontamination


@pytest.fixture(scope="module")
def decontaminated(filtering: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output whose first two rows are in the evaluation set `mine`, one by its image and one by
    its caption."""
    folder = tmp_path_factory.mktemp("decontaminated")
    images = [path.read_bytes() for path in sorted(SAMPLE.glob("*.jpg"))[:4]]
    (folder / "mine").mkdir()
    (folder / "mine" / "0.jpg").write_bytes(images[0])
    (folder / "mine" / "0.txt").write_text("two dogs run on the beach")
    captions = [
        "A brown dog runs on the sand",
        "Two dogs run on the beach",
        *["A man eats a red apple"] * 2,
    ]
    rows = pairs_of(folder / "rows.parquet", captions, images, 2)
    preset = folder / "mine.yaml"
    preset.write_text("base: paper\nevaluation: {captions: true}", encoding="utf-8")
    asked = {
        "decontaminate": f"{folder / 'mine'}/",
        "stages": ("captions",),
        "unit_rows": 2,
        "preset": str(preset),
    }
    done = filtering(rows, folder / "out", **asked)
    assert (
        done.funnel["rejected"]["evaluation_image"]
        == done.funnel["rejected"]["evaluation_caption"]
        == 1
    )
    return folder / "out"


def test_decontamination_is_decided_again(decontaminated: Path, tmp_path: Path) -> None:
    found = checked(decontaminated)
    assert not found.differences and not any("evaluation" in line for line in found.skipped), [
        *found.lines()
    ]
    assert any("checked against mine (1 image)" in what for _, what in found.checked)
    copy = Path(shutil.copytree(decontaminated, tmp_path / "copy"))
    name = "rejected/part-00000-00000.parquet"
    reasons = pq.read_table(copy / name)["reason"].to_pylist()
    row = reasons.index("evaluation_image")
    with_value(copy / name, "evaluation_how", row, "near copy")
    forge(copy)
    (one,) = checked(copy).differences
    assert (one.part, one.uid) == (
        "decisions",
        uid_at(copy, name, row),
    ) and "evaluation_how" in one.what


@pytest.mark.slow
@pytest.mark.parametrize("stages", [("captions", "dedup"), ("captions", "score", "dedup")])
def test_decontamination_by_embeddings_is_decided_again(
    stages: tuple[str, ...], decontaminated: Path, filtering: Any, tmp_path: Path
) -> None:
    preset = (
        "{base: paper, score: {min: -1}, dedup: {semantic: true}, evaluation: {distance: 0, eps:"
        " 0.2}}"
    )
    folder = decontaminated.parent
    model = ScoreSettings(
        model=f"local-dir:{write_tiny(tmp_path / 'tiny')}", device="cpu", precision="fp32"
    )
    asked: dict[str, Any] = {
        "decontaminate": f"{folder / 'mine'}/",
        "stages": stages,
        "unit_rows": 2,
    }
    filtering(folder / "rows.parquet", tmp_path / "out", preset=preset, score=model, **asked)
    found = checked(tmp_path / "out")
    assert not found.differences and not any("evaluation" in line for line in found.skipped), [
        *found.lines()
    ]


def checked_sets(
    copy: Path, names: tuple[str, ...], change: Callable[[Any], object]
) -> Verification:
    """The findings after a change of what files say of the evaluation sets."""
    for name in names:
        altered(
            copy / name,
            lambda record: change(record.get("checked") or record["models"]["evaluation"]),
        )
    forge(copy)
    return checked(copy)


@pytest.mark.parametrize("files", [("funnel.json",), ("run.json",), ("funnel.json", "run.json")])
def test_a_set_that_was_not_compared_is_a_difference(
    files: tuple[str, ...], decontaminated: Path, tmp_path: Path
):
    copy = Path(shutil.copytree(decontaminated, tmp_path / "copy"))
    extra = {"name": "imagenet", "images": 50_000, "sha256": "0" * 16, "tasks": []}
    found = checked_sets(copy, files, lambda about: about["sets"].append(extra))
    named = {Path(one.file).name for one in found.differences if one.part == "provenance"}
    assert named & {*files}, [*found.lines()]
    if "run.json" in files:  # then the sets that the rows were compared with are unknown
        assert any(
            "evaluation_image" in line and "not decided again" in line for line in found.skipped
        )


def test_counts_and_the_rule_of_decontamination_are_compared(
    decontaminated: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(decontaminated, tmp_path / "copy"))

    def change(about: Any) -> None:
        about["compared"], about["rule"]["distance"] = 1_000, 40

    told = " ".join(
        one.what for one in checked_sets(copy, ("funnel.json", "run.json"), change).differences
    )
    assert "1,000 images compared" in told and "another rule of evaluation sets" in told


# ---- the command


def test_it_prints_what_was_checked_and_ends_with_a_status(
    scored: Any, copied: Path, tmp_path: Path, capsys: Any
):
    assert main([str(scored[0]), "--sample", "10", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert (
        "no difference found" in said
        and "could not be checked:" in said
        and f"10 of {ROWS + 1} rows" in said
    )
    flipped(copied)
    assert main([str(copied), "--json", str(tmp_path / "found.json")]) == 1
    record = json.loads((tmp_path / "found.json").read_text())
    assert (
        record["differences"][0].keys() == {"part", "file", "what", "uid"}
        and record["more_differences"] == 0
    )
    chances = {"rows": ROWS + 1, "of": ROWS + 1, "escape": {"1": 0, "10": 0, "100": 0}}
    assert record["samples"]["decided again"] == chances
    capsys.readouterr()
    assert main([str(copied), "--json", "-"]) == 1 and json.loads(capsys.readouterr().out) == record


@pytest.mark.parametrize(
    "words",
    [
        ["/nowhere"],
        ["{}/kept"],
        ["{}/run.json"],
        ["s3:/bucket"],
        ["no://bucket"],
        ["{}", "--input", "/nowhere/*.tsv"],
        ["{}", "--json", "{}/found.json"],
    ],
)
def test_wrong_use(words: list[str], scored: Any, capsys: Any) -> None:
    assert main([word.format(scored[0]) for word in words]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (scored[0] / "found.json").exists()


def test_settings_that_cannot_be_read_are_differences(copied: Path) -> None:
    run = (copied / "run.json").read_text()

    def told(change: Callable[[Any], object]) -> str:
        (copied / "run.json").write_text(run)
        altered(copied / "run.json", change)
        assert main([str(copied)]) == 1
        return " ".join(
            one.what for one in checked(copied).differences if one.file == str(copied / "run.json")
        )

    assert "preset" in told(lambda record: record["preset"].update(captions=5))
    assert "preset" in told(lambda record: record["preset"].update(captions={}, filters=5))
    assert told(
        lambda record: record["dataset"]["roles"].update(caption="caption", captions=["caption"])
    )
    assert told(lambda record: record.update(preset={}))
    altered(
        copied / "run.json", lambda record: record.update(preset={"captions": 5}, plugins=["mine"])
    )
    with pytest.raises(WrongUse, match="--plugin mine"):
        # Such settings need the user's plugin, and may be sound.
        checked(copied)


def test_a_file_without_its_folder_is_one_line(copied: Path, capsys: Any) -> None:
    shutil.rmtree(copied / "kept")
    (copied / "kept").touch()
    assert main([str(copied)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(copied / "kept") in line


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("address", ["{}", "memory://live/{}"])
def test_an_output_in_which_a_run_is_working_is_refused(
    address: str, shared: bool, copied: Path, capsys: Any
) -> None:
    root = store_path(address.format(copied))
    (root / "work").mkdir(parents=True, exist_ok=True)
    (root / "work" / "plan.json").write_bytes((copied / "work" / "plan.json").read_bytes())
    with output_lock(Layout(root), shared):
        assert main([str(root)]) == 2
    assert "run is working" in capsys.readouterr().err and not is_locked(Layout(root))


def test_of_an_unfinished_run_the_decided_units_are_checked(copied: Path) -> None:
    for name in (
        "funnel.json",
        "run.json",
        "work/exported.json",
        f"work/decide/commits/{UNIT}.json",
    ):
        (copied / name).unlink()
    whole, *others = (one for one in checked(copied).differences if "is missing" not in one.what)
    assert "3 of 4 units" in whole.what and {one.file for one in others} == set(), others


def test_memory_holds_a_bounded_number_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "LISTED", 3)
    found = Verification("out")
    for n in range(5):
        found.differ("structure", "kept", "is missing", str(n))
    assert (
        len(found.differences) == 3
        and found.as_json()["more_differences"] == 2
        and "5 diff" in next(found.lines())
    )


def test_the_text_holds_nothing_that_a_terminal_obeys() -> None:
    found = Verification("out\x1b[2J")
    found.differ("structure", "kept/\u202e\n", "names \r\x07", "\x9b1A\udc80 é 犬")
    found.skip("the files of a\tb")
    lines = [*found.lines()]
    assert all(line.isprintable() for line in lines) and r"\x1b[2J" in lines[0]
    assert r"kept/\u202e\n: row \x9b1A\udc80 é 犬 names \r\x07" in lines[1]


@pytest.mark.parametrize(
    ("rows", "sampled", "altered"),
    [(7, 3, 1), (7, 3, 2), (8, 4, 5), (5, 0, 2), (5, 5, 1), (4, 2, 9)],
)
def test_the_chance_to_escape_is_the_fraction_of_samples_without_altered_rows(
    rows: int, sampled: int, altered: int
):
    """The first rows are altered."""
    samples = [*itertools.combinations(range(rows), sampled)]
    escaped = sum(min(sample, default=rows) >= altered for sample in samples)
    assert escape(rows, sampled, altered) == pytest.approx(escaped / len(samples))
    assert escape(18_000, 2_000, altered) == pytest.approx(
        math.comb(18_000 - altered, 2_000) / math.comb(18_000, 2_000)
    )
