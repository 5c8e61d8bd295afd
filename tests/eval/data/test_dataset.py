"""Images of evaluation sets: read as the field reads them, within the bounds of all images."""

import pytest
from PIL import Image

from open_diht.eval.data.dataset import decode
from open_diht.eval.errors import DataBroken
from tests.common.hostile_images import BOMBS, KINDS, encode, noise


def test_old_sets_have_ppm(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(encode(noise(), "PPM"))
    assert (
        decode(path, "here").tobytes()
        == decode(encode(noise(), "PNG"), "here").tobytes()
        == noise().tobytes()
    )


def test_no_rotation_and_no_transparency():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(noise(), "JPEG", exif=exif), "here").size == (64, 48)
    assert decode(KINDS["RGBA PNG"](), "here").mode == "RGB"


@pytest.mark.parametrize(
    "name", ["a JPEG of 1,000 scans", "a GIF of 400,000 comments", "a TIFF of one tile"]
)
def test_images_that_cost_too_much(name, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(BOMBS[name][0]())
    with pytest.raises(DataBroken, match=f"here: no readable image .{BOMBS[name][1]}"):
        decode(path, "here")
    with pytest.raises(DataBroken, match="No such file"):
        decode(tmp_path / "none.jpg", "here")
