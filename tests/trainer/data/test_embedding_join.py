"""How the loader joins a teacher's embeddings: key by key, with the crop that the teacher saw."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open_diht.common.crops import crop_box, crop_of, cropped
from open_diht.common.images import ImageLimits, open_image
from open_diht.common.ranks import Ranks
from open_diht.trainer.data import ConceptMismatch
from open_diht.trainer.data.cli import main as check
from open_diht.trainer.embeddings import open_embeddings
from open_diht.trainer.inputs import about_targets
from tests.trainer.conftest import write_embeddings

SIZES = (10, 15)
CROPS = 3


def pixels(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1).float()


class Taught:
    """Shards whose images and captions have embeddings that name them; sample 3's image has none,
    and 24 no row."""

    def __init__(self, folder: Path, tars: Any, load: Any, **about: Any):
        self.folder = folder
        self._load = load
        tars.folder(folder, SIZES)
        of = {}
        first = 0
        for index, size in enumerate(SIZES):
            numbers = np.arange(first, min(first + size, 24))
            image: Any = np.array([[[n + 1, crop] for crop in range(CROPS)] for n in numbers])
            image[numbers == 3] = 0
            of[folder / f"{index:05d}.tar"] = (
                [tars.key(n) for n in numbers],
                image,
                numbers[:, None, None] + [[5, 6]],
            )
            first += size
        write_embeddings(folder / "e", of, **about)

    def loader(self, **options: Any) -> Any:
        targets = open_embeddings(self.folder / "e")
        known = {"embeddings": targets, "transform": pixels, "view": (6, pixels), "batch_size": 5}
        return self._load(self.folder, **{**known, **options})

    def change(self, **arrays: Any) -> None:
        """Replace arrays of the first shard, and its hash in the manifest."""
        place = self.folder / "e/targets/00000.npz"
        manifest = self.folder / "e/targets/manifest.json"
        with np.load(place) as stored:
            np.savez(place, **{**stored, **arrays})
        about = json.loads(manifest.read_text())
        about["shards"][0]["sha256"] = hashlib.sha256(place.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(about))


@pytest.fixture
def taught(tmp_path: Path, tars: Any, load: Any) -> Taught:
    return Taught(tmp_path / "d", tars, load, crop_scale=[0.2, 0.5])


def numbers(batch: Any) -> list[int]:
    return [int(key[:32], 16) for key in batch.keys]


def test_every_pair_has_its_own_embeddings_and_the_crop_that_the_teacher_saw(
    taught: Taught, tars: Any
) -> None:
    crops = set()
    for batch in (each for epoch in range(3) for each in taught.loader().epoch(epoch)):
        assert all(each.dtype == torch.float16 and each.shape == (5, 2) for each in batch.teacher)
        image, text = (each.tolist() for each in batch.teacher)
        for n, shown, of_image, of_text in zip(
            numbers(batch), batch.images, image, text, strict=True
        ):
            assert of_text == ([n + 5, n + 6] if n < 24 else [0, 0])
            assert of_image[0] == (0 if n in (3, 24) else n + 1)
            if of_image[0]:
                whole = open_image(tars.image(n), ImageLimits()).decode().convert("RGB")
                draws = crop_of(7, tars.key(n), int(of_image[1]))
                assert torch.equal(
                    shown, pixels(cropped(whole, crop_box(draws, 12, 12, (0.2, 0.5)), 6))
                )
                crops.add(of_image[1])
    assert crops == {0, 1, 2}


def test_a_drawn_caption_learns_its_own_embedding(tars: Any, load: Any, tmp_path: Path) -> None:
    """The first number of an embedding is 1 for the .txt and 2 for the field `synthetic`, which
    sample 3 lacks."""
    keys = [tars.key(number) for number in range(10)]
    members = []
    for number, key in enumerate(keys):
        fields = {} if number == 3 else {"synthetic": "made"}
        members += [(f"{key}.png", tars.image(number)), (f"{key}.txt", b"found")]
        members += [(f"{key}.json", json.dumps(fields).encode())]
    tar = tars.write(tmp_path / "w" / "0.tar", members)
    text = np.full((10, 2, 2), [[1, 1], [2, 2]])
    text[3, 1] = 0
    stored = write_embeddings(
        tmp_path / "e", {tar: (keys, np.ones((10, 1, 2)), text)}, captions=["caption", "synthetic"]
    )
    options: dict[str, Any] = {"embeddings": open_embeddings(str(stored)), "max_bad_share": 0.2}
    loader = load(tmp_path / "w", captions={"caption": 0.5, "synthetic": 0.5}, **options)
    learned = set()
    for batch in (each for epoch in range(4) for each in loader.epoch(epoch)):
        said = [bytes(row).rstrip(b"\0") for row in batch.texts.tolist()]
        learned |= {*zip(said, batch.teacher[1][:, 0].tolist(), strict=True)}
    assert learned == {(b"found", 1.0), (b"made", 2.0)}
    (about,) = about_targets(loader, Ranks(), 0.1)
    assert about.startswith("1 samples have no embedding targets, first: ") and about.endswith(
        keys[3]
    )
    with pytest.raises(
        ConceptMismatch,
        match=r"of caption, synthetic, but not of other; .*captions=?.caption,other",
    ):
        load(tmp_path / "w", captions={"caption": 0.5, "other": 0.5}, **options)


def test_workers_ranks_and_resumes_draw_the_same_crops(taught: Taught) -> None:
    def drawn(start: int = 0, **options: Any) -> list[Any]:
        batches = taught.loader(**options).epoch(1, start)
        return [torch.cat([*batch.teacher, batch.images.flatten(1)], 1) for batch in batches]

    calm = drawn()
    assert all(map(torch.equal, calm, drawn(workers=2))) and all(
        map(torch.equal, calm[2:], drawn(2))
    )
    assert torch.equal(
        calm[0], torch.cat([drawn(batch_size=1, rank=rank, world=5)[0] for rank in range(5)])
    )


def test_samples_without_are_counted_before_the_first_step(taught: Taught, capsys: Any) -> None:
    first = "first: shard 00000.tar, key 00000000000000000000000000000003-000003"
    assert about_targets(taught.loader(), Ranks(), 0.08) == [
        f"2 samples have no embedding targets, {first}"
    ]
    with pytest.raises(
        ConceptMismatch,
        match=r"2 samples .* 8\.00%, more than distillation\.max_missing_share 7\.00%",
    ):
        about_targets(taught.loader(), Ranks(), 0.07)
    (taught.folder / "e").rename(taught.folder / "embeddings")
    assert check([str(taught.folder), "--index-only"]) == 0
    assert f"embeddings: 2 samples have none, {first}" in capsys.readouterr().out
    (taught.folder / "embeddings").rename(taught.folder / "e")
    (taught.folder / "e/targets/00001.npz").unlink()
    loader = taught.loader()
    assert about_targets(loader, Ranks(), 0.64) == [
        f"16 samples have no embedding targets, {first}"
    ]
    with pytest.raises(
        ConceptMismatch, match=r"64\.00%, .*`open-diht concepts --store embeddings` on this data"
    ):
        about_targets(loader, Ranks(), 0.63)
    assert sum(int((batch.teacher[1] == 0).all(1).sum()) for batch in loader.epoch(0)) == 15
    (taught.folder / "e/targets/00000.npz").unlink()
    with pytest.raises(ConceptMismatch, match="no shard has embedding targets; make them with"):
        taught.loader()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (
            {"image": np.full((10, CROPS, 2), np.nan, np.float16)},
            r"00000\.npz: row 0 \(key .*\) .* not finite",
        ),
        (
            {"text": np.ones((10, 1, 4), np.float16)},
            r"00000\.npz: .*\(10, 1, 4\) float16, not \(10, 1, 2\)",
        ),
        (
            {"image": np.ones((9, CROPS, 2), np.float16)},
            r"00000\.npz: .*\(9, 3, 2\) float16, not \(10, 3, 2\)",
        ),
        (None, r"00000\.npz is damaged"),
    ],
)
def test_bad_embeddings_are_refused_before_the_first_step(
    taught: Taught, arrays: Any, says: str
) -> None:
    place = taught.folder / "e/targets/00000.npz"
    taught.change(**arrays) if arrays else place.write_bytes(place.read_bytes()[:-40])
    with pytest.raises(ConceptMismatch, match=says):
        about_targets(taught.loader(), Ranks(), 1.0)


def test_embeddings_of_other_data_or_settings_are_refused(
    taught: Taught, tars: Any, load: Any, tmp_path: Path
) -> None:
    other = Taught(tmp_path / "other", tars, load, teacher="another")
    both = [open_embeddings(each.folder / "e") for each in (taught, other)]
    with pytest.raises(
        ConceptMismatch, match="disagree in teacher: drawn and another; make them with the same"
    ):
        load(taught.folder, other.folder, embeddings=both, view=(6, pixels))
    assert (
        len(
            next(
                iter(load(taught.folder, other.folder, embeddings=[None, both[1]]).epoch(0))
            ).teacher
        )
        == 2
    )
    with pytest.raises(ValueError, match="give the transform of a crop"):
        taught.loader(view=None)
    with pytest.raises(ConceptMismatch, match=r"set data\.captions=first"):
        taught.loader(captions="random")
    tars.folder(taught.folder, SIZES, first=100)
    with pytest.raises(
        ConceptMismatch, match=r"embedding targets of shard 0000\d\.tar .* made from another file"
    ):
        taught.loader()
