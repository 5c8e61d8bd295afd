"""`--export index`: the tars of INPUT stay, and a training reads of them what it would read of new
shards."""

import gzip
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import load, part_of, scan, stamp_of
from open_diht.filters.presets import load_preset
from open_diht.pipelines.manifests.plan import load_plan
from open_diht.pipelines.pilot.command import main as pilot
from open_diht.pipelines.pilot.measure import measure
from open_diht.pipelines.settings import INDEX
from open_diht.pipelines.stages import tar_indexes
from open_diht.pipelines.stages.tar_indexes import KeptIndexStage
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import store_path
from open_diht.pipelines.teachers.shards import shard_entries
from tests.pipelines.conftest import NOTHING_LEFT, tar_of
from tests.pipelines.kills import Moment, check_kills, left_by
from tests.pipelines.processes import ForkedStarter

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[train]'")
from open_diht.trainer.data import DataSettings, ShardLoader, ShardMismatch, Source  # noqa: E402
from open_diht.trainer.data.settings import Split  # noqa: E402
from open_diht.trainer.data.shards import open_source, store_of  # noqa: E402

CAPTIONS = ("captions", "export")
WORDS = ("--stages", ",".join(CAPTIONS), "--export", INDEX, "--unit-rows", "9")
REPOSITORY = Path(__file__).resolve().parents[2]

Members = list[tuple[str, bytes]]


def png(draw: Callable[..., Path], folder: Path, number: int) -> bytes:
    """An image that no other number has."""
    return draw(folder / "image.png", size=(32 + number % 8, 32 + number // 8)).read_bytes()


def sample(key: str, caption: str, image: bytes, text: str | None = None) -> Members:
    """As img2dataset writes it: the caption stands in the .json too."""
    meta = {"caption": caption, "url": f"http://a.example/{key}", "key": key, "status": "success"}
    words = (caption if text is None else text).encode()
    return [
        (f"{key}.json", json.dumps(meta).encode()),
        (f"{key}.png", image),
        (f"{key}.txt", words),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory, captions, draw) -> Path:
    """Tars of 40, 12 and 3 samples; do not change them."""
    folder = tmp_path_factory.mktemp("source")
    texts = captions
    numbers = iter(range(60))
    for name, size in (("00000", 40), ("00001", 12), ("00002", 3)):
        members: Members = []
        for place in range(size):
            number = next(numbers)
            members += sample(f"{name}{place:04d}", texts[number], png(draw, folder, number))  # type: ignore[index]
        tar_of(folder / "tars" / f"{name}.tar", members)
    return folder / "tars"


def settings_for(data: Path | str, cache: Path, **settings: Any) -> DataSettings:
    sources = (Source(path=str(data)),)
    return DataSettings(
        sources=sources, index_folder=str(cache), cache_folder=str(cache), **settings
    )


def samples_of(data: Path | str, cache: Path) -> Counter[tuple[str, str, bytes]]:
    """(uid, caption, image) of all samples that a training would read."""
    settings = settings_for(data, cache)
    found: Counter[tuple[str, str, bytes]] = Counter()
    for shard in open_source(settings.sources[0], settings).shards:
        index = load(shard.index)
        assert len(index.rows) == shard.samples
        with store_of(settings).open(shard.file) as tar:
            for row in index.rows:
                uid = f"{int(row['uid_high']):016x}{int(row['uid_low']):016x}"
                places = [
                    (int(row[f"{part}_size"]), int(row[f"{part}_at"]))
                    for part in ("caption", "image")
                ]
                caption, image = (os.pread(tar, *place) for place in places)
                found[uid, caption.decode(), image] += 1
    return found


def batches_of(data: Path | str, cache: Path) -> Iterator[Any]:
    settings = settings_for(data, cache, workers=0, drop_last=False, shuffle=8)
    loader = ShardLoader(
        settings,
        batch_size=4,
        transform=lambda image: torch.zeros(3, 2, 2) + image.size[0],
        tokenizer=lambda texts: torch.tensor([[len(text)] for text in texts]),
    )
    with closing(loader):
        yield from loader.epoch(0)


def hashes_of(batch: Any) -> list[tuple[int, int]]:
    return [*zip(batch.image_hash.tolist(), batch.caption_hash.tolist(), strict=True)]


def written(output: Path) -> set[str]:
    """Which of shards/ and index/ hold anything but locks."""
    paths = [path for name in ("shards", INDEX) for path in (output / name).rglob("*")]
    return {
        path.relative_to(output).parts[0]
        for path in paths
        if path.suffix in (".tar", ".npz", ".json")
    }


@pytest.fixture(scope="module")
def left(filtering: Any, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`source` left as it is, in several units a tar; do not change it."""
    return filtering(
        source, tmp_path_factory.mktemp("left") / "out", stages=CAPTIONS, unit_rows=9, export=INDEX
    )


@pytest.fixture(scope="module")
def exported(filtering: Any, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return filtering(
        source, tmp_path_factory.mktemp("exported") / "out", stages=CAPTIONS, unit_rows=9
    )


def test_a_training_reads_the_kept_samples_and_no_others(left, exported, source, tmp_path):
    outputs = (left.output, exported.output)
    of_left, of_new = (samples_of(output, tmp_path) for output in outputs)
    assert of_left == of_new and 10 < len(of_left) < 55
    assert {one[:2] for one in of_left} == {
        (row["uid"], row["caption"]) for row in left.rows("kept")
    }
    read = [
        sorted(hashes for batch in batches_of(data, tmp_path) for hashes in hashes_of(batch))
        for data in outputs
    ]
    assert read[0] == read[1] and len(read[0]) == of_left.total()
    assert not (left.output / "shards").exists() and sorted(source.iterdir()) == sorted(
        source.glob("*.tar")
    )
    assert (left.output / "subset.npy").read_bytes() == (
        exported.output / "subset.npy"
    ).read_bytes()


def test_it_says_what_it_left_and_what_is_named(left: Any, source: Path) -> None:
    manifest = json.loads((left.output / "index" / "manifest.json").read_text())
    kept = len(left.rows("kept"))
    assert [entry["path"] for entry in manifest["shards"]] == [
        str(path) for path in sorted(source.glob("*.tar"))
    ]
    assert manifest["samples"] == sum(entry["rows"] for entry in manifest["shards"]) == kept
    assert left.funnel["left"] == {"shards": 3, "samples": kept, "left_out": {}}
    (said,) = [line for line in left.said if "are unchanged" in line]
    assert (
        said in (left.output / "report.html").read_text(encoding="utf-8")
        and f"their {kept} kept samples" in said
    )


def test_other_thresholds_choose_again_and_read_no_tar(
    filtering, left, source, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    shutil.copytree(left.output, output)
    before = {path: path.stat().st_mtime_ns for path in (output / "work" / "index").rglob("*.npz")}

    def scan(*_: Any) -> None:
        raise AssertionError("a tar is read again")

    monkeypatch.setattr(tar_indexes, "scan", scan)
    options = {"stages": CAPTIONS, "unit_rows": 9, "export": INDEX}
    strict = filtering(source, output, preset="strict", **options)
    assert len(before) == 3 and {path: path.stat().st_mtime_ns for path in before} == before
    found = samples_of(output, tmp_path / "cache")
    assert {uid for uid, _, _ in found} == {row["uid"] for row in strict.rows("kept")}
    assert found != samples_of(left.output, tmp_path / "cache")
    monkeypatch.setattr(KeptIndexStage, "process", scan)
    assert filtering(source, output, preset="strict", **options).did_nothing


def test_another_choice_of_as_many_samples_is_another_shard(
    left: Any, source: Path, tmp_path: Path
) -> None:
    """A training does not go on with it."""
    settings = settings_for(left.output, tmp_path)
    fact, *_ = open_source(settings.sources[0], settings).facts
    with open(source / fact.name, "rb") as tar:
        whole = scan(fact.name, tar)
    one, other = (part_of(whole, np.array([row]), [f"{row:032x}"]) for row in (3, 4))
    assert len({one.identity, other.identity, whole.identity, fact.sha256}) == 4
    assert whole.identity == one.sha256 == other.sha256


@pytest.mark.parametrize("first", [INDEX, "shards"])
def test_what_was_exported_otherwise_goes(
    filtering: Any, source: Path, tmp_path: Path, first: str
) -> None:
    """Whatever lies there is of the last run, and a training finds that."""
    second = "shards" if first == INDEX else INDEX
    for export in (first, second):
        run = filtering(source, tmp_path / "out", stages=CAPTIONS, unit_rows=9, export=export)
        found = samples_of(run.output, tmp_path / "cache")
        assert {uid for uid, _, _ in found} == {row["uid"] for row in run.rows("kept")}
    assert written(run.output) == {second}
    filtering(source, run.output, stages=("captions",), unit_rows=9)
    assert written(run.output) == {second}, "as long as nothing is decided otherwise"
    filtering(source, run.output, stages=("captions",), preset="strict")
    assert written(run.output) == set()
    assert not [name for name in ("subset.npy", "report.html") if (run.output / name).exists()]


def test_odd_samples(filtering: Any, draw: Callable[..., Path], tmp_path: Path) -> None:
    """A key that comes again, no image, a text that is not the caption, two images, a row that is
    none."""
    image = [png(draw, tmp_path, number) for number in range(8)]
    caption = "A brown dog runs along the beach"
    members = [
        *sample("0", f"{caption} 0", image[0]),
        *sample("1", f"{caption} 1", image[1])[::2],
        *sample("2", f"{caption} 2", image[2], text="another text"),
        *[("3.webp", image[7]), *sample("3", f"{caption} 3", image[3])],
        ("4.json", b"{"),
        *sample("5", "7234-XL", image[5]),
        *sample("0", f"{caption} 6", image[6]),
        *sample("7", f" {caption} 7\n", image[4], text=f"{caption} 7"),
    ]
    tar_of(tmp_path / "in" / "a.tar", members)
    run = filtering(tmp_path / "in", tmp_path / "out", stages=CAPTIONS, unit_rows=3, export=INDEX)
    found = samples_of(run.output, tmp_path / "cache")
    assert {(text, content) for _, text, content in found} == {
        (f"{caption} {number}", image[place]) for number, place in ((0, 0), (3, 3), (7, 4))
    }
    assert run.funnel["left"] == {
        "shards": 1,
        "samples": 3,
        "left_out": {"other_caption": 1, "unusable": 2},
    }
    assert run.funnel["kept"] == 6 and any("--export shards" in line for line in run.said)


def test_an_index_beside_a_tar_is_taken(filtering, exported, tmp_path, monkeypatch):
    """As beside the shards of `make filter`, which are then read by nobody but the filters."""
    monkeypatch.setattr(tar_indexes, "scan", None)
    shards = exported.output / "shards"
    again = filtering(shards / "*.tar", tmp_path / "out", stages=CAPTIONS, export=INDEX)
    assert samples_of(again.output, tmp_path) == samples_of(exported.output, tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tsv", "it is tsv"),
        ("gz", "it is compressed"),
        ("no text", "no .txt"),
        ("twice", "it has the name of"),
    ],
)
def test_what_a_training_could_not_read_is_refused(filtering, source, pairs, tmp_path, name, why):
    given = tmp_path / "in"
    given.mkdir()
    if name == "tsv":
        given = pairs
    elif name == "gz":
        (given / "a.tar.gz").write_bytes(gzip.compress((source / "00002.tar").read_bytes()))
    elif name == "no text":
        tar_of(given / "a.tar", sample("0", "A dog runs", b"image")[:2])
    else:
        for folder in ("a", "b"):
            (given / folder).mkdir()
            shutil.copy(source / "00002.tar", given / folder)
    with pytest.raises(WrongUse, match=f"cannot read .*{why}.*--export shards"):
        filtering(given, tmp_path / "out", export=INDEX)
    assert not (tmp_path / "out").exists()


def test_it_needs_the_stage(filtering: Any, source: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="which STAGES leaves out"):
        filtering(source, tmp_path / "out", stages=("captions",), export=INDEX)


def test_tars_that_were_moved_are_known_by_their_bytes(
    filtering: Any, source: Path, tmp_path: Path
) -> None:
    tars = tmp_path / "tars"
    output = tmp_path / "out"
    cache = tmp_path / "cache"
    shutil.copytree(source, tars)
    filtering(tars, output, stages=CAPTIONS, export=INDEX)
    expected = samples_of(output, cache)
    tars.rename(tmp_path / "away")
    shutil.copytree(tmp_path / "away", tars, copy_function=shutil.copyfile)
    stamp = stamp_of(tars / "00000.tar")
    assert load(output / "index" / "00000.tar.npz").stamp != stamp
    assert samples_of(output, cache) == expected
    (seen,) = cache.rglob("00000.tar.npz")
    assert load(seen).stamp == stamp

    content = bytearray((tars / "00000.tar").read_bytes())
    content[2000] ^= 1
    (tars / "00000.tar").write_bytes(content)
    with pytest.raises(
        ShardMismatch,
        match=r"00000.tar is not the one that was filtered .*`open-diht filter` again",
    ):
        samples_of(output, cache)
    (tars / "00000.tar").unlink()
    settings = settings_for(output, cache, max_bad_share=1.0)
    assert "missing_shard" in open_source(settings.sources[0], settings).bad


def test_a_folder_index_of_somebody_else_is_named(left: Any, tmp_path: Path) -> None:
    manifest = json.loads((left.output / "index" / "manifest.json").read_text())
    del manifest["shards"][1]["path"]
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardMismatch, match=r"index/manifest.json does not name its shards"):
        samples_of(tmp_path, tmp_path)
    shutil.copy(left.output / "index" / "manifest.json", tmp_path / "index")
    with pytest.raises(
        ShardMismatch, match=r"00000.tar.npz cannot be read .*run `open-diht filter` again"
    ):
        samples_of(tmp_path, tmp_path)


def test_part_of_them_may_be_held_out(left: Any, tmp_path: Path) -> None:
    counts = []
    for part in ("train", "holdout"):
        split = Split(holdout=0.3, part=part)
        settings = settings_for(left.output, tmp_path, split=split)
        counts.append(
            sum(shard.samples for shard in open_source(settings.sources[0], settings).shards)
        )
    assert sum(counts) == left.funnel["kept"] and all(counts)


def test_a_pilot_forecasts_indexes_in_place_of_shards(source, tmp_path, here, capsys):
    """A tar is read whole for any sampled unit of it, which is charged with its part of that."""
    words = [
        "--dataset",
        "custom",
        "--input",
        str(source / "00000.tar"),
        "--output",
        str(tmp_path),
        *WORDS,
    ]
    assert pilot([*words, "--workers", "1", "--units", "2"]) == 0, capsys.readouterr().err
    layout = Layout(tmp_path / "pilot")
    stored = json.loads((layout.root / "pilot.json").read_text())["forecast"]["stored"]
    assert stored["index"]["value"] > 0 and "shards" not in stored

    plan = load_plan(layout.plan)
    (tar,) = (json.loads(path.read_text()) for path in layout.commits("index").glob("*.json"))
    (chosen,) = (json.loads(path.read_text()) for path in layout.commits("export").glob("*.json"))
    rows = [unit.span.rows for unit in plan.units]
    charged = sum(
        unit.seconds.get("export", 0) for unit in measure(layout, plan, load_preset("paper"), 40)
    )
    assert (len(rows), tar["rows"]) == (2, 40)
    assert charged == pytest.approx(tar["cpu_seconds"] * sum(rows) / 40 + chosen["cpu_seconds"])


def test_what_needs_new_shards_says_so(left: Any) -> None:
    with pytest.raises(WrongUse, match="run `open-diht filter` with --export shards"):
        shard_entries(left.output)


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_started_again_equals_undisturbed(left, source, tmp_path, runs):
    moments = [
        Moment(*each, 0)
        for each in (("captions", 4), ("index", 1), ("index", 3), ("export", 1), ("export", 3))
    ]
    check_kills(runs, source, WORDS, moments, calm=left.output, killed=tmp_path / "out", hits=2)
    assert NOTHING_LEFT in runs.finish(source, tmp_path / "out", *WORDS)


@pytest.mark.slow
def test_two_shards_at_once_share_the_tars(
    left: Any, source: Path, tmp_path: Path, runs: ForkedStarter
) -> None:
    output = tmp_path / "out"
    shards = [runs.start(source, output, *WORDS, "--shard", f"{i}/2", workers=1) for i in range(2)]
    said = [shard.communicate()[0] for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], said
    assert left_by(output) == left_by(left.output)


@pytest.mark.slow
@pytest.mark.store
def test_tars_and_output_in_an_object_store(filtering, left, source, bucket, tmp_path):
    import s3fs

    s3fs.S3FileSystem().put(f"{source}/*.tar", "bucket/left-tars/")
    output = store_path(f"{bucket}/left-out")
    how = {"stages": CAPTIONS, "unit_rows": 40, "export": INDEX}
    run = filtering(f"{bucket}/left-tars/*.tar", output, **how)
    assert run.funnel["left"] == left.funnel["left"]
    found = samples_of(f"{bucket}/left-out", tmp_path)
    cache = sorted(tmp_path.rglob("*.npz"))
    assert found == samples_of(left.output, tmp_path / "local") and len(cache) == 3
    read = [batch.keys for batch in batches_of(f"{bucket}/left-out", tmp_path)]
    assert sum(map(len, read)) == found.total()
    stricter = filtering(f"{bucket}/left-tars/*.tar", output, preset="strict", **how)
    assert (
        samples_of(f"{bucket}/left-out", tmp_path).total()
        == stricter.funnel["kept"]
        < found.total()
    )
