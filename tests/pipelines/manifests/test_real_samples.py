"""Rows of manifests as they were published, and the project's own sample."""

from collections import Counter
from pathlib import Path

import pytest

from open_diht.pipelines.datasets import Dataset, load_dataset
from open_diht.pipelines.manifests import (
    Batch,
    MissingImage,
    expand_inputs,
    inspect,
    read,
    read_images,
    split,
)
from tests.pipelines.manifests.conftest import PUBLISHED

REPOSITORY = Path(__file__).parents[3]


def everything(path: Path, dataset: Dataset, unit_rows: int = 1000) -> list[Batch]:
    info = inspect(str(path), dataset)
    whole = list(read(info, dataset))
    pieces = [batch for span in split(info, unit_rows) for batch in read(span, dataset, 77)]
    assert [uid for batch in whole for uid in batch.uids] == [
        uid for batch in pieces for uid in batch.uids
    ]
    return whole


def test_laion400m() -> None:
    dataset = load_dataset("laion400m")
    path = PUBLISHED / "laion400m.parquet"
    roles = inspect(str(path), dataset).roles
    assert (roles.url, roles.caption, roles.unsafe, roles.similarity) == (
        "URL",
        "TEXT",
        "NSFW",
        "similarity",
    )
    assert (roles.width, roles.height) == ("WIDTH", "HEIGHT")
    [batch] = everything(path, dataset)
    assert batch.rows == 19 and not batch.bad
    assert batch.captions[0] == "Hoop Earrings Beaded Hoop Earrings"


def test_coyo() -> None:
    [batch] = everything(PUBLISHED / "coyo700m.parquet", load_dataset("coyo700m"))
    assert batch.rows == 7 and batch.captions[1] == "The Gate by Pete2453"


def test_cc3m() -> None:
    dataset = load_dataset("cc3m")
    batches = everything(PUBLISHED / "cc3m.tsv", dataset)
    assert sum(batch.rows for batch in batches) == 100 and not any(batch.bad for batch in batches)
    assert batches[0].captions[0] == "author : a life in photography -- in pictures"
    assert all(
        url is not None and url.startswith("http") for batch in batches for url in batch.urls
    )


@pytest.mark.parametrize(
    ("name", "rows"), [("sample_image", 2), ("test_bbox", 1), ("laion_alt_texts", 100)]
)
def test_img2dataset(name: str, rows: int) -> None:
    batches = everything(PUBLISHED / f"{name}.parquet", load_dataset("laion2b"))
    assert sum(len(batch.ordinals) for batch in batches) == rows


def test_aro_is_csv_with_tabs() -> None:
    path = PUBLISHED / "aro.tsv"
    batches = everything(path, load_dataset("custom").with_roles(format="csv", delimiter="\t"))
    assert sum(batch.rows for batch in batches) == 60 and not any(batch.bad for batch in batches)
    as_tsv = everything(path, load_dataset("custom"))
    assert any(batch.bad for batch in as_tsv)  # its quoted fields span lines


def test_the_projects_own_sample() -> None:
    folder = REPOSITORY / "data" / "sample"
    if not folder.is_dir():
        pytest.skip(f"no sample in {folder}")
    dataset = load_dataset("sample")
    [path] = expand_inputs(str(folder), dataset)
    info = inspect(path, dataset)
    batches = list(read(info, dataset))
    assert sum(batch.rows for batch in batches) == 298 and not any(batch.bad for batch in batches)
    assert len({uid for batch in batches for uid in batch.uids}) == 298
    found = Counter(type(image) for _, image in read_images(info, dataset, range(298)))
    assert found == {bytes: 297, MissingImage: 1}
