"""A tiny file of every data set's own schema is read with its preset, caption and url from the
right columns."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import dataset_names, load_dataset
from open_diht.pipelines.manifests import FileInfo, expand_inputs, inspect, read

CAPTION = "a dog runs"
URL = "http://example.org/dog.jpg"
UPPER = {"URL": URL, "TEXT": CAPTION, "WIDTH": 2, "HEIGHT": 1, "similarity": 0.3}
LOWER = {"url": URL, "caption": CAPTION, "width": 2, "height": 1, "similarity": 0.3}
UNWANTED = {"punsafe": 0.1, "pwatermark": 0.2}
JOINED = UPPER | UNWANTED | {"hash": 7}
IMG2DATASET = LOWER | {
    **{
        "key": "000000001",
        "status": "success",
        "error_message": None,
        "exif": "{}",
        "sha256": "00",
    },
    **{"width": 256, "height": 256, "original_width": 800, "original_height": 600},
}
TABLES = {
    "laion400m": UPPER | {"SAMPLE_ID": 1, "LICENSE": "?", "NSFW": "UNLIKELY"},
    "laion2b": JOINED | {"md5": "00"},
    "relaion2b": LOWER | UNWANTED,
    "laion-coco": (
        JOINED
        | {
            "top_caption": "a dog",
            "all_captions": ["a dog", "dog"],
            "all_similarities": [0.1, 0.2],
        }
    ),
    "coyo700m": {
        "id": 1,
        "url": URL,
        "text": CAPTION,
        "width": 2,
        "height": 1,
        "clip_similarity_vitl14": 0.2,
    },
    "datacomp": {
        **{
            "uid": "0123456789abcdef0123456789abcdef",
            "url": URL,
            "text": CAPTION,
            "original_width": 2,
        },
        **{"original_height": 1, "clip_l14_similarity_score": 0.2, "sha256": "00"},
        **{"face_bboxes": [[0.0, 0.0, 1.0, 1.0]]},
    },
    "pmd": {
        "image_url": URL,
        "image": {"bytes": b"jpeg", "path": "1"},
        "text": CAPTION,
        "source": "coco",
        "meta": "",
    },
    "custom": {"alt_text": CAPTION, "url": URL, "key": 3},
}
TEXTS = {
    "cc12m": f"{URL}\t{CAPTION}\n",
    "cc3m": f"{CAPTION}\t{URL}\n",
    "sample": f"image_path\tcaption\tsource_note\nimages/1.jpg\t{CAPTION}\t-\n",
}


def manifest_of(name: str, folder: Path) -> str:
    if name in TEXTS:
        path = folder / ("manifest.tsv" if name == "sample" else f"{name}.tsv")
        path.write_text(TEXTS[name], encoding="utf-8")
    else:
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([TABLES[name]]), path)
    return str(path)


@pytest.mark.parametrize("name", dataset_names())
def test_its_own_schema(name: str, tmp_path: Path) -> None:
    dataset = load_dataset(name)
    path = manifest_of(name, tmp_path)
    assert expand_inputs(str(tmp_path), dataset) == [path]
    info = inspect(path, dataset)
    [batch] = read(info, dataset)
    assert batch.captions == [CAPTION] and batch.urls == [None if name == "sample" else URL]
    assert not batch.bad
    assert batch.table.column_names == [
        column.name for column in info.columns if column.name != info.roles.image
    ]
    assert len(batch.uids[0]) == 32 and int(batch.uids[0], 16) >= 0


@pytest.mark.parametrize("name", sorted(set(dataset_names()) - {"sample", "datacomp"}))
def test_the_shards_that_img2dataset_made_of_it(name, write, tar_of, tmp_path):
    contents = {"jpg": b"jpeg", "json": json.dumps(IMG2DATASET).encode(), "txt": CAPTION.encode()}
    path = write(
        "00000.tar",
        tar_of(*((f"000000001.{ending}", content) for ending, content in contents.items())),
    )
    dataset = load_dataset(name)
    info = inspect(path, dataset)
    [batch] = read(info, dataset)
    assert (batch.captions, batch.urls) == ([CAPTION], [URL]) and info.images


def look(row: dict[str, object], name: str, folder: Path) -> FileInfo:
    path = folder / "x.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    return inspect(str(path), load_dataset(name))


def test_size_comes_from_one_family_and_the_original_first(tmp_path: Path) -> None:
    roles = look(IMG2DATASET, "custom", tmp_path).roles
    assert (roles.width, roles.height) == ("original_width", "original_height")
    roles = look(
        {"url": URL, "text": CAPTION, "width": 1, "original_height": 2}, "custom", tmp_path
    ).roles
    assert (roles.width, roles.height) == (None, None)


def test_the_generated_caption_of_laion_coco_can_be_chosen(tmp_path: Path) -> None:
    path = manifest_of("laion-coco", tmp_path)
    dataset = load_dataset("laion-coco").with_roles(caption="top_caption")
    [batch] = read(inspect(path, dataset), dataset)
    assert batch.captions == ["a dog"]


def test_datacomp_keeps_its_uid(tmp_path: Path) -> None:
    dataset = load_dataset("datacomp")
    [batch] = read(inspect(manifest_of("datacomp", tmp_path), dataset), dataset)
    assert batch.uids == ["0123456789abcdef0123456789abcdef"]
