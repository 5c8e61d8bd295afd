"""An exported folder loads in open_clip and computes the same."""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from open_diht.trainer.architecture import architecture, build
from open_diht.trainer.config import ModelSettings, TransformSettings
from open_diht.trainer.config_files import merged
from open_diht.trainer.export import CannotExport, export, model_card
from open_diht.trainer.transforms import Pixels, preprocessing, transform
from tests.trainer.conftest import ONE_LAYER
from tests.trainer.test_checkpoint import small_disk

VIT = merged(ONE_LAYER, {"text_cfg": {"context_length": 12, "vocab_size": 49408}})
TIMM = {
    "timm_model_name": "test_vit",
    "timm_pool": "token",
    "timm_proj": "linear",
    "image_size": 160,
}
SHAPES: dict[str, dict[str, Any]] = {
    "vit": VIT,
    "timm": {**VIT, "custom_text": True, "vision_cfg": TIMM},
}


@pytest.mark.parametrize("bias", [None, -10.0])
@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_through_open_clip(name: str, bias: float | None, tmp_path: Path) -> None:
    settings = ModelSettings(
        architecture=SHAPES[name], patch_dropout=0.5 if name == "vit" else 0.0, bias=bias
    )
    torch.manual_seed(1)
    model = architecture(settings)
    clip = build(model, 0.05).eval()
    if bias is not None:
        clip.logit_bias.data += 0.25  # as a step would
    own = TransformSettings(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    size = SHAPES[name]["vision_cfg"]["image_size"]
    folder = export(
        tmp_path / "export", model, clip.state_dict(), preprocessing(own, size), "# Card\n"
    )
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    loaded.eval()
    noise = Image.effect_noise((50, 70), 90).convert("RGB")
    image = Pixels(own)(transform(own, size, training=False)(noise))
    assert torch.equal(preprocess(noise), image)
    texts = open_clip.get_tokenizer(f"local-dir:{folder}")(["a dog", "two cats on a mat"])
    assert texts.shape == (2, 12)
    with torch.no_grad():
        for found, expected in zip(
            loaded(image[None], texts), clip(image[None], texts), strict=True
        ):
            torch.testing.assert_close(found, expected)
    assert (loaded.logit_bias is None) if bias is None else (loaded.logit_bias.item() == -9.75)
    assert (
        "patch_dropout"
        not in json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    )


def test_a_new_export_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    clip = build(VIT, 0.07)
    folder = tmp_path / "export"
    for card in ("old", "new"):
        export(folder, VIT, clip.state_dict(), preprocessing(TransformSettings(), 32), card)
        (folder / card).touch()
    names = {"README.md", "new", "open_clip_config.json", "open_clip_model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "README.md").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_disk_that_is_full_leaves_the_old_export(tmp_path: Path) -> None:
    clip = build(VIT, 0.07)
    folder = export(tmp_path / "export", VIT, {"w": torch.zeros(3)}, {}, "old")
    with (
        pytest.raises(
            CannotExport, match=r"export could not be written: .*; make room .* run the same"
        ),
        small_disk(),
    ):
        export(folder, VIT, clip.state_dict(), {}, "new")
    assert (folder / "README.md").read_text() == "old" and [
        path.name for path in tmp_path.iterdir()
    ] == ["export"]


def test_the_card_names_a_tokenizer_that_the_folder_does_not_hold(tiny_config: Any) -> None:
    counts: dict[str, Any] = {"samples": 8, "steps": 1, "skipped": 0, "pairs": 8}
    about: dict[str, Any] = {**counts, "results": [], "versions": {}, "parent": None}
    hub = {
        "vision_cfg": {},
        "text_cfg": {"hf_tokenizer_name": "roberta-base", "context_length": 64},
    }
    card = model_card(tiny_config(), **about, architecture=hub)
    assert (
        "tokenizer = open_clip.tokenizer.HFTokenizer('roberta-base', context_length=64)\n" in card
    )
    card = model_card(tiny_config(), **about, architecture={"vision_cfg": {}, "text_cfg": {}})
    assert 'tokenizer = open_clip.get_tokenizer("local-dir:PATH_OF_THIS_FOLDER")\n' in card
