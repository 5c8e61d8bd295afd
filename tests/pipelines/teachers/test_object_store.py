"""Both halves of `make concepts` with data and output in a store equal those on a disk, and the
trainer reads them."""

import json
from typing import Any

import pytest

from open_diht.common.command_line import WrongUse
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.storage import store_path
from open_diht.trainer.concepts import open_targets
from open_diht.trainer.concepts.cli import main as second_half

FAST = ["--k", "2", "--min-steps", "5", "--epochs", "2", "--holdout", "0.3"]


def stored(folder: Any) -> dict[str, bytes]:
    found = {}
    for pattern in ("work/*/data/*.np*", "targets/*.npz", "heads.safetensors", "vocabulary.json"):
        for path in folder.glob(pattern):
            found[str(path).removeprefix(str(folder)).lstrip("/")] = path.read_bytes()
    return found


def whole_way(filtered: Any, make: Any, root: str) -> None:
    """Data go to `root`/data, everything made from them to `root`/concepts."""
    local = filtered.write([24, 16], lambda n, m: m[1:] if n == 5 else m)
    data = store_path(f"{root}/data")
    for path in local.rglob("*"):
        if path.is_file():
            (data / path.relative_to(local).as_posix()).write_bytes(path.read_bytes())
    assert make(local, batch_size=8)[0] == 0
    assert second_half(["--concepts", str(local / "concepts"), *FAST]) == 0
    output = store_path(f"{root}/data/concepts")
    status, said = make(data, output=output, batch_size=8)
    assert status == 0, said
    assert second_half(["--concepts", f"{root}/data/concepts", *FAST]) == 0
    expected = stored(local / "concepts")
    assert len(expected) == 2 * (2 + 1) + 2 + 1 + 1
    assert stored(output) == expected
    assert not [*(output / "work" / "features" / "begun").glob("*")]
    record = read_json(output / "work" / "features" / "commits" / "00000-00000-000.json")
    assert [entry["error"] for entry in record["bad"]] == ["missing_image"]

    _, said = make(data, output=output, batch_size=8)
    assert not any("already done" in line for line in said)  # nothing at all was left to do
    shards = json.loads((local / "shards" / "manifest.json").read_text())["shards"]
    found = open_targets(f"{root}/data/concepts").shard(shards[0]["shard"], shards[0]["sha256"])
    assert found is not None and len(found.keys) == 24


def test_the_memory_of_a_process_is_refused(filtered: Any, make: Any) -> None:
    with pytest.raises(WrongUse, match=r"OUTPUT memory://.* which workers do not see"):
        make(filtered.write([4], lambda n, m: m), output=store_path("memory://concepts"))


@pytest.mark.slow
@pytest.mark.store
def test_in_an_object_store(filtered: Any, make: Any, bucket: str) -> None:
    whole_way(filtered, make, f"{bucket}/concepts-test")
