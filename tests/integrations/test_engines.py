"""CAT in other engines, each the real library: the same decisions as `Cat`, which decides as a run
does."""

import gzip
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht import Cat
from open_diht.cat import CatBatch
from open_diht.filters.captions.numpy_spacy.tokenizer import _Generation
from open_diht.filters.spotting.decode import UnreadableImage, UnreadableImageReason
from open_diht.filters.spotting.spotter import Spotted, Spotting, TextSpotter
from tests.tars import tar_of

REPOSITORY = Path(__file__).resolve().parents[2]
CC3M = REPOSITORY / "data/captions/cc3m_validation/Validation_GCC-1.1.0-Validation.tsv"
SAMPLE = REPOSITORY / "data/sample"
WORDS = (
    "a brown dog catches a red ball",
    "IMG_2034.jpg",
    "two women laugh at a table",
    "Blue Cotton Shirt",
    "",
)
UNREADABLE = UnreadableImage(UnreadableImageReason.TRUNCATED, "")
Rows = list[str | None]
"""The reason of each row, in order; None where it is kept."""


def columns(captions: Rows, images: list[bytes] | None) -> dict[str, Any]:
    return {"text": captions} | ({"jpg": images} if images else {})


def names(images: list[bytes] | None) -> dict[str, Any]:
    """Of the columns, as our functions take them."""
    return {"caption": "text", "image": "jpg" if images else None}


def hugging_face(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    from open_diht.integrations.huggingface import add_decisions

    rows = datasets.Dataset.from_dict(columns(captions, images))
    decided = add_decisions(rows, Cat(), **names(images), batch_size=7)
    assert decided["text"][:] == captions
    return decided["cat_reason"][:]


def hugging_face_while_streaming(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    from open_diht.integrations.huggingface import add_decisions

    rows = datasets.Dataset.from_dict(columns(captions, images)).to_iterable_dataset()
    decided = add_decisions(rows, Cat(), **names(images))
    return [row["cat_reason"] for row in decided]


def hugging_face_by_map(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(columns(captions, images))
    return rows.map(Cat().batch(**names(images)), batched=True)["cat_reason"][:]


@contextmanager
def ray_of_two_cores() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    # By default its workers are nice, and a busy machine stops them.
    os.environ.update(RAY_worker_niceness="0")
    ray.init(num_cpus=2, include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def ray_data(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    with ray_of_two_cores() as ray:
        table = columns(captions, images)
        n = len(captions)
        rows = ray.data.from_items(
            [{"id": row} | {name: table[name][row] for name in table} for row in range(n)]
        )
        options = {"batch_format": "pyarrow", "batch_size": 64, "concurrency": 1}
        decided = rows.map_batches(
            CatBatch, fn_constructor_kwargs={"cat": Cat(), **names(images)}, **options
        )
        found = {row["id"]: row["cat_reason"] for row in decided.take_all()}
        return [found[row] for row in range(n)]


def daft(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    daft = pytest.importorskip("daft")
    from open_diht.integrations.daft import cat_expression

    rows = daft.from_pydict(columns(captions, images))
    decision = cat_expression(daft.col("text"), daft.col("jpg") if images else None, batch_size=50)
    return [row["cat_reason"] for row in rows.with_column("cat", decision).to_pydict()["cat"]]


def webdataset(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    library = pytest.importorskip("webdataset")
    from open_diht.integrations.webdataset import CatStage

    members = []
    for row, caption in enumerate(captions):
        members += [(f"{row:06d}.txt", (caption or "").encode())]
        members += [(f"{row:06d}.jpg", images[row])] if images else []
    (folder / "rows.tar").write_bytes(tar_of(*members))
    stage = CatStage(Cat(), image="jpg" if images else None, keep_all=True)
    samples = library.WebDataset(str(folder / "rows.tar"), shardshuffle=False).compose(stage)
    reasons = [sample["__cat_reason__"] for sample in samples]
    assert stage.reasons == Counter(reason for reason in reasons if reason)
    return reasons


def datatrove(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    pytest.importorskip("datatrove")
    if images:
        pytest.skip("datatrove's documents are texts")
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.writers import JsonlWriter

    from open_diht.integrations.datatrove import CatFilter

    documents = [Document(text=caption or "", id=str(row)) for row, caption in enumerate(captions)]
    rejected = JsonlWriter(str(folder / "rejected"), compression=None)
    kept = JsonlWriter(str(folder / "kept"), compression=None)
    steps = [documents, CatFilter(exclusion_writer=rejected), kept]
    LocalPipelineExecutor(steps, logging_dir=str(folder / "log")).run()
    found: dict[int, str | None] = {}
    for file in folder.glob("*/*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[int(row["id"])] = row["metadata"].get("filter_reason")
    return [found[row] for row in range(len(captions))]


def data_juicer(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    pytest.importorskip("data_juicer")
    import yaml

    rows = []
    for row, caption in enumerate(captions):
        rows.append({"text": caption or "", "id": row})
        if images:
            (folder / f"{row}.jpg").write_bytes(images[row])
            rows[-1]["images"] = [str(folder / f"{row}.jpg")]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "dataset_path": str(folder / "in.jsonl"),
        "export_path": str(folder / "out.jsonl"),
        "custom_operator_paths": [
            str(REPOSITORY / "open_diht/integrations/cat_for_data_juicer.py")
        ],
        "np": 1,
        "process": [{"cat_filter": {"preset": "paper", "images": bool(images)}}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [str(Path(sys.executable).with_name("dj-process")), "--config", "recipe.yaml"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    kept = {json.loads(line)["id"] for line in (folder / "out.jsonl").read_text().splitlines()}
    stats = (folder / "out_stats.jsonl").read_text().splitlines()  # of the kept rows alone
    assert len(stats) == len(kept)
    expected = Cat()(captions, images).reason
    return [None if row in kept else expected[row] or "lost" for row in range(len(captions))]


def pandas(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    library = pytest.importorskip("pandas")
    table = library.DataFrame(columns(captions, images))
    return library.DataFrame(Cat().batch(**names(images))(table.to_dict("list")))[
        "cat_reason"
    ].tolist()


ENGINES = [
    hugging_face,
    hugging_face_while_streaming,
    hugging_face_by_map,
    ray_data,
    daft,
    webdataset,
    datatrove,
]
ENGINES += [data_juicer, pandas]


@pytest.fixture(scope="module")
def captions() -> tuple[Rows, Rows]:
    rows: Rows = list(itertools.islice(itertools.cycle(WORDS), 50))
    rows += [line.split("\t")[0] for line in CC3M.read_text(encoding="utf-8").splitlines()[:1500]]
    return rows, Cat()(rows).reason


@pytest.fixture(scope="module")
def pairs(ocr_models: None) -> tuple[Rows, list[bytes], Rows]:
    lines = (SAMPLE / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]
    found = [line.split("\t")[:2] for line in lines if (SAMPLE / line.split("\t")[0]).is_file()][
        ::10
    ]
    images = [(SAMPLE / path).read_bytes() for path, _ in found]
    rows: Rows = [caption for _, caption in found]
    reasons = Cat()(rows, images).reason
    assert {"action", "complexity", "text_spotting", None} <= {*reasons}
    return rows, images, reasons


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_captions_are_decided_as_in_a_run(engine, captions, tmp_path):
    assert engine(captions[0], None, tmp_path) == captions[1]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_images_are_read_as_in_a_run(engine, pairs, tmp_path):
    assert engine(*pairs[:2], tmp_path) == pairs[2]


def example(heading: str) -> str:
    page = (REPOSITORY / "docs/howto/integrations.md").read_text(encoding="utf-8")
    return page.split(f"\n## {heading}\n")[1].split("```python\n")[1].split("```")[0]


def rows_of(folder: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("**/*.parquet"))


def dropped_and_kept(statistics: dict[str, Any]) -> tuple[dict[Any, int], int]:
    dropped = {name: stat.total for name, stat in statistics.items() if name.startswith("dropped_")}
    kept = sum(gzip.decompress(file.read_bytes()).count(b"\n") for file in Path("kept").iterdir())
    return {name.removeprefix("dropped_"): total for name, total in dropped.items()}, kept


EXAMPLES: dict[str, tuple[bool, Callable[[dict[str, Any]], tuple[dict[Any, int], int]]]] = {
    "Hugging Face datasets": (True, lambda left: (left["reasons"], len(left["kept"]))),
    "Ray Data": (True, lambda left: (left["reasons"], rows_of(Path("kept")))),
    "Daft": (
        True,
        lambda left: (
            dict(zip(*left["reasons"].to_pydict().values(), strict=True)),
            rows_of(Path("kept")),
        ),
    ),
    "webdataset": (True, lambda left: (left["stage"].reasons, len(left["kept"]))),
    "datatrove": (False, lambda left: dropped_and_kept(left["statistics"].stats[1].stats)),
    "pandas and DuckDB": (
        False,
        lambda left: (left["reasons"].to_dict(), pq.read_metadata("kept.parquet").num_rows),
    ),
}
"""Whether an engine's example reads images; the counts by reason, and of kept rows, from the names
that it leaves."""


@pytest.mark.slow
@pytest.mark.parametrize("heading", EXAMPLES)
def test_the_examples_of_the_page_run_and_count_the_reasons(heading, pairs, tmp_path, monkeypatch):
    chosen = [pairs[2].index(reason) for reason in ("action", "complexity", "text_spotting", None)]
    rows = [{"id": str(row), "text": pairs[0][row], "jpg": pairs[1][row]} for row in chosen * 2]
    expected = dict(Counter(pairs[2][row] for row in chosen * 2))
    with_images, found = EXAMPLES[heading]
    if not with_images:
        expected = dict(Counter(Cat()([row["text"] for row in rows]).reason))
    (tmp_path / "pairs").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs/0.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        parts = ((f"{row['id']}-{shard}", row) for row in rows[shard::2])
        members = (
            ((f"{key}.txt", row["text"].encode()), (f"{key}.jpg", row["jpg"])) for key, row in parts
        )
        (tmp_path / f"shards/0000{shard}.tar").write_bytes(tar_of(*itertools.chain(*members)))
    monkeypatch.chdir(tmp_path)
    if heading == "Hugging Face datasets":
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    left: dict[str, Any] = {}
    with ray_of_two_cores() if heading == "Ray Data" else nullcontext():
        exec(example(heading), left)
    reasons, kept = found(left)
    assert kept == expected.pop(None)
    assert {
        reason: count for reason, count in reasons.items() if isinstance(reason, str)
    } == expected


def add_by_hugging_face(rows: dict[str, list[Any]], caption: str, image: str | None) -> None:
    import datasets

    from open_diht.integrations.huggingface import add_decisions

    add_decisions(datasets.Dataset.from_dict(rows), Cat(), caption=caption, image=image)


def stream_by_hugging_face(rows: dict[str, list[Any]], caption: str, image: str | None) -> None:
    import datasets

    from open_diht.integrations.huggingface import add_decisions

    list(
        add_decisions(
            datasets.Dataset.from_dict(rows).to_iterable_dataset(),
            Cat(),
            caption=caption,
            image=image,
        )
    )


def add_by_daft(rows: dict[str, Any], caption: str, image: str | None) -> None:
    import daft

    from open_diht.integrations.daft import cat_expression

    decision = cat_expression(daft.col(caption), daft.col(image) if image else None)
    daft.from_pydict(rows).with_column("cat", decision).collect()


def add_by_webdataset(rows: dict[str, list[Any]], caption: str, image: str | None) -> None:
    from open_diht.integrations.webdataset import CatStage

    stage = CatStage(Cat(), caption=caption, image=image)
    list(stage(dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)))


def add_by_ray_or_arrow(rows: dict[str, list[Any]], caption: str, image: str | None) -> None:
    CatBatch(Cat(), caption, image)(pa.table(rows))


def add_by_pandas(rows: dict[str, list[Any]], caption: str, image: str | None) -> None:
    Cat().batch(caption=caption, image=image)(rows)


@pytest.mark.parametrize(
    ("column", "caption", "image", "words"),
    [
        ({}, "texts", None, ("texts", "text")),
        ({}, "text", "png", ("png", "jpg")),
        ({"text": [5] * 20}, "text", None, ("text", "int", "name the column")),
        ({"jpg": [5] * 20}, "text", "jpg", ("jpg", "int", "undecoded")),
    ],
)
@pytest.mark.parametrize(
    "add",
    [
        add_by_hugging_face,
        stream_by_hugging_face,
        add_by_daft,
        add_by_webdataset,
        add_by_ray_or_arrow,
        add_by_pandas,
    ],
)
def test_a_wrong_column_ends_the_job_with_its_name(add, column, caption, image, words):
    pytest.importorskip(
        {"daft": "daft", "face": "datasets"}.get(add.__name__.split("_")[-1], "pyarrow")
    )
    rows = {"text": [WORDS[0]] * 20, "jpg": [b"never decoded"] * 20, **column}
    with pytest.raises(Exception) as error:
        add(rows, caption, image)
    said = f"{error.value} {error.value.__cause__}"  # engines wrap the error of a function
    if add is add_by_daft and not column:
        words = words[:1]  # Daft refuses an unknown column itself
    assert all(word in said for word in words)


@pytest.fixture
def few():
    """A small data set of Hugging Face, of which the second row is rejected."""
    return pytest.importorskip("datasets").Dataset.from_dict({"text": [*WORDS[:2]], "id": [7, 8]})


ADDED = ["cat_keep", "cat_reason", "cat_complexity", "cat_actions", "cat_objects", "cat_attributes"]


@pytest.mark.parametrize(
    "emptied", [lambda rows: rows.select([]), lambda rows: rows.filter(lambda row: False)]
)
def test_a_data_set_without_rows_gets_the_columns(emptied, few):
    from open_diht.integrations.huggingface import add_decisions, keep

    few.info.description = "few"
    full, empty = (add_decisions(rows, Cat(), caption="text") for rows in (few, emptied(few)))
    assert (len(empty), empty.column_names, empty.features) == (0, full.column_names, full.features)
    assert empty.info.description == "few"
    kept, reasons = keep(emptied(few).with_format("numpy", ["id"]), Cat(), caption="text")
    assert (kept.num_rows, kept.format["columns"], reasons) == (0, ["id", *ADDED], Counter())
    with pytest.raises(KeyError, match="text"):
        keep(emptied(few), Cat(), caption="texts")


def test_kept_rows_can_be_decided_by_another_preset(few):
    from open_diht.integrations.huggingface import keep

    kept, _ = keep(few, Cat("paper"), caption="text")
    again, reasons = keep(kept, Cat("strict"), caption="text")
    assert again.column_names == kept.column_names == ["text", "id", *ADDED]
    assert (again["text"][:], reasons) == ([WORDS[0]], Counter())


@pytest.mark.parametrize(
    ("columns", "output_all_columns", "shown"),
    [
        (None, False, ["text", "id", *ADDED]),
        (["id"], False, ["id", *ADDED]),
        (["id"], True, ["text", "id", *ADDED]),
    ],
)
def test_a_data_set_keeps_its_format(columns, output_all_columns, shown, few):
    from open_diht.integrations.huggingface import keep

    kept, _ = keep(
        few.with_format("numpy", columns, output_all_columns, dtype="int8"), Cat(), caption="text"
    )
    assert kept.format["type"] == "numpy" and kept.format["format_kwargs"] == {"dtype": "int8"}
    assert sorted(kept[0]) == sorted(shown)
    kept, _ = keep(kept, Cat(), caption="text")
    assert sorted(kept[0]) == sorted(shown), "decided again"


def test_a_data_set_keeps_its_transform(few):
    from open_diht.integrations.huggingface import keep

    loud = few.with_transform(lambda batch: {"loud": [text.upper() for text in batch["text"]]})
    kept, reasons = keep(loud, Cat(), caption="text")
    assert (kept[0], reasons) == ({"loud": WORDS[0].upper()}, Counter(complexity=1))


def test_decisions_by_map_and_by_add_decisions_can_be_concatenated(few, monkeypatch):
    datasets = pytest.importorskip("datasets")
    from open_diht.integrations.huggingface import add_decisions

    line = Spotted(text="YOGA", score=0.3, box=((0.0, 1.0), (5.5, 1.0), (5.5, 3.0), (0.0, 3.0)))
    read = Spotting(spotted=(line,), width=40, height=30)
    monkeypatch.setattr(TextSpotter, "spot", lambda self, images: (read for _ in images))
    few = few.add_column("jpg", [b"one", b"two"])
    mapped = few.map(Cat().batch(caption="text", image="jpg"), batched=True)
    added = add_decisions(few, Cat(), caption="text", image="jpg")
    both = datasets.concatenate_datasets([mapped, added])
    assert mapped.features == added.features and both[:2] == both[2:]


@pytest.mark.usefixtures("ocr_models")
@pytest.mark.parametrize("alias", [False, True])
def test_daft_takes_caption_and_image_by_their_places(alias):
    daft = pytest.importorskip("daft")
    from open_diht.integrations.daft import cat_expression

    rows = daft.from_pydict(
        {"cap": [{"value": WORDS[0]}, {"value": WORDS[1]}], "img": [{"value": b""}] * 2}
    )
    caption, image = (daft.col(name)["value"] for name in ("cap", "img"))
    if alias:
        rows = rows.select(caption.alias("a"), image.alias("b"))
        caption, image = (daft.col(name).alias("same") for name in "ab")
    decided = rows.with_column("cat", cat_expression(caption, image)).to_pydict()["cat"]
    assert [row["cat_reason"] for row in decided] == ["empty", "complexity"]


@pytest.mark.parametrize("image", ["jpg;png", None])
def test_webdataset_takes_the_image_members_that_a_run_takes(image, monkeypatch):
    from open_diht.integrations.webdataset import CatStage

    read: list[bytes] = []

    def spot(self, images):
        for one in images:
            read.append(one)
            yield UNREADABLE

    monkeypatch.setattr(TextSpotter, "spot", spot)
    names = ("jpg", "jpeg", "png", "webp")
    samples = [{"__key__": name, "txt": WORDS[0], name: name.encode()} for name in names * 5]
    stage = CatStage(Cat(), **({"image": image} if image else {}))
    assert list(stage(samples)) == []
    found = names if image is None else ("jpg", "png")
    assert read == [name.encode() for name in found] * 5
    assert (
        stage.reasons
        == Counter(truncated=len(read), image_not_available=20 - len(read)) - Counter()
    )


# ---- exceptions, interrupts and a killed OCR process inside of workers
class Troubled(CatBatch):
    """Decides a batch, has two calls fail in the middle and kills the OCR process, then decides the
    batch again."""

    def __call__(self, batch: Any) -> Any:
        before = super().__call__(batch)
        for trouble in (MemoryError, KeyboardInterrupt):
            words = [f"a zebra chases {os.urandom(4).hex()} ostriches"] * 8
            with patch.object(_Generation, "add_tokens", side_effect=trouble), suppress(trouble):
                super().__call__({"text": words, "jpg": [None] * 8})
                raise AssertionError("the call did not fail")
        killed = [
            child
            for child in psutil.Process().children()
            if "open_diht.filters.spotting.worker" in child.cmdline()
        ]
        assert killed, "no OCR process of this worker"
        for child in killed:
            child.kill()
        after = super().__call__(batch)
        assert [*after["cat_reason"]] == [*before["cat_reason"]]
        return after


def by_datasets(rows: dict[str, Any], troubled: Troubled) -> Rows:
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict(rows).map(troubled, batched=True, batch_size=4, num_proc=2)[
        "cat_reason"
    ][:]


def by_data_loader(rows: dict[str, Any], troubled: Troubled) -> Rows:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(
        range(len(rows["text"])), 4, num_workers=2, collate_fn=partial(decided, rows, troubled)
    )
    return [reason for batch in loader for reason in batch]


def decided(rows: dict[str, Any], troubled: Troubled, indices: list[int]) -> Rows:
    found: Rows = troubled({name: [values[n] for n in indices] for name, values in rows.items()})[
        "cat_reason"
    ]
    return found


def by_ray(rows: dict[str, Any], troubled: Troubled) -> Rows:
    with ray_of_two_cores() as ray:
        numbered = [
            {"id": n, **{name: rows[name][n] for name in rows}} for n in range(len(rows["text"]))
        ]
        made = {"fn_constructor_kwargs": {"cat": troubled.cat, "caption": "text", "image": "jpg"}}
        options = {"batch_format": "pyarrow", "batch_size": 4, "concurrency": 1, **made}
        found = ray.data.from_items(numbered).map_batches(Troubled, **options).take_all()
        return [row["cat_reason"] for row in sorted(found, key=lambda row: int(row["id"]))]


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.parametrize("engine", [by_datasets, by_data_loader, by_ray])
def test_after_troubles_inside_of_workers_the_answers_are_those_of_an_undisturbed_process(
    engine, ocr_models
):
    images = [path.read_bytes() for path in sorted((SAMPLE / "images").glob("overlay_*.jpg"))[:4]]
    rows = {"text": [*WORDS[:4], *reversed(WORDS[:4])], "jpg": images * 2}
    expected = Cat()(rows["text"], rows["jpg"]).reason
    assert None in expected and len(set(expected)) > 2, expected
    assert engine(rows, Troubled(Cat(), "text", "jpg")) == expected
