"""What becomes a member of a shard, and what no loader should be given."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open_diht.common.images import BadImage
from open_diht.pipelines.stages import shards
from open_diht.pipelines.stages.shards import image_member, index_path, remove_shards, shard_path
from open_diht.pipelines.store.commit import remove
from open_diht.pipelines.store.layout import Layout
from tests.common.hostile_images import BOMBS, KINDS


@pytest.mark.parametrize(
    "kind", ["JPEG", "progressive JPEG", "MPO", "PNG", "animated PNG", "WebP", "animated WebP"]
)
def test_what_loaders_read_stays_as_it_is(kind: str) -> None:
    content = KINDS[kind]()
    ending = "jpg" if "JPEG" in kind or kind == "MPO" else kind.split()[-1].lower()
    assert image_member(content) == (ending, content)


@pytest.mark.parametrize("kind", ["GIF", "animated GIF", "BMP"])
def test_others_become_png(kind: str) -> None:
    given = KINDS[kind]()
    ending, content = image_member(given)
    assert ending == "png" and content.startswith(b"\x89PNG")
    pixels, expected = (
        np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in (content, given)
    )
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    "name", ["a JPEG of 1,000 scans", "a PNG of 13,000 x 13,000", "a WebP of 400,000 chunks"]
)
def test_bombs_are_not_handed_on(name: str) -> None:
    with pytest.raises(BadImage, match=BOMBS[name][1]):
        image_member(BOMBS[name][0]())


def test_sound_is_no_webp() -> None:
    with pytest.raises(BadImage, match="not_an_image"):
        image_member(b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(36))


@pytest.mark.parametrize("removals", range(7))
def test_a_removal_that_was_killed_is_completed_by_the_next(removals, tmp_path, monkeypatch):
    layout = Layout(tmp_path)
    done = list[Path]()
    shards_there = [shard_path(layout, "a", n) for n in range(5)]
    for path in (*shards_there, *map(index_path, shards_there)):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"")

    def killed_after_some(path: Path) -> None:
        if len(done) == removals:
            raise KeyboardInterrupt
        done.append(path)
        remove(path)

    monkeypatch.setattr(shards, "remove", killed_after_some)
    with pytest.raises(KeyboardInterrupt):
        remove_shards(layout, "a", 1)
    monkeypatch.undo()
    remove_shards(layout, "a", 1)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(left) == sorted(
        [shard_path(layout, "a", 0), index_path(shard_path(layout, "a", 0))]
    )
