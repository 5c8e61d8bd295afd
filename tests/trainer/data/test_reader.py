"""Images of a batch lie in one tensor; one of several captions is drawn by seed, epoch and
position."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from open_diht.common.shard_index import caption_hash
from open_diht.trainer.data import BadSource, TooManyBad
from open_diht.trainer.data.reader import Images, drawn_field
from open_diht.trainer.data.reader import drawn_caption as drawn


def test_images_lie_in_the_order_they_came() -> None:
    given = [torch.rand(3, 4, 5) for _ in range(7)]
    images = Images(7)
    assert images.tensor is None
    for image in given:
        images.add(image)
    assert images.tensor is not None and torch.equal(images.tensor, torch.stack(given))


@pytest.mark.parametrize(
    "other", [torch.rand(1, 4, 5), torch.rand(3, 5, 4), torch.rand(3, 4, 5, dtype=torch.float64)]
)
def test_an_image_of_another_shape_or_type_is_refused(other: torch.Tensor) -> None:
    images = Images(2)
    images.add(torch.rand(3, 4, 5))
    said = f"{tuple(other.shape)} {other.dtype} after (3, 4, 5) torch.float32"
    with pytest.raises(ValueError, match=re.escape(said)):
        images.add(other)


def test_the_layout_of_the_images_is_kept() -> None:
    """Decoded pixels come with the channels last; each image is then one copy of consecutive
    bytes."""
    image = torch.arange(4 * 5 * 3, dtype=torch.uint8).reshape(4, 5, 3).permute(2, 0, 1)
    images = Images(2)
    images.add(image)
    images.add(image.contiguous())  # another layout, the same pixels
    found = images.tensor
    assert found is not None and found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, torch.stack([image, image]))
    expanded = Images(2)
    expanded.add(torch.ones(1, 1, 1).expand(3, 4, 5))
    # A view of one number gets room for all.
    assert expanded.tensor is not None and expanded.tensor.is_contiguous()


class Stacks(Dataset[tuple[torch.Tensor, bool]]):
    """Item i: five images full of i, and whether they were in shared memory before they were
    sent."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, bool]:
        images = Images(5)
        for _ in range(5):
            images.add(torch.full((8, 8, 3), index, dtype=torch.uint8).permute(2, 0, 1))
        assert images.tensor is not None
        return images.tensor, images.tensor.is_shared()


def test_workers_write_them_where_the_training_reads_them() -> None:
    loader = DataLoader(
        Stacks(), batch_size=None, sampler=range(12), num_workers=2, collate_fn=lambda item: item
    )
    found = list(loader)
    assert all(shared for _, shared in found)
    assert all(
        torch.equal(images, torch.full((5, 3, 8, 8), n, dtype=torch.uint8))
        for n, (images, _) in enumerate(found)
    )
    assert not Stacks()[0][1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"captions": "one"}',
        b'{"captions": []}',
        b'{"captions": [" ", 3, null]}',
    ],
)
def test_where_there_is_no_list_there_is_none(content: bytes) -> None:
    assert drawn(content, "captions", 1) is None


def test_each_is_drawn_as_often_and_has_its_hash() -> None:
    content = json.dumps({"said": [" a dog", "a cat\n", "", "a cow", 7]}).encode()
    found = Counter(drawn(content, "said", seed) for seed in range(3000))
    assert set(found) == {
        (text, caption_hash(text.encode())) for text in ("a dog", "a cat", "a cow")
    }
    assert all(900 < count < 1100 for count in found.values())


@pytest.fixture
def folder(tars: Any, tmp_path: Path) -> Path:
    """Shards of samples with four captions, every fifth with its .txt alone, and all but sample 3 a
    synthetic one."""
    for shard in range(2):
        members = []
        for number in range(10 * shard, 10 * shard + 10):
            key = tars.key(number)
            texts = [f"{number} {letter}" for letter in "abcd"]
            members += [
                (f"{key}.png", tars.image(number)),
                (f"{key}.txt", f"{number} txt".encode()),
            ]
            fields: dict[str, Any] = {"captions": texts} if number % 5 else {}
            fields |= {"synthetic": f"{number} s" if number != 3 else " ", f"of_{shard}": "text"}
            members += [(f"{key}.json", json.dumps(fields).encode())]
        tars.write(tmp_path / "d" / f"{shard}.tar", members)
    return tmp_path / "d"


def said(loader: Any, *epochs: int) -> list[str]:
    texts = [
        row for epoch in epochs for batch in loader.epoch(epoch) for row in batch.texts.tolist()
    ]
    return [bytes(row).rstrip(b"\0").decode() for row in texts]


def test_a_training_meets_other_captions_in_other_epochs_and_the_same_again(
    load: Any, folder: Path
) -> None:
    first = said(load(folder), *range(12))
    assert {text.split()[1] for text in first} == {"txt"}
    random = said(load(folder, captions="random"), *range(12))
    assert {text for text in random if int(text.split()[0]) % 5 == 0} == {
        f"{n} txt" for n in (0, 5, 10, 15)
    }
    assert {text.split()[1] for text in random if text.startswith("7 ")} == {*"abcd"}
    assert said(load(folder, captions="random", workers=2), *range(12)) == random
    assert said(load(folder, captions="random"), 4) == random[80:100], "a resume draws the same"
    ranks = [
        said(load(folder, captions="random", batch_size=2, rank=rank, world=2), 4)
        for rank in (0, 1)
    ]
    assert sorted(ranks[0] + ranks[1]) == sorted(random[80:100])
    assert said(load(folder, captions="random", seed=6), *range(12)) != random


def test_the_hash_of_a_pair_is_that_of_the_caption_it_has(load: Any, folder: Path) -> None:
    for batch in load(folder, captions="random").epoch(0):
        texts = [bytes(row).rstrip(b"\0") for row in batch.texts.tolist()]
        assert batch.caption_hash.tolist() == [caption_hash(text) for text in texts]


def test_fields_are_drawn_as_often_as_their_probabilities_say() -> None:
    wanted = {"caption": 0.5, "synthetic": 0.3, "others": 0.2, "never": 0.0}
    drawn_ones = [drawn_field(wanted, seed) for seed in range(5000)]
    found = Counter(drawn_ones)
    assert {name: found[name] / 5000 for name in wanted} == pytest.approx(wanted, abs=0.025)
    backwards = dict(reversed(wanted.items()))
    assert [drawn_field(backwards, seed) for seed in range(5000)] == drawn_ones


def test_captions_of_fields_are_the_same_for_workers_ranks_and_resumes(
    load: Any, folder: Path
) -> None:
    captions = {"caption": 0.4, "synthetic": 0.3, "captions": 0.3}
    options: dict[str, Any] = {"captions": captions, "max_bad_share": 0.2}
    loader = load(folder, **options)
    texts = said(loader, *range(12))
    assert {text.split()[1] for text in texts} == {"txt", *"sabcd"} and loader.counts[
        "missing_field"
    ] > 0
    assert "3 s" not in texts and any(
        "-000003: no text in synthetic" in text for text in loader.problems
    )
    assert said(load(folder, **options, workers=2), *range(12)) == texts
    assert said(load(folder, **options), 4) == texts[80:100], "a resume draws the same"
    ranks = [said(load(folder, **options, batch_size=2, rank=rank, world=2), 4) for rank in (0, 1)]
    assert sorted(ranks[0] + ranks[1]) == sorted(texts[80:100])
    hashes = [
        value for batch in load(folder, **options).epoch(4) for value in batch.caption_hash.tolist()
    ]
    assert hashes == [caption_hash(text.encode()) for text in texts[80:100]]
    assert said(load(folder, captions={"caption": 1}), 2) == said(load(folder), 2)
    with pytest.raises(
        TooManyBad, match=r"missing_field: shard .*0\.tar, key .*-000003: no text in synthetic"
    ):
        said(load(folder, captions={"synthetic": 1}), 0)


def test_a_shard_without_a_field_is_refused_before_a_sample_is_read(
    load: Any, folder: Path
) -> None:
    load(folder, captions={"caption": 0.5, "captions": 0.5})
    for options in ({"captions": {"caption": 0.5, "of_0": 0.5}}, {"negatives": "of_0"}):
        with pytest.raises(
            BadSource, match=r"1\.tar: .* no text in the field 'of_0'; take .* data.skip=\[1.tar\]"
        ):
            load(folder, **options)


def test_few_samples_may_have_a_wrong_caption(tars: Any, load: Any, tmp_path: Path) -> None:
    keys = [tars.key(number) for number in range(40)]
    members = [
        (f"{key}.{ending}", content)
        for n, key in enumerate(keys)
        for ending, content in (
            ("png", tars.image(n)),
            ("txt", b"right"),
            ("json", b'{"swapped": "wrong"}' if n == 17 else b"{}"),
        )
    ]
    tars.write(tmp_path / "few" / "0.tar", members)
    batches = load(tmp_path / "few", negatives="swapped").epoch(0)
    assert sum(int(batch.negatives.present.sum()) for batch in batches) == 1


def test_wrong_captions_are_the_same_for_workers_and_resumes(load: Any, folder: Path) -> None:
    def wrong(loader: Any, *epochs: int) -> list[tuple[str, str, bool, int]]:
        found: list[tuple[str, str, bool, int]] = []
        for batch in (batch for epoch in epochs for batch in loader.epoch(epoch)):
            both = (batch.texts.tolist(), batch.negatives.texts.tolist())
            texts = ([bytes(row).rstrip(b"\0").decode() for row in ids] for ids in both)
            found += zip(
                *texts,
                batch.negatives.present.tolist(),
                batch.negatives.caption_hash.tolist(),
                strict=True,
            )
        return found

    found = wrong(load(folder, negatives="captions"), *range(4))
    for text, caption, present, hashed in found:
        number = text.split()[0]
        assert present == (int(number) % 5 > 0) == caption.startswith(f"{number} ")
        assert not present or hashed == caption_hash(caption.encode())
    assert {caption[-1:] for _, caption, _, _ in found} == {"", *"abcd"}
    assert wrong(load(folder, negatives="captions", workers=2), *range(4)) == found
    assert wrong(load(folder, negatives="captions"), 3) == found[60:80], "a resume draws the same"
    few = load(
        folder,
        negatives="captions",
        batch_size=8,
        rank=0,
        world=2,
        drop_last=False,
        samples_per_epoch=17,
    )
    assert [len(batch.negatives.texts) for batch in few.epoch(0)] == [8, 0]
