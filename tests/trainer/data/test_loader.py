"""What a trainer relies on: once per epoch, exact resume, counted errors, no silence."""

import fcntl
import io
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from open_diht.trainer.data import (
    BadSource,
    Batch,
    LoaderStalled,
    ShardMismatch,
    ShardUnavailable,
    Source,
    Split,
    TooManyBad,
)
from open_diht.trainer.data.shards import _given_index
from open_diht.trainer.data.sources import find_shards
from open_diht.trainer.data.store import ShardFile, ShardStore
from tests.trainer.data.conftest import same


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_a_batch_is_what_the_shards_hold(tars: Any, load: Any, tmp_path: Path) -> None:
    loader = load(
        tars.folder(tmp_path / "d", [3, 4]),
        batch_size=7,
        transform=lambda image: torch.tensor(image.size),
    )
    (batch,) = loader.epoch(0)
    assert sorted(batch.keys) == [tars.key(number) for number in range(7)]
    assert batch.images.tolist() == [[12, 12]] * 7
    texts = [bytes(row).rstrip(b"\0").decode() for row in batch.texts.tolist()]
    assert texts == [f"caption {int(key[:32], 16)}" for key in batch.keys]
    assert len(set(batch.caption_hash.tolist())) == 7
    assert (loader.batches_per_epoch, loader.samples_per_epoch, loader.counts) == (1, 7, {"ok": 7})


def test_a_line_of_pixels_loses_its_ends(tars: Any, load: Any, tmp_path: Path) -> None:
    line = io.BytesIO()
    Image.new("RGB", (3000, 2)).save(line, "PNG")
    _, *others = tars.members([0])
    tars.write(tmp_path / "d" / "0.tar", [(f"{tars.key(0)}.png", line.getvalue()), *others])
    (batch,) = load(
        tmp_path / "d", batch_size=1, transform=lambda image: torch.tensor(image.size)
    ).epoch(0)
    assert batch.images.tolist() == [[40, 2]]


@pytest.mark.parametrize(
    ("world", "workers", "streams"), [(1, 0, 1), (2, 2, 1), (3, 1, 3), (4, 0, 2)]
)
def test_every_sample_once_per_epoch_over_ranks_and_workers(
    tars, load, tmp_path, world, workers, streams
):
    # 48 samples; more workers than shards is no matter.
    folder = tars.folder(tmp_path / "d", [11, 7, 20, 1, 9])
    seen: Counter[str] = Counter()
    for rank in range(world):
        loader = load(
            folder, batch_size=12 // world, rank=rank, world=world, workers=workers, streams=streams
        )
        seen.update(keys(list(loader.epoch(2))))
        assert (loader.batches_per_epoch, loader.samples_per_epoch) == (4, 48)
    assert seen == Counter({tars.key(number): 1 for number in range(48)})


def test_the_default_mixes_many_shards_in_a_batch(tars: Any, load: Any, tmp_path: Path) -> None:
    """A window of one stream touches a few shards of a large source; the default has about a stream
    a shard."""
    folder = tars.folder(tmp_path / "d", [6] * 32)

    def shards_per_batch(loader: Any) -> float:
        numbers = [{int(key[:32], 16) // 6 for key in batch.keys} for batch in loader.epoch(0)]
        return sum(map(len, numbers)) / len(numbers)

    one = load(folder, batch_size=48, shuffle=12, streams=1)
    default = load(folder, batch_size=48, shuffle=12)
    assert default.streams == 32
    assert shards_per_batch(one) < 14 and shards_per_batch(default) > 20  # of a uniform draw: 25
    assert load(folder, shuffle=0).streams == 1


def test_what_does_not_fill_a_global_batch_is_dropped_or_shared(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = tars.folder(tmp_path / "d", [10, 9])
    assert (load(folder, world=2).batches_per_epoch, load(folder, world=2).samples_per_epoch) == (
        2,
        16,
    )
    left_out = [{*keys(list(load(folder, batch_size=8).epoch(epoch)))} for epoch in (0, 1)]
    assert left_out[0] != left_out[1]
    ranks = [
        list(load(folder, rank=rank, world=3, batch_size=6, drop_last=False).epoch(0))
        for rank in range(3)
    ]
    assert [[len(batch) for batch in batches] for batches in ranks] == [[6, 0], [6, 0], [6, 1]]
    assert ranks[0][1].images.shape == (0, 3, 8, 8) and ranks[0][1].texts.shape == (0, 16)
    assert sorted(itertools.chain(*map(keys, ranks))) == [tars.key(number) for number in range(19)]


def test_batches_do_not_depend_on_the_number_of_workers(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = tars.folder(tmp_path / "d", [11, 7, 20])
    alone = list(load(folder).epoch(1))
    assert same(alone, list(load(folder, workers=1).epoch(1)))
    assert same(alone, list(load(folder, workers=3, prefetch=3).epoch(1)))
    assert not same(alone, list(load(folder, seed=6).epoch(1)))


def test_a_global_batch_does_not_depend_on_the_number_of_ranks(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = tars.folder(tmp_path / "d", [11, 7, 20])
    alone = list(load(folder, batch_size=8, streams=2).epoch(0))
    ranks = [
        list(load(folder, batch_size=4, rank=rank, world=2, streams=2).epoch(0)) for rank in (0, 1)
    ]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert whole.keys == parts[0].keys + parts[1].keys
        assert torch.equal(whole.images, torch.cat([part.images for part in parts]))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_exact_at_every_batch_and_across_epochs(
    tars: Any, load: Any, tmp_path: Path, workers: int
) -> None:
    folder = tars.folder(tmp_path / "d", [11, 7, 20])
    first = load(folder, workers=workers)
    whole = [*first.epoch(0), *first.epoch(1)]
    per_epoch = first.batches_per_epoch
    again = load(folder, workers=workers)
    for start in range(0, 2 * per_epoch, 1 if workers == 0 else 5):
        epoch, batch = divmod(start, per_epoch)
        rest = [*again.epoch(epoch, start=batch), *(again.epoch(1) if epoch == 0 else ())]
        assert same(rest, whole[start:])


def test_resume_decodes_nothing_that_was_passed(tars: Any, load: Any, tmp_path: Path) -> None:
    decoded: list[int] = []

    def transform(image: Image.Image) -> torch.Tensor:
        decoded.append(1)
        return torch.zeros(3, 1, 1)

    loader = load(tars.folder(tmp_path / "d", [40]), transform=transform)
    list(loader.epoch(0, start=8))
    assert len(decoded) == 2 * 4
    assert list(loader.epoch(0, start=10)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_the_generators_of_the_training_are_left_alone(
    tars: Any, load: Any, tmp_path: Path, workers: int
) -> None:
    folder = tars.folder(tmp_path / "d", [12])

    def draws() -> tuple[float, float, float]:
        return torch.rand(1).item(), random.random(), np.random.random()

    def seed() -> None:
        torch.manual_seed(1), random.seed(1), np.random.seed(1)

    seed()
    expected = draws()
    seed()
    list(load(folder, workers=workers).epoch(0))
    assert draws() == expected


def test_an_epoch_that_is_left_cannot_go_on(tars: Any, load: Any, tmp_path: Path) -> None:
    loader = load(tars.folder(tmp_path / "d", [40]), workers=2)
    left = loader.epoch(0)
    next(left)
    whole = list(loader.epoch(1))
    assert len(whole) == 10
    with pytest.raises(RuntimeError, match="epoch 0: a later call"):
        next(left)


def test_equal_captions_and_equal_images_have_equal_hashes(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    content: list[tuple[str, bytes]] = []
    for n in range(8):
        content += [(f"{n}.png", tars.image(n // 2)), (f"{n}.txt", b"a dog" if n % 2 else b"a cat")]
    tars.write(tmp_path / "d" / "a.tar", content)
    (batch,) = load(tmp_path / "d", batch_size=8).epoch(0)
    numbers = [int(key) for key in batch.keys]
    captions = {*zip((n % 2 for n in numbers), batch.caption_hash.tolist(), strict=True)}
    images = {*zip((n // 2 for n in numbers), batch.image_hash.tolist(), strict=True)}
    assert len(captions) == len({value for _, value in captions}) == 2
    assert len(images) == len({value for _, value in images}) == 4


# What is wrong with samples


def damaged(tars: Any, folder: Path, bad: int, of: int) -> Path:
    content = tars.members(range(of))
    for number in range(bad):
        content[3 * number * (of // bad)] = (
            f"{tars.key(number * (of // bad))}.png",
            b"<html>not found</html>",
        )
    tars.write(folder / "00000.tar", content)
    return folder


def test_bad_images_are_counted_and_replaced_the_same_way_by_everyone(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = damaged(tars, tmp_path / "d", bad=3, of=60)
    alone = load(folder, max_bad_share=0.05)
    others = load(folder, max_bad_share=0.05, workers=2)
    batches = list(alone.epoch(0))
    assert [len(batch) for batch in batches] == [4] * 15
    assert alone.counts == {"ok": 60, "undecodable_image": 3}
    assert not {tars.key(number) for number in (0, 20, 40)} & {*keys(batches)}
    assert same(batches, list(others.epoch(0)))
    assert others.counts == alone.counts
    assert any(tars.key(20) in problem and "00000.tar" in problem for problem in alone.problems)


@pytest.mark.parametrize(
    ("bad", "of", "share", "says"),
    [
        (3, 60, 0.02, r"2 bad samples, more than data.max_bad_share 2.00% .*00000\.tar, key \w+-"),
        (
            8,
            8,
            1,
            r"^no sample of shard .*00000\.tar or its neighbors could be used in up to 32 tries",
        ),
    ],
    ids=["more than allowed", "not one good image"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images_end_the_run_in_one_line(
    workers, bad, of, share, says, tars, load, tmp_path
):
    folder = damaged(tars, tmp_path / "d", bad, of)
    with pytest.raises(TooManyBad, match=says) as found:
        list(load(folder, max_bad_share=share, workers=workers).epoch(0))
    assert "\n" not in str(found.value), "nothing of the worker's stack"


def test_a_shard_is_opened_once_while_the_windows_in_use_lie_in_it(
    tars, load, tmp_path, monkeypatch
):
    """Every batch reads all streams, however many there are."""
    folder = tars.folder(tmp_path / "d", [4] * 24)
    monkeypatch.setattr("open_diht.trainer.data.reader._OPEN_SHARDS", 4)
    loader = load(folder, streams=8, shuffle=8, batch_size=8)
    opened: list[str] = []
    descriptor = ShardStore.descriptor

    def counted(store: ShardStore, shard: ShardFile) -> int:
        opened.append(shard.name)
        return descriptor(store, shard)

    monkeypatch.setattr(ShardStore, "descriptor", counted)
    assert len(keys(list(loader.epoch(0)))) == 96
    assert len(opened) == len({*opened}) == 24


def test_where_no_sample_of_a_shard_is_good_its_neighbours_stand_in(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    """The same ones for every rank, every number of workers and every resume."""
    folder = tars.folder(tmp_path / "d", [1, 8, 15])
    tars.write(
        folder / "00000.tar", [(f"{tars.key(0)}.png", b"<html>"), (f"{tars.key(0)}.txt", b"x")]
    )
    alone = load(folder, max_bad_share=0.5)
    workers = load(folder, max_bad_share=0.5, workers=2)
    batches = list(alone.epoch(0))
    assert tars.key(0) not in keys(batches) and len(keys(batches)) == 24
    assert alone.counts == {"ok": 24, "undecodable_image": 1}
    assert same(batches, list(workers.epoch(0))) and same(
        batches[3:], list(workers.epoch(0, start=3))
    )
    ranks = [load(folder, max_bad_share=0.5, batch_size=2, rank=rank, world=2) for rank in (0, 1)]
    pairs = zip(*(loader.epoch(0) for loader in ranks), strict=True)
    assert [one.keys + other.keys for one, other in pairs] == [batch.keys for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_while_it_is_read_is_counted_and_replaced(workers, tars, load, tmp_path):
    folder = tars.folder(tmp_path / "d", [4, 8, 36])
    loader = load(folder, max_bad_share=0.1, workers=workers)
    strict = load(folder, max_bad_share=0.05, workers=workers)
    (folder / "00000.tar").unlink()
    seen = keys(list(loader.epoch(0)))
    assert len(seen) == 48 and not {*seen} & {tars.key(number) for number in range(4)}
    assert loader.counts == {"ok": 48, "missing_shard": 4}
    with pytest.raises(
        TooManyBad, match=r"[34] bad samples, .*missing_shard: shard .*00000\.tar cannot be opened"
    ):
        list(strict.epoch(0))


def test_bad_samples_of_all_ranks_count_against_one_limit(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    """All the bad ones may be one rank's: the shard that is lost is in its stream."""
    folder = tars.folder(tmp_path / "d", [6] * 8)
    ranks = [
        load(folder, rank=rank, world=2, batch_size=6, max_bad_share=0.13, streams=8)
        for rank in (0, 1)
    ]
    (folder / "00003.tar").unlink()
    for loader in ranks:
        list(loader.epoch(0))
    assert sum(loader.lost for loader in ranks) == 6
    ranks[0].check_lost(0, 6)
    with pytest.raises(
        TooManyBad, match=r"epoch 0: 7 bad samples, more than data.max_bad_share 13.00% of its 48"
    ):
        ranks[0].check_lost(0, 7)


def test_counts_go_on_after_a_resume(tars: Any, load: Any, tmp_path: Path) -> None:
    folder = damaged(tars, tmp_path / "d", bad=6, of=60)
    whole = load(folder, max_bad_share=0.5)
    batches = whole.epoch(0)
    for _ in range(7):
        next(batches)
    again = load(folder, max_bad_share=0.5)
    again.take_over(whole.read, 0, whole.lost)
    list(again.epoch(0, start=7))
    list(batches)
    assert again.counts == whole.counts and again.lost == whole.lost >= 6
    list(again.epoch(1))
    assert again.lost < again.counts["undecodable_image"]  # an epoch begins at nought


def test_a_run_that_goes_on_may_leave_shards_out(tars: Any, load: Any, tmp_path: Path) -> None:
    folder = tars.folder(tmp_path / "d", [4, 20, 24])
    before = load(folder)
    whole = list(before.epoch(0))
    begun = [source.facts for source in before.sources]
    (folder / "00000.tar").unlink()
    with pytest.raises(
        BadSource, match=r"began: shard 00000\.tar is missing; .*data.skip=\[00000.tar\]"
    ):
        load(folder, begun=begun)
    gone = {tars.key(number) for number in range(4)}
    loaders = [
        load(folder, begun=begun, skip=("00000.tar",), max_bad_share=0.1, workers=n) for n in (0, 2)
    ]
    left = list(loaders[0].epoch(0))
    assert same(left, list(loaders[1].epoch(0)))
    for new, old in zip(keys(left), keys(whole), strict=True):
        assert new not in gone and (new == old or old in gone)
    assert loaders[0].counts == {"ok": 48, "missing_shard": 4}
    with pytest.raises(TooManyBad, match=r"missing_shard 4\), more than data.max_bad_share 1.00%"):
        load(folder, begun=begun, skip=("00000.tar",))
    with pytest.raises(
        BadSource, match=r"data.skip names 0000\.tar, which is the file name or path of no shard"
    ):
        load(folder, skip=("0000.tar",))
    tars.write(folder / "00003.tar", tars.members(range(100, 104)))
    with pytest.raises(
        BadSource, match=r"shard 00003\.tar is new; remove it, or .*data.skip=\[00003.tar\]"
    ):
        load(folder, begun=begun, skip=("00000.tar",), max_bad_share=0.1)


@pytest.mark.parametrize("told", [True, False])
def test_many_neighbours_may_be_lost(told: bool, tars: Any, load: Any, tmp_path: Path) -> None:
    """A disk that is lost takes shards with it whose names follow each other."""
    folder = tars.folder(tmp_path / "d", [4] * 12)
    loader = load(folder, max_bad_share=0.6)
    numbers = range(2, 9)
    if told:
        begun = [source.facts for source in loader.sources]
        skip = tuple(f"{number:05d}.tar" for number in numbers)
        loader = load(folder, begun=begun, skip=skip, max_bad_share=0.6)
    for number in numbers:
        (folder / f"{number:05d}.tar").unlink()
    assert {int(key[:32], 16) // 4 for key in keys(list(loader.epoch(0)))} == {0, 1, 9, 10, 11}
    assert loader.counts == {"ok": 48, "missing_shard": 28}


@pytest.mark.parametrize("pattern", ["", "{00000..00001}.tar"])
@pytest.mark.parametrize("begins", ["", "{}/", "file://{}/"])
def test_shards_are_left_out_by_path(begins, pattern, tars, load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tars.folder(tmp_path / "d", [4, 8])
    other = tars.folder(tmp_path / "e", [8], first=12)
    sources = (f"{folder.name}/{pattern}" if pattern else folder, other)
    begun = [source.facts for source in load(*sources).sources]
    skip = (f"{begins.format(tmp_path)}d/00000.tar",)
    begins_without = load(*sources, skip=skip)
    assert begins_without.counts == {"ok": 0}
    assert sorted(keys(list(begins_without.epoch(0)))) == [
        tars.key(number) for number in range(4, 20)
    ]
    assert [
        shard.left_out
        for source in load(*sources, begun=begun, skip=skip, max_bad_share=0.5).sources
        for shard in source.shards
    ] == [True, False, False]
    (folder / "00000.tar").unlink()
    assert load(*sources, begun=begun, skip=skip, max_bad_share=0.5).counts == {
        "ok": 0,
        "missing_shard": 4,
    }
    with pytest.raises(
        BadSource, match=r"data.skip names elsewhere/00000.tar, which is .* of no shard"
    ):
        load(other, skip=("elsewhere/00000.tar",))


def test_broken_shards_are_counted_or_refused_before_training(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder = tars.folder(tmp_path / "d", [20, 20, 20])
    tars.manifest(folder, {f"0000{n}.tar": 20 for n in range(3)})
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[: len(whole) // 2])
    (folder / "00002.tar").write_bytes(b"")
    with pytest.raises(
        TooManyBad, match=r"empty_tar 20, truncated_tar 8.*data.max_bad_share 1.00%.*00001\.tar"
    ):
        load(folder)
    loader = load(folder, max_bad_share=0.8)
    assert loader.counts["empty_tar"] == 20
    assert loader.counts["truncated_tar"] + loader.samples_per_epoch == 40
    assert len(keys(list(loader.epoch(0)))) == loader.samples_per_epoch > 20


def test_shards_that_are_not_the_manifests(tars: Any, load: Any, tmp_path: Path) -> None:
    folder = tars.folder(tmp_path / "d", [4, 4])
    tars.manifest(folder, {"00000.tar": 4, "00001.tar": 4})
    assert load(folder).samples_per_epoch == 8
    tars.write(folder / "00001.tar", tars.members(range(50, 54)))
    with pytest.raises(
        ShardMismatch, match=r"00001\.tar is not the one its manifest\.json describes"
    ):
        load(folder)
    (folder / "00001.tar").unlink()
    with pytest.raises(
        TooManyBad, match=r"50.00% of the samples cannot be used \(missing_shard 4\).*00001\.tar"
    ):
        load(folder)
    assert load(folder, max_bad_share=0.5).samples_per_epoch == 4
    tars.folder(folder, [4, 4, 4])
    with pytest.raises(ShardMismatch, match=r"00002\.tar is not in manifest\.json"):
        load(folder)


def test_a_shard_that_changed_is_indexed_again_and_one_that_has_gone_is_named(tars, load, tmp_path):
    folder = tars.folder(tmp_path / "d", [4])
    assert load(folder).samples_per_epoch == 4
    running = load(folder)
    tars.write(folder / "00000.tar", tars.members(range(8)))
    changed = load(folder)
    assert changed.samples_per_epoch == 8
    with pytest.raises(ShardMismatch, match=r"00000\.tar was indexed again while this run read it"):
        list(running.epoch(0))
    (folder / "00000.tar").unlink()
    with pytest.raises(ShardUnavailable, match=r"00000\.tar cannot be opened"):
        list(changed.epoch(0))


def test_paths_without_shards_say_so(tars: Any, load: Any, tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(BadSource, match=r"no \*\.tar there; run `open-diht filter`"):
        load(tmp_path)
    with pytest.raises(BadSource, match=r"00005 is after 00003, .*; write \{00003\.\.00005\}"):
        load(f"{tmp_path}/{{00005..00003}}.tar")
    for path in ("part-{0..2}/00000.tar", "part-*/00000.tar"):
        for number in range(3):
            tars.folder(tmp_path / f"part-{number}", [4])
        with pytest.raises(
            BadSource, match=r"several shards are named 00000\.tar; give each folder as a source"
        ):
            load(tmp_path / path)
    for path in (
        "part-{0..2}/{00000..00001}.tar",
        "part-*/{0..2}.tar",
        "part-{0..2}/{a,b}.tar",
        "[ab]/{0..2}.tar",
    ):
        with pytest.raises(
            BadSource, match=r"a path with \{.*\.\..*\} has no other pattern; write .* for each"
        ):
            load(tmp_path / path)
    (tmp_path / "unpacked" / "00000.tar").mkdir(parents=True)
    with pytest.raises(BadSource, match=r"00000\.tar is a folder; name tars, or a folder of tars"):
        load(tmp_path / "unpacked")
    (tmp_path / "file").touch()
    with pytest.raises(
        BadSource, match=r"cannot be kept in .*file/\w+ \(.*\): set data.index_folder"
    ):
        load(tars.folder(tmp_path / "good", [4]), index_folder=str(tmp_path / "file"))
    with pytest.raises(
        BadSource, match=r"2,147,483,652 samples: set data.samples_per_epoch to at most 2\^31"
    ):
        load(tmp_path / "good", samples_per_epoch=2**31 + 4)
    with pytest.raises(BadSource, match=r"3 samples does not fill one global batch of 4 x 1"):
        load(tars.folder(tmp_path / "d", [3]))


def test_a_damaged_index_is_made_again(tars: Any, load: Any, tmp_path: Path) -> None:
    folder = tars.folder(tmp_path / "shards", [4, 4])
    assert load(folder).samples_per_epoch == 8
    for place in (folder / ".index").glob("*.npz"):
        whole = place.read_bytes()
        at = whole.index(tars.key(0).encode() if "00000" in place.name else b"rows.npy") + 40
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert load(folder).samples_per_epoch == 8
        assert place.read_bytes() == whole


def test_every_way_to_name_shards(tars: Any, load: Any, tmp_path: Path) -> None:
    folder = tars.folder(tmp_path / "out" / "shards", [4, 4])
    paths = [folder / "00001.tar", tmp_path / "out", folder, folder / "*.tar", f"file://{folder}"]
    paths += [f"{begin}{folder}/{{00000..00001}}.tar" for begin in ("", "file://", "local://")]
    assert [load(path).samples_per_epoch for path in paths] == [4] + [8] * 7


def test_a_brace_pattern_makes_local_paths_absolute_and_keeps_the_query_of_a_url(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert find_shards("https://host/{0..1}.tar?v=1").urls == [
        f"https://host/{n}.tar?v=1" for n in (0, 1)
    ]
    assert find_shards("d/{8..10}.tar").urls == [
        f"{tmp_path}/d/{number}.tar" for number in (8, 9, 10)
    ]


# Workers


def with_an_odd_one(tars: Any, folder: Path, then: Any) -> tuple[Path, Any]:
    """Eight samples, and a transform that calls `then` at the fifth."""
    content = tars.members(range(8))
    content[12] = (f"{tars.key(4)}.png", tars.image(4, side=13))
    tars.write(folder / "a.tar", content)

    def transform(image: Image.Image) -> torch.Tensor:
        if image.size == (13, 13):
            then()
        return torch.zeros(3, 1, 1)

    return folder, transform


def test_a_stalled_worker_ends_the_run_and_says_where_it_is(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    folder, transform = with_an_odd_one(tars, tmp_path / "d", lambda: time.sleep(600))
    batches = load(folder, workers=1, stall_s=1.0, transform=transform, shuffle=0).epoch(0)
    next(batches)
    with pytest.raises(
        LoaderStalled, match=rf"batch 1 of epoch 0 .* worker 0: .*a\.tar: {tars.key(4)} for \d+ s"
    ):
        next(batches)


def test_a_killed_worker_ends_the_run(tars: Any, load: Any, tmp_path: Path) -> None:
    folder, transform = with_an_odd_one(
        tars, tmp_path / "d", lambda: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(RuntimeError, match="worker"):
        list(load(folder, workers=1, transform=transform, shuffle=0).epoch(0))


def test_an_error_in_the_transform_names_the_sample(tars: Any, load: Any, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(
            load(tars.folder(tmp_path / "d", [4]), transform=lambda image: 1 // 0, shuffle=0).epoch(
                0
            )
        )
    assert f"{tars.key(0)} of shard" in caught.value.__notes__[0]


# Split and mixture


def test_the_split_parts_the_samples_and_keeps_equal_images_together(
    tars: Any, load: Any, tmp_path: Path
) -> None:
    content = []
    for number in range(300):
        content += [
            (f"{number}.png", tars.image(number // 3)),
            (f"{number}.txt", b"caption %d" % number),
        ]
    tars.write(tmp_path / "d" / "a.tar", content)
    parts = {}
    for part in ("train", "holdout", "all"):
        loader = load(tmp_path / "d", split=Split(holdout=0.2, part=part), drop_last=False)
        parts[part] = {*keys(list(loader.epoch(0)))}
        assert len(parts[part]) == loader.samples_per_epoch
    assert (
        parts["train"] | parts["holdout"] == parts["all"] and not parts["train"] & parts["holdout"]
    )
    images = {part: {int(key) // 3 for key in parts[part]} for part in parts}
    assert not images["train"] & images["holdout"]
    assert 8 <= len(images["holdout"]) <= 35
    by_key = load(tmp_path / "d", split=Split(holdout=0.2, by="key", part="holdout"))
    assert 35 <= by_key.samples_per_epoch <= 90


def test_weights_are_the_shares_of_the_samples(tars: Any, load: Any, tmp_path: Path) -> None:
    """Chi-square of the counts in each stretch of the epoch: evenly mixed, so far below the bound
    for random draws."""
    paths = [
        tars.folder(tmp_path / name, [20, 10], first)
        for name, first in (("a", 0), ("b", 100), ("c", 200))
    ]
    weights = (3.0, 2.0, 1.0)
    sources = tuple(
        Source(path=str(path), weight=weight) for path, weight in zip(paths, weights, strict=True)
    )
    loader = load(sources=sources, samples_per_epoch=120, batch_size=24)
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            counts = Counter(int(key[:32], 16) // 100 for key in batch.keys)
            expected = [24 * weight / 6 for weight in weights]
            assert sum((counts[n] - e) ** 2 / e for n, e in enumerate(expected)) < 1


def test_sources_may_share_names_of_shards_and_keys(tars: Any, load: Any, tmp_path: Path) -> None:
    paths = [tars.folder(tmp_path / name, [6]) for name in ("a", "b")]
    assert Counter(keys(list(load(*paths).epoch(0)))) == Counter(
        {tars.key(number): 2 for number in range(6)}
    )


# Remote shards


class Remote:
    """Six shards of eight samples in a store, and a cache of `shards` of them."""

    def __init__(self, tars: Any, load: Any, folder: Path):
        import fsspec

        self.folder = tars.folder(folder / "d", [8] * 6)
        self._load = load
        self._root = folder
        tars.manifest(self.folder, {f"0000{n}.tar": 8 for n in range(6)})
        self.memory = fsspec.filesystem("memory")
        self.memory.put(str(self.folder), f"/{folder.name}/shards", recursive=True)
        self.shard_bytes = (self.folder / "00000.tar").stat().st_size

    @property
    def on_disk(self) -> int:
        """Bytes of the cache, with what is being fetched."""
        return sum(
            path.stat().st_size for path in (self._root / "cache").rglob("*") if path.is_file()
        )

    def loader(self, shards: float, **settings: Any) -> Any:
        places = {
            "cache_folder": str(self._root / "cache"),
            "index_folder": str(self._root / "index"),
        }
        places |= {"cache_gib": shards * self.shard_bytes / 2**30}
        return self._load(
            f"memory://{self._root.name}", **{**places, "shuffle": 8, "streams": 1, **settings}
        )

    def local(self, **settings: Any) -> Any:
        return self._load(self.folder, **{"shuffle": 8, "streams": 1, **settings})


@pytest.fixture
def remote(tars: Any, load: Any, tmp_path: Path) -> Remote:
    return Remote(tars, load, tmp_path)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    fetch = ShardStore._fetch

    def noted(self: ShardStore, shard: Any, path: Path) -> None:
        urls.append(shard.url)
        fetch(self, shard, path)

    monkeypatch.setattr(ShardStore, "_fetch", noted)
    return urls


def test_remote_shards_are_fetched_once_into_a_bounded_cache(
    remote: Remote, fetched: list[str]
) -> None:
    loader = remote.loader(4.5)
    fetched.clear()  # of the index
    batches = []
    for batch in loader.epoch(0):
        assert remote.on_disk <= 4.5 * remote.shard_bytes
        batches.append(batch)
    assert same(batches, list(remote.local().epoch(0)))
    assert len(fetched) == len(set(fetched)) and len(fetched) >= 2
    here = [
        os.readlink(entry.path)
        for entry in os.scandir("/proc/self/fd")
        if os.path.lexists(entry.path)
    ]
    assert not [
        path
        for path in here
        if path.endswith("(deleted)") and path.startswith(f"{remote.folder.parent}/")
    ]
    workers = remote.loader(4.5, workers=2)  # forked: they see the same memory
    assert same(list(workers.epoch(1)), list(remote.local().epoch(1)))
    assert remote.on_disk <= 4.5 * remote.shard_bytes


def test_a_cache_without_room_for_the_window_is_refused_with_the_figure(remote: Remote) -> None:
    with pytest.raises(
        BadSource,
        match=r"two windows of the shuffle are \S+ GiB .* data.cache_gib is .*data.streams, now 2",
    ):
        remote.loader(4.5, streams=2)
    assert remote.loader(4.5, streams=None).streams == 1  # the default is what there is room for
    assert remote.loader(20, streams=None).streams == 4
    with pytest.raises(ShardUnavailable, match=r"GiB, the cache data.cache_gib \S+: raise it"):
        remote.loader(0.5, index_folder=str(remote.folder / "other"))


@pytest.mark.parametrize("moment", ["stat", "rename"])
def test_another_process_that_makes_room_keeps_a_finished_download(
    moment, remote, monkeypatch, tmp_path
):
    """It looks when the content is complete and the file does not have its final name yet."""
    place, function = (Path, "stat") if moment == "stat" else (os, "rename")
    wrapped = getattr(place, function)
    other = ShardStore(tmp_path, 2**30)
    name = remote.memory.ls(f"/{tmp_path.name}/shards", detail=False)[0]
    content = remote.memory.cat_file(name)

    def at_the_moment(path: Any, *arguments: Any, **options: Any) -> Any:
        if ".part-" in str(path):
            monkeypatch.undo()
            assert other._make_room(0) and Path(path).read_bytes() == content
        return wrapped(path, *arguments, **options)

    monkeypatch.setattr(place, function, at_the_moment)
    with ShardStore(tmp_path, 2**30).open(ShardFile(f"memory:/{name}", len(content))) as descriptor:
        assert os.pread(descriptor, 2**20, 0) == content


def test_threads_that_fetch_into_a_small_cache_keep_their_downloads(remote, tmp_path, monkeypatch):
    monkeypatch.setattr("open_diht.trainer.data.store._PAUSE_S", 0.001)
    names = remote.memory.ls(f"/{tmp_path.name}/shards", detail=False)
    contents = {name: remote.memory.cat_file(name) for name in names if name.endswith(".tar")}
    store = ShardStore(tmp_path, int(3.5 * remote.shard_bytes))

    def fetch(number: int) -> None:
        name = sorted(contents)[number % len(contents)]
        store.fetch(ShardFile(f"memory:/{name}", len(contents[name]), stamp=str(number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fetch, range(200)))  # raises what a thread raised


def test_shards_that_go_from_the_store_are_lost(remote: Remote) -> None:
    late = remote.loader(20)
    list(late.epoch(0))
    for path in remote.folder.parent.rglob("cache/**/*.tar"):
        path.unlink()
    remote.memory.rm(f"/{remote.folder.parent.name}", recursive=True)
    with pytest.raises(
        ShardUnavailable, match=r"memory://.*\.tar cannot be fetched: FileNotFoundError"
    ):
        list(late.epoch(1))


def test_a_shard_that_goes_from_cache_and_store_while_it_is_read_is_replaced(
    remote: Remote, tars: Any
) -> None:
    loader = remote.loader(20, max_bad_share=0.1)
    batches = loader.epoch(0)
    begun = next(batches).keys  # half of a shard
    shard = int(begun[0].partition("-")[0], 16) // 8
    # First, or it would be fetched again.
    remote.memory.rm(f"/{remote.folder.parent.name}/shards/{shard:05d}.tar")
    for path in remote.folder.parent.rglob("cache/**/*.tar"):
        path.unlink()
    rest = keys(list(batches))
    assert len(rest) == 44 and not {*rest} & {
        tars.key(number) for number in range(8 * shard, 8 * shard + 8)
    }
    assert loader.counts == {"ok": 48, "missing_shard": 4}


def test_indexes_of_remote_shards_lie_in_the_cache_folder(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "default"))
    remote.loader(20, index_folder=None)
    assert any((tmp_path / "cache" / "index").iterdir()) and not (tmp_path / "default").exists()


def test_a_cache_that_cannot_be_written_is_named(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ShardUnavailable,
        match=r"00000.tar cannot be kept in .*file/shards \(.*\): set data.cache_fol",
    ):
        remote.loader(20, cache_folder=str(tmp_path / "file"))


def test_stores_are_asked_about_many_shards_at_a_time_and_without_the_lock(
    remote, tmp_path, monkeypatch
):
    """A request takes tens of milliseconds, and there may be tens of thousands of shards, and
    several ranks."""
    remote.loader(20)
    (lock,) = (tmp_path / "index").rglob(".lock")
    ask = type(remote.memory).info
    others = threading.Barrier(5)
    asked = list[str]()

    def info(fs: Any, path: str, **options: Any) -> Any:
        if path.endswith(".tar"):
            asked.append(path)
            with open(lock, "w") as other:
                # Raises if a rank holds it; the requests share it.
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if len(asked) > 1:  # the first is asked for alone, as its request opens the connection
                others.wait(timeout=30)
        return ask(fs, path, **options)

    remote.memory.rm(f"/{tmp_path.name}/shards/00005.tar")
    monkeypatch.setattr(type(remote.memory), "info", info)
    loader = remote.loader(20, max_bad_share=0.2)
    assert [shard.file.name for shard in loader.sources[0].shards] == [
        f"0000{number}.tar" for number in range(5)
    ]
    assert loader.indexed == {"missing_shard": 8}


class NoAnswer(Exception):
    __module__ = "botocore.exceptions"


def test_a_store_that_does_not_give_an_index_is_named(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise NoAnswer("no answer")

    get = type(remote.memory).cat_file
    for_index = lambda fs, path, **more: (refuse if ".index" in path else get)(fs, path, **more)  # noqa: E731
    monkeypatch.setattr(type(remote.memory), "cat_file", for_index)
    with pytest.raises(
        BadSource,
        match=r"/.index/00000.*cannot be reached \(NoAnswer: no answer\); check the address",
    ):
        remote.loader(20)
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(
        BadSource,
        match=r"s3://b/0.npz cannot be reached \(NoAnswer: no answer\); check the address",
    ):
        _given_index("s3://b/0.npz", "s3://b/0.tar", "1")


def test_an_index_beside_remote_shards_is_used(
    remote: Remote, fetched: list[str], tmp_path: Path
) -> None:
    """Made before they were copied to the store: no machine fetches them all before the first
    step."""
    remote.local()  # makes the index
    remote.memory.put(f"{remote.folder}/.index", f"/{tmp_path.name}/shards/.index", recursive=True)
    loader = remote.loader(20)
    assert not fetched
    assert same(list(loader.epoch(0)), list(remote.local().epoch(0)))
    # Another file: its index is of no use.
    remote.memory.pipe(f"/{tmp_path.name}/shards/00002.tar", b"\0" * 10240)
    (remote.folder / "manifest.json").unlink()
    remote.memory.rm(f"/{tmp_path.name}/shards/manifest.json")
    fetched.clear()
    remote.loader(20, max_bad_share=1, index_folder=str(tmp_path / "other"))
    assert fetched == [f"memory://{tmp_path.name}/shards/00002.tar"]
