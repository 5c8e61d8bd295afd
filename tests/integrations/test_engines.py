"""CAT in other engines, each the real library: the same decisions as `Cat`, which decides as a run does."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest

from open_diht import Cat

REPOSITORY = Path(__file__).resolve().parents[2]
CC3M = REPOSITORY.parent / "shared/samples/cc3m_validation/Validation_GCC-1.1.0-Validation.tsv"
SAMPLE = REPOSITORY / "data/sample"
WORDS = ("a brown dog catches a red ball", "IMG_2034.jpg", "two women laugh at a table", "Blue Cotton Shirt", "")
Rows = list[str | None]
"""The reason of each row, in order; None where it is kept."""


def hugging_face(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    from open_diht.integrations.huggingface import add_decisions

    rows = datasets.Dataset.from_dict({"text": captions} | ({"jpg": images} if images else {}))
    decided = add_decisions(rows, Cat(), caption="text", image="jpg" if images else None, batch_size=7)
    assert decided["text"][:] == captions
    return decided["cat_reason"][:]


def hugging_face_while_streaming(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    from open_diht.integrations.huggingface import add_decisions

    rows = datasets.Dataset.from_dict({"text": captions} | ({"jpg": images} if images else {})).to_iterable_dataset()
    decided = add_decisions(rows, Cat(), caption="text", image="jpg" if images else None)
    return [row["cat_reason"] for row in decided]


def hugging_face_by_map(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": captions} | ({"jpg": images} if images else {}))
    function = Cat().batch(caption="text", image="jpg" if images else None)
    return rows.map(function, batched=True)["cat_reason"][:]


def ray_data(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    ray = pytest.importorskip("ray")
    from open_diht.cat import CatBatch

    ray.init(num_cpus=2, include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    try:
        columns = {"text": captions} | ({"jpg": images} if images else {})
        names, n = tuple(columns), len(captions)
        rows = ray.data.from_items([{"id": row} | {name: columns[name][row] for name in names} for row in range(n)])
        arguments = {"cat": Cat(), "caption": "text", "image": "jpg" if images else None}
        decided = rows.map_batches(
            CatBatch, fn_constructor_kwargs=arguments, batch_format="pyarrow", batch_size=64, concurrency=1
        )
        found = {row["id"]: row["cat_reason"] for row in decided.take_all()}
        return [found[row] for row in range(n)]
    finally:
        ray.shutdown()


def daft(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    daft = pytest.importorskip("daft")
    from open_diht.integrations.daft import cat_expression

    rows = daft.from_pydict({"text": captions} | ({"jpg": images} if images else {}))
    decision = cat_expression(daft.col("text"), daft.col("jpg") if images else None, batch_size=50)
    return [row["cat_reason"] for row in rows.with_column("cat", decision).to_pydict()["cat"]]


def webdataset(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    library = pytest.importorskip("webdataset")
    from open_diht.integrations.webdataset import CatStage

    with tarfile.open(folder / "rows.tar", "w") as tar:
        for row, caption in enumerate(captions):
            members = {"txt": (caption or "").encode()} | ({"jpg": images[row]} if images else {})
            for name, content in members.items():
                info = tarfile.TarInfo(f"{row:06d}.{name}")
                info.size = len(content)
                tar.addfile(info, BytesIO(content))
    stage = CatStage(Cat(), image="jpg" if images else None, keep_all=True)
    samples = library.WebDataset(str(folder / "rows.tar"), shardshuffle=False).compose(stage)
    reasons = [sample["cat_reason"] for sample in samples]
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
    LocalPipelineExecutor(
        [documents, CatFilter(exclusion_writer=rejected), kept], logging_dir=str(folder / "log")
    ).run()
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
        "custom_operator_paths": [str(REPOSITORY / "open_diht/integrations/cat_for_data_juicer.py")],
        "np": 1,
        "process": [{"cat_filter": {"preset": "paper", "images": bool(images)}}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    subprocess.run(
        [Path(sys.executable).with_name("dj-process"), "--config", "recipe.yaml"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    kept = {json.loads(line)["id"] for line in (folder / "out.jsonl").read_text().splitlines()}
    stats = (folder / "out_stats.jsonl").read_text().splitlines()  # of the kept rows alone
    assert len(stats) == len(kept)
    expected = Cat()(captions, images).reason
    return [None if row in kept else expected[row] or "lost" for row in range(len(captions))]


def pandas(captions: Rows, images: list[bytes] | None, folder: Path) -> Rows:
    library = pytest.importorskip("pandas")
    table = library.DataFrame({"text": captions} | ({"jpg": images} if images else {}))
    function = Cat().batch(caption="text", image="jpg" if images else None)
    return library.DataFrame(function(table.to_dict("list")))["cat_reason"].tolist()


ENGINES = (
    hugging_face,
    hugging_face_while_streaming,
    hugging_face_by_map,
    ray_data,
    daft,
    webdataset,
    datatrove,
    data_juicer,
    pandas,
)


@pytest.fixture(scope="module")
def captions() -> tuple[Rows, Rows]:
    """Captions, and what `Cat` decides about them."""
    rows: Rows = list(itertools.islice(itertools.cycle(WORDS), 50))
    if CC3M.is_file():
        rows += [line.split("\t")[0] for line in CC3M.read_text(encoding="utf-8").splitlines()[:5000]]
    return rows, Cat()(rows).reason


@pytest.fixture(scope="module")
def pairs(ocr_models: None) -> tuple[Rows, list[bytes], Rows]:
    """Captions, images, and what `Cat` decides about the pairs."""
    lines = (SAMPLE / "manifest.tsv").read_text(encoding="utf-8").splitlines()[1:]
    found = [line.split("\t")[:2] for line in lines if (SAMPLE / line.split("\t")[0]).is_file()][::10]
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
