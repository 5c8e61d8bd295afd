"""A run and what it leaves behind: the output contract, other presets and stages on the same
annotations, inputs."""

import argparse
import csv
import datetime
import decimal
import errno
import gzip
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.command_line import WrongUse
from open_diht.common.shard_index import load, stamp_of
from open_diht.filters.spotting.weights import WeightsMissing
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import NoInput
from open_diht.pipelines.settings import STAGES
from open_diht.pipelines.stages.export import Export
from open_diht.pipelines.store.commit import RunFailed
from tests.pipelines.conftest import members_of, tar_of

SENTENCE = "A brown dog runs after a red ball"
ANNOTATIONS = {
    **dict.fromkeys(("uid", "caption"), pa.string()),
    **dict.fromkeys(("complexity", "overlap"), pa.int32()),
    **dict.fromkeys(("actions", "objects"), pa.list_(pa.string())),
    "attributes": pa.list_(pa.struct([("object", pa.string()), ("attribute", pa.string())])),
    "spotted": pa.list_(pa.struct([("text", pa.string()), ("score", pa.float32())])),
}
DEAD = dict.fromkeys(("file", "unit", "uid", "caption", "stage", "error", "message"), pa.string())
DEAD |= {"ordinal": pa.int64(), "raw": pa.binary()}


def _schema(output: Path, kind: str) -> dict[str, pa.DataType]:
    """Names and types; the same in every part."""
    schemas = [pq.read_schema(path) for path in sorted((output / kind).glob("part-*.parquet"))]
    assert schemas and all(schema.equals(schemas[0]) for schema in schemas)
    return {field.name: field.type for field in schemas[0]}


def _tar(result: Any) -> Path:
    (path,) = (result.output / "shards").glob("*.tar")
    return Path(path)


# ---- the output contract
def test_columns_of_kept_rejected_and_dead_letters(paper, tmp_path, filtering):
    original = {"n": pa.string(), "image_path": pa.string()}
    assert _schema(paper.output, "kept") == original | ANNOTATIONS
    why = {"stage": pa.string(), "reason": pa.string()}
    copies = {"duplicate_of": pa.string(), "duplicate_similarity": pa.float32()}
    assert _schema(paper.output, "rejected") == original | ANNOTATIONS | why | copies
    pq.write_table(
        pa.table({"caption": [SENTENCE], "image_path": ["no.jpg"]}), tmp_path / "a.parquet"
    )
    dead = filtering(tmp_path / "a.parquet", tmp_path / "out")
    assert _schema(dead.output, "dead_letter") == DEAD


def test_evidence_in_the_rows(paper: Any, pairs: Path) -> None:
    with open(pairs, encoding="utf-8") as file:
        given = {
            row["n"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        }
    kept = paper.rows("kept")
    rejected = paper.rows("rejected")
    assert {row["n"] for row in kept + rejected} == set(given)
    for row in kept + rejected:
        assert re.fullmatch("[0-9a-f]{32}", row["uid"])
        assert (row["caption"], row["image_path"]) == (
            given[row["n"]]["caption"],
            given[row["n"]]["image_path"],
        )
        assert row["complexity"] is not None and row["actions"] is not None, "C and A share a parse"
    for row in kept:
        assert row["complexity"] >= 1 and row["actions"] and row["objects"] and row["overlap"] < 5
        assert row["spotted"] is not None
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rejected:
        by_reason.setdefault(row["reason"], []).append(row)
    assert {"action", "text_spotting"} <= set(by_reason)
    assert all(row["overlap"] >= 5 and row["spotted"] for row in by_reason["text_spotting"])
    assert all(row["stage"] == "spotting" for row in by_reason["text_spotting"])
    assert all(
        row["spotted"] is None and row["overlap"] is None and not row["actions"]
        for row in by_reason["action"]
    )
    assert all(row["stage"] == "captions" for row in by_reason["action"])


def test_original_columns_with_our_names_are_kept(tmp_path, filtering):
    given = {
        **{
            "title": [SENTENCE, "Two cats sleep on a mat"],
            "caption": ["theirs 0", "theirs 1"],
            "uid": ["a", "b"],
        },
        **{
            "actions": [["x"], []],
            "reason": ["r0", "r1"],
            "overlap": [7, 8],
            "original_overlap": [9, 10],
        },
    }
    pq.write_table(pa.table(given), tmp_path / "a.parquet")
    dataset = load_dataset("custom").with_roles(caption="title")
    result = filtering(
        tmp_path / "a.parquet", tmp_path / "out", dataset=dataset, stages=("captions",)
    )
    rows = sorted(
        result.rows("kept") + result.rows("rejected"), key=lambda row: row["original_uid"]
    )
    assert [row["caption"] for row in rows] == given["title"] == [row["title"] for row in rows]
    for name in ("caption", "uid", "actions", "reason"):
        assert [row[f"original_{name}"] for row in rows] == given[name], name
    assert [row["original_overlap"] for row in rows] == given["original_overlap"]
    assert [row["original_original_overlap"] for row in rows] == given["overlap"]
    assert _schema(result.output, "kept").items() >= ANNOTATIONS.items()


def test_tars_keep_the_manifests_columns(tmp_path, filtering, draw):
    """Whatever JSON can hold; the user's ids, too."""
    content = draw(tmp_path / "a.png").read_bytes()
    given = {
        **{
            "caption": [SENTENCE],
            "image": [{"bytes": content, "path": "a.png"}],
            "uid": ["mine"],
            "key": ["000001"],
        },
        **{"url": ["http://example.org/a.png"], "license": ["CC-BY-4.0"], "similarity": [0.25]},
        **{
            "score": [float("nan")],
            "tags": [["a", "b"]],
            "when": [datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)],
        },
        **{"price": [decimal.Decimal("1.50")], "raw": [b"\xff"]},
    }
    pq.write_table(pa.table(given), tmp_path / "a.parquet")
    result = filtering(tmp_path / "a.parquet", tmp_path / "out", stages=("captions", "export"))
    members = members_of(_tar(result))
    names = list(members)
    found = json.loads(next(data for name, data in members.items() if name.endswith(".json")))
    (row,) = result.rows("kept")
    assert (found["original_uid"], found["uid"]) == ("mine", row["uid"])
    assert (found["original_key"], f"{found['key']}.png") == ("000001", names[0])
    same = ("url", "license", "similarity", "tags", "caption", "actions", "complexity")
    assert {name: found[name] for name in same} == {name: row[name] for name in same}
    assert (found["score"], found["price"], found["when"][:10]) == (None, "1.50", "2024-05-01")
    assert not found.keys() & {"raw", "image", "spotted"}


def test_output_is_input_again(tmp_path, filtering):
    """WantedRows filtered once more survive, with the uids they had."""
    source = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"caption": [SENTENCE, "Blue mug", "Two cats sleep"], "n": [0, 1, 2]}), source
    )
    first = filtering(source, tmp_path / "first", stages=("captions",))
    second = filtering(tmp_path / "first" / "kept", tmp_path / "second", stages=("captions",))
    assert [row["uid"] for row in second.rows("kept")] == [row["uid"] for row in first.rows("kept")]
    assert not second.rows("rejected")


def test_subset_is_in_the_format_of_datacomp(paper: Any) -> None:
    subset = np.load(paper.output / "subset.npy")
    assert subset.dtype == np.dtype("u8,u8")
    expected = sorted(
        {(int(row["uid"][:16], 16), int(row["uid"][16:], 16)) for row in paper.rows("kept")}
    )
    assert [tuple(map(int, pair)) for pair in subset] == expected


def test_shards_hold_the_survivors(paper: Any, pairs: Path) -> None:
    manifest = json.loads((paper.output / "shards" / "manifest.json").read_text())
    names = {entry["shard"] for entry in manifest["shards"]}
    assert names == {path.name for path in (paper.output / "shards").glob("*.tar")}
    kept = {(row["uid"], row["caption"]): row for row in paper.rows("kept")}
    seen = 0
    for entry in manifest["shards"]:
        path = paper.output / "shards" / entry["shard"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        index = load(path.parent / ".index" / f"{path.name}.npz")
        assert (index.sha256, len(index.keys)) == (entry["sha256"], entry["samples"])
        assert not index.bad and index.stamp == stamp_of(path)
        samples: dict[str, dict[str, bytes]] = {}
        for name, content in members_of(path).items():
            key, ending = name.split(".", 1)
            samples.setdefault(key, {})[ending] = content
        assert len(samples) == entry["samples"]
        for sample in samples.values():
            meta = json.loads(sample["json"])
            row = kept[meta["uid"], sample["txt"].decode()]
            assert sample["png"] == (pairs.parent / row["image_path"]).read_bytes()
            assert (meta["complexity"], meta["actions"]) == (row["complexity"], row["actions"])
        seen += len(samples)
    assert seen == manifest["samples"] == len(paper.rows("kept"))


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_shards_feed_the_loaders_of_open_clip(paper: Any, training: bool) -> None:
    """Its own data set class, its own count of samples, its own preprocessing."""
    data = pytest.importorskip(
        "open_clip_train.data", reason="open_clip_torch is not installed: make test"
    )
    import open_clip

    shards = sorted(map(str, (paper.output / "shards").glob("*.tar")))
    pattern = f"{paper.output}/shards/{{{','.join(Path(shard).stem for shard in shards)}}}.tar"
    kept = paper.rows("kept")
    assert data.get_dataset_size(pattern) == (len(kept), len(shards))
    # While training only whole batches count, and what is missing of a last one is drawn again: so
    # batches of one.
    arguments = argparse.Namespace(batch_size=1 if training else 8, workers=1, world_size=1, seed=0)
    arguments.train_data = arguments.val_data = pattern
    arguments.train_num_samples = None
    arguments.val_num_samples = len(kept)
    arguments.train_data_upsampling_factors = None
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    preprocess = open_clip.image_transform(64, is_train=training)
    loader = data.get_wds_dataset(
        arguments, preprocess, is_train=training, tokenizer=tokenizer
    ).dataloader
    images, texts = zip(*loader, strict=True)
    assert sum(len(batch) for batch in images) == len(kept) and images[0].shape[1:] == (3, 64, 64)
    found = sorted(tuple(row) for batch in texts for row in batch.tolist())
    assert found == sorted(
        tuple(row) for row in tokenizer([row["caption"] for row in kept]).tolist()
    )


def test_a_shard_has_the_image_of_the_row_that_was_kept(tmp_path, bytes_of, filtering, ocr_models):
    """Of two rows with the same caption and uid the first is rejected for the text in its image."""
    caption = INPUT_CAPTIONS[3]
    spoilt = bytes_of[3]
    clean = bytes_of[0]
    table = pa.table(
        {"uid": ["0" * 31 + "1"] * 2, "caption": [caption] * 2, "image": [spoilt, clean]}
    )
    pq.write_table(table, tmp_path / "a.parquet")
    result = filtering(tmp_path / "a.parquet", tmp_path / "out")
    assert result.funnel["kept"] == 1 and result.funnel["rejected"] == {"text_spotting": 1}
    (stored,) = (data for name, data in members_of(_tar(result)).items() if name.endswith(".png"))
    assert stored == clean


def test_shards_are_input_again(paper, tmp_path, filtering):
    again = filtering(f"{paper.output}/shards/*.tar", tmp_path / "out")
    assert sorted(row["caption"] for row in again.rows("kept")) == sorted(
        row["caption"] for row in paper.rows("kept")
    )
    assert not again.rows("dead_letter")


def test_funnel_and_provenance(paper: Any, pairs: Path) -> None:
    funnel = json.loads((paper.output / "funnel.json").read_text(encoding="utf-8"))
    assert (funnel["dataset"], funnel["preset"], funnel["rows_in"]) == ("custom", "paper", 60)
    assert funnel["stages"] == ["captions", "spotting", "dedup", "export"]
    left = funnel["rows_in"] - funnel["dead_letter"]["rows"]
    for step in funnel["steps"]:
        left -= step["rejected"]
        assert step["left"] == left, step
    assert left == funnel["kept"] == len(paper.rows("kept"))
    assert funnel["keep_rate"] == pytest.approx(left / 60)
    reasons = [row["reason"] for row in paper.rows("rejected")]
    assert funnel["rejected"] == {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    assert sum(funnel["histograms"]["complexity"].values()) == 60
    assert set(funnel["examples"]) == {"kept", *reasons}
    run_file = json.loads((paper.output / "run.json").read_text(encoding="utf-8"))
    assert run_file["preset"]["name"] == "paper" and run_file["dataset"]["input"] == str(pairs)
    assert run_file["models"]["captions"] and run_file["models"]["spotting"]
    assert run_file["files"][0]["path"] == str(pairs) and run_file["files"][0]["fingerprint"]
    assert {"apache-beam", "python", "pyarrow", "spacy"} <= set(run_file["versions"])


# ---- other presets and stages on the same annotations
def _annotations(output: Path) -> dict[str, tuple[int, bytes]]:
    folders = (output / "work" / "captions", output / "work" / "spotting")
    files = [path for folder in folders for path in folder.rglob("*.parquet")]
    assert files
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_another_preset_needs_no_parse_and_no_ocr(pairs, paper, strict, tmp_path, filtering):
    def out(preset: str) -> Any:
        return filtering(pairs, tmp_path / "out", unit_rows=15, preset=preset)

    first = out("paper").tables()
    before = _annotations(tmp_path / "out")
    other = out("strict")
    assert not {"captions", "spotting"} & {line.split(":")[0] for line in other.said}
    assert other.tables() == strict.tables() != first
    back = out("paper")
    assert back.tables() == first == paper.tables()
    assert _annotations(tmp_path / "out") == before
    for name in ("subset.npy", "shards/manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (paper.output / name).read_bytes()
    again = out("paper")
    assert again.did_nothing

    own = tmp_path / "own.yaml"
    own.write_text(
        "captions: {min_complexity: 2, min_actions: 1}\ntext_spotting: {min_chars: 12}\n"
    )
    custom = out(str(own))
    fresh = filtering(pairs, tmp_path / "fresh", unit_rows=15, preset=str(own))
    assert custom.tables() == fresh.tables()
    assert custom.funnel["preset"] == "own"


def test_a_preset_that_lets_more_through_reads_only_what_is_missing(
    pairs, paper, tmp_path, filtering
):
    narrow = "captions: {min_complexity: 3, max_chars: 60}"
    first = filtering(pairs, tmp_path / "out", unit_rows=15, preset=narrow)
    before = _annotations(tmp_path / "out")
    wide = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert wide.tables() == paper.tables()
    after = _annotations(tmp_path / "out")
    assert before.items() < after.items()
    assert (
        filtering(pairs, tmp_path / "out", unit_rows=15, preset=narrow).tables() == first.tables()
    )


def test_longer_captions_let_through_are_looked_at(pairs, tmp_path, filtering, ocr_models):
    """The length is decided whatever the stages; images of rows that were too long before must
    still be read."""
    short = "captions: {max_chars: 40}"
    long = "captions: {max_chars: 4000}"
    filtering(pairs, tmp_path / "out", unit_rows=30, stages=("spotting",), preset=short)
    result = filtering(pairs, tmp_path / "out", unit_rows=30, stages=("spotting",), preset=long)
    assert all(row["spotted"] is not None for row in result.rows("kept"))
    fresh = filtering(pairs, tmp_path / "fresh", unit_rows=30, stages=("spotting",), preset=long)
    assert result.tables() == fresh.tables()


def test_captions_alone_decide_nothing_about_images(pairs, paper, tmp_path, filtering):
    result = filtering(pairs, tmp_path / "out", stages=("captions",), unit_rows=15)
    assert set(result.verdicts().values()) == {"kept", "complexity", "action"}
    for n, verdict in paper.verdicts().items():
        assert result.verdicts()[n] == ("kept" if verdict == "text_spotting" else verdict)
    assert all(row["spotted"] is None and row["overlap"] is None for row in result.rows("kept"))
    assert not (tmp_path / "out" / "work" / "spotting").exists()
    assert (
        not (tmp_path / "out" / "report.html").exists()
        and not (tmp_path / "out" / "shards").exists()
    )


def test_spotting_alone_decides_nothing_about_captions(pairs, paper, tmp_path, filtering):
    result = filtering(pairs, tmp_path / "out", stages=("spotting",), unit_rows=15)
    assert set(result.verdicts().values()) == {"kept", "text_spotting"}
    for n, verdict in paper.verdicts().items():
        if verdict in ("kept", "text_spotting"):
            assert result.verdicts()[n] == verdict
    assert all(row["complexity"] is None and row["actions"] is None for row in result.rows("kept"))
    assert all(row["spotted"] is not None for row in result.rows("kept"))
    # All stages afterwards give what all stages at once give.
    assert filtering(pairs, tmp_path / "out", unit_rows=15).tables() == paper.tables()


@pytest.mark.parametrize("listed", [True, False])
def test_results_of_a_killed_export_do_not_stay_either(listed, pairs, tmp_path, filtering):
    """A kill between the retraction of the record and its replacement leaves files of either
    decision."""
    output = tmp_path / "out"
    filtering(pairs, output, unit_rows=15)
    (output / "work" / "exported.json").unlink()
    if not listed:  # the first export was killed before it listed its shards
        for name in ("subset.npy", "report.html", "shards/manifest.json", "shards/sizes.json"):
            (output / name).unlink()
        filtering(
            pairs, output, unit_rows=15, stages=[stage for stage in STAGES if stage != "export"]
        )
        assert list(output.glob("shards/*.tar")), (
            "shards of the same decisions stay for the next export"
        )
    filtering(pairs, output, unit_rows=15, stages=("captions",))
    for name in ("subset.npy", "report.html", "shards"):
        assert not (output / name).exists(), name


def test_shards_of_a_killed_export_do_not_pass_as_those_of_the_decisions_before(
    pairs, tmp_path, filtering, monkeypatch
):
    stages = ("captions", "export")
    output = tmp_path / "out"
    first = filtering(pairs, output, unit_rows=15, stages=stages)
    write = Export.write_shards

    def killed(self: Export, *arguments: Any) -> None:
        write(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Export, "write_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            filtering(pairs, output, unit_rows=15, stages=stages, preset="strict")
    again = filtering(pairs, output, unit_rows=15, stages=("captions",))
    assert again.tables() == first.tables() and not list(output.glob("shards/*"))


def test_urls_only(tmp_path, tsv, filtering):
    rows = [{"n": 0, "url": "http://example.org/0.jpg", "caption": SENTENCE}]
    rows.append({"n": 1, "url": "http://example.org/1.jpg", "caption": "Blue mug"})
    manifest = tsv(tmp_path / "urls.tsv", rows)
    alone = filtering(manifest, tmp_path / "alone", stages=("captions",))
    assert alone.verdicts() == {"0": "kept", "1": "action"}


# ---- inputs

INPUT_CAPTIONS = [
    SENTENCE,
    "Blue mug",
    'Two "happy" cats, one asleep, sit on a mat',
    "Two boys play football",
]


@pytest.fixture(scope="module")
def bytes_of(tmp_path_factory, draw) -> list[bytes]:
    """An image for each input caption; the last one repeats its caption."""
    folder = tmp_path_factory.mktemp("bytes")
    texts = ("", "", "SALE", "Two boys play football")
    return [draw(folder / f"{n}.png", text).read_bytes() for n, text in enumerate(texts)]


EXPECTED = {"0": "kept", "1": "action", "2": "kept", "3": "text_spotting"}


def _webdataset(folder: Path, images: list[bytes]) -> Path:
    members = [
        (f"{n:05d}.{ending}", data)
        for n, (caption, content) in enumerate(zip(INPUT_CAPTIONS, images, strict=True))
        for ending, data in (
            ("png", content),
            ("txt", caption.encode()),
            ("json", b'{"n": "%d"}' % n),
        )
    ]
    return tar_of(folder / "00000.tar", members)


def _files(folder: Path, images: list[bytes]) -> list[dict[str, str]]:
    rows = []
    for n, (caption, content) in enumerate(zip(INPUT_CAPTIONS, images, strict=True)):
        (folder / f"{n}.png").write_bytes(content)
        rows.append({"n": str(n), "caption": caption, "image_path": f"{n}.png"})
    return rows


def _text(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    "form", ["bytes", "struct", "webdataset", "tsv without header", "jsonl.gz"]
)
def test_every_form_of_input_gives_the_same_decisions(
    form, tmp_path, bytes_of, filtering, ocr_models
):
    dataset = load_dataset("custom")
    rows = _files(tmp_path, bytes_of)
    lines = ["\t".join(row.values()) for row in rows]
    match form:
        case "bytes" | "struct":
            source = tmp_path / "a.parquet"
            images = (
                bytes_of
                if form == "bytes"
                else [{"bytes": content, "path": None} for content in bytes_of]
            )
            pq.write_table(
                pa.table({"n": list("0123"), "caption": INPUT_CAPTIONS, "image": images}), source
            )
        case "webdataset":
            source = _webdataset(tmp_path, bytes_of)
        case "tsv without header":
            source = _text(tmp_path / "a.tsv", "\n".join(lines))
            dataset = dataset.with_roles(
                columns=["n", "words", "file"], caption="words", image_path="file"
            )
        case _:
            source = _text(tmp_path / "a.jsonl.gz", "".join(json.dumps(row) + "\n" for row in rows))
    result = filtering(source, tmp_path / "out", dataset=dataset)
    assert result.verdicts() == EXPECTED
    assert result.status == 0 and not result.rows("dead_letter")
    shards = json.loads((tmp_path / "out" / "shards" / "manifest.json").read_text())
    assert shards["samples"] == 2


def test_several_files_of_several_forms(tmp_path, bytes_of, filtering, ocr_models):
    rows = _files(tmp_path, bytes_of)
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "n": f"csv {row['n']}"} for row in rows)
    _text(
        tmp_path / "a.jsonl",
        "".join(json.dumps({**row, "n": f"json {row['n']}"}) + "\n" for row in rows),
    )
    _text(
        tmp_path / "a.tsv.gz",
        "\n".join("\t".join(row) for row in [rows[0], *(row.values() for row in rows)]) + "\n",
    )
    source = f"{tmp_path}/*.csv,{tmp_path}/a.jsonl,{tmp_path}/*.gz"
    stages = ("captions", "spotting", "export")
    # The forms hold the same pairs.
    result = filtering(source, tmp_path / "out", stages=stages, unit_rows=2)
    expected = {
        f"{form}{n}": verdict for n, verdict in EXPECTED.items() for form in ("", "csv ", "json ")
    }
    assert result.verdicts() == expected


def test_results_in_a_folder_of_manifests_are_no_input(tmp_path, tsv, filtering):
    """The folder is searched to its depths, where the results of the first run are when the second
    one looks."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    tsv(
        tmp_path / "in" / "deep" / "a.tsv",
        [{"n": n, "caption": f"{SENTENCE} {n}"} for n in range(6)],
    )
    output = tmp_path / "in" / "results"
    first = filtering(tmp_path / "in", output, stages=("captions", "export"))
    assert len(first.rows("kept")) == 6
    again = filtering(tmp_path / "in", output, stages=("captions", "export"))
    assert again.did_nothing and again.tables() == first.tables()
    with pytest.raises(
        NoInput, match=r"kept' matches is in OUTPUT .*results; choose another OUTPUT"
    ):
        filtering(output / "kept", output, stages=("captions",))
    other = filtering(output / "kept", tmp_path / "other", stages=("captions",))
    assert len(other.rows("kept")) == 6


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "Make its file system writable again"),
        (errno.EIO, "Check the disk"),
        (errno.ENOSPC, "Make room"),
    ],
)
def test_a_disk_that_fails_in_the_middle_is_one_line(
    number, remedy, tmp_path, tsv, filtering, monkeypatch
):
    def failing(*_: Any) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "out" / "subset.npy"))

    rows = tsv(tmp_path / "rows.tsv", [{"url": "http://127.0.0.1/1.jpg", "caption": SENTENCE}])
    with monkeypatch.context() as patched:
        patched.setattr("open_diht.pipelines.stages.export.write_subset", failing)
        with pytest.raises(
            RunFailed,
            match=rf"subset.npy cannot be written .*\. {remedy}, and run the same command",
        ):
            filtering(rows, tmp_path / "out", stages=("captions", "export"))
    assert filtering(rows, tmp_path / "out", stages=("captions", "export")).funnel["kept"] == 1


def test_slow_steps_after_the_last_stage_say_what_they_do(tmp_path, tsv, filtering, monkeypatch):
    class AtOnce:
        def __init__(self, seconds: float, say: Any, line: list[str]):
            self.start = lambda: say(*line)
            self.cancel = lambda: None

    rows = tsv(tmp_path / "rows.tsv", [{"url": "http://127.0.0.1/1.jpg", "caption": SENTENCE}])
    monkeypatch.setattr("open_diht.common.stores.threading.Timer", AtOnce)
    said = filtering(rows, tmp_path / "out", stages=("captions", "export")).said
    slow = [line.split()[1] for line in said if line.startswith("still ")]
    assert slow == ["listing", "waiting", "checking", "writing", "writing", "checking"]


def test_a_run_needs_weights_before_its_first_stage_and_only_where_images_are_read(
    tmp_path, pairs, tsv, filtering, monkeypatch
):
    def offline(target: Any = None, say: Any = None) -> None:
        raise WeightsMissing("no network")

    monkeypatch.setenv("DIHT_OCR_MODELS", str(tmp_path / "none"))
    monkeypatch.setattr("open_diht.pipelines.stages.spotting.download_and_install", offline)
    with pytest.raises(WrongUse, match=r"no network.*--stages captions"):
        filtering(pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    filtering(pairs, tmp_path / "captions", stages=("captions", "export"))
    urls = tsv(
        tmp_path / "urls.tsv", [{"caption": "A dog runs", "url": "http://example.org/a.jpg"}]
    )
    with pytest.raises(WrongUse, match="has only their URLs; add download to --stages"):
        filtering(urls, tmp_path / "urls", stages=("captions", "spotting", "export"))
