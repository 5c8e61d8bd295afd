"""What the YAML files of the claims say is what the trainer can build."""

import pytest
import torch

from open_diht.trainer.architecture import architecture, build, image_size
from open_diht.trainer.config_files import load_config
from study.claims import cat, concepts, negatives
from study.claims.described import described, track_of

CLAIMS = {"cat": cat.ABOUT, "concepts": concepts.ABOUT, "negatives": negatives.ABOUT}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("track", ["cpu", "gpu", "gpu-tiny"])
def test_stored_images_are_as_large_as_the_tower_wants(claim: str, track: str) -> None:
    on = track_of(CLAIMS[claim], track)
    budgets = [budget for scale in on.budgets.values() for budget in scale]
    config = load_config(
        str(on.trainer), base={"data": {"loader": "m:L"}, "schedule": {"samples": min(budgets)}}
    )
    assert min(budgets) >= config.schedule.batch_size
    vision = config.model.architecture["vision_cfg"]  # type: ignore[index]
    assert vision.get("image_size", 0) <= (on.side or 0) and (on.side is None) == (
        "image_size" not in vision
    )
    assert config.run.device == ("cuda" if track == "gpu" else "cpu")


def test_the_track_gpu_has_a_vit_s() -> None:
    on = track_of(cat.ABOUT, "gpu")
    config = load_config(
        str(on.trainer), base={"data": {"loader": "m:L"}, "schedule": {"samples": 1024}}
    )
    model = architecture(config.model)
    with torch.device("meta"):
        clip = build(model, config.model.temperature)
    vision = sum(weight.numel() for weight in clip.visual.parameters())
    assert image_size(model) == 112 and 20e6 < vision < 23e6, "22 million weights, as ViT-S/16"


def test_tracks_of_a_claim_have_the_same_scales_but_for_the_tiny_one() -> None:
    for path in CLAIMS.values():
        assert {name: list(on["budgets"]) for name, on in described(path)["tracks"].items()} == {
            "cpu": ["full", "quick", "tiny"], "gpu": ["full", "quick"], "gpu-tiny": ["tiny"],
        }  # fmt: skip
