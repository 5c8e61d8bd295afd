"""Shards and concept targets in an object store: a real S3 server on this machine, and the real
client."""

from pathlib import Path

import pytest

from open_diht.trainer.architecture import tokenizer
from open_diht.trainer.concepts import open_targets
from open_diht.trainer.config import TransformSettings
from open_diht.trainer.data import DataSettings, ShardLoader, ShardUnavailable, Source
from open_diht.trainer.transforms import transform
from tests.trainer.data.conftest import same

pytestmark = pytest.mark.store


def loader(path: str, targets: str, cache: Path, workers: int) -> ShardLoader:
    return ShardLoader(
        DataSettings(
            sources=(Source(path=path),),
            workers=workers,
            shuffle=40,
            index_folder=str(cache / f"index-{workers}"),
            cache_folder=str(cache / f"cache-{workers}"),
        ),
        batch_size=16,
        transform=transform(TransformSettings(), 32, training=True),
        tokenizer=tokenizer({"text_cfg": {"context_length": 16}}),
        concepts=open_targets(targets),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_local_files(bucket, shards, targets, tmp_path, workers):
    """With workers: forks of a process that has talked to the store, as of one that has indexed its
    shards."""
    import s3fs

    store = s3fs.S3FileSystem()
    name = f"trainer-{workers}"
    data = f"bucket/{name}"
    concepts = f"bucket/{name}-concepts"
    store.put(f"{shards}/*.*", f"{data}/")
    store.put(f"{targets}/", f"{concepts}/", recursive=True)
    remote = loader(f"s3://{data}", f"s3://{concepts}", tmp_path, workers)
    local = loader(str(shards), str(targets), tmp_path / "local", 0)
    for epoch in (0, 1):
        batches = list(remote.epoch(epoch))
        assert len(batches) == 6 and same(batches, local.epoch(epoch))
    remote.close()

    late = loader(f"s3://{data}", f"s3://{concepts}", tmp_path / "late", workers)
    store.rm(data, recursive=True)
    for path in (tmp_path / "late").rglob("*.tar"):
        path.unlink()
    with pytest.raises(ShardUnavailable, match=r"s3://.*\.tar cannot be fetched"):
        list(late.epoch(0))
    late.close()
