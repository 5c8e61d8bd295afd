"""A CLIP model so small that tests can encode with it."""

import json
from pathlib import Path

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def write_tiny(folder: Path, seed: int = 0) -> Path:
    """A folder that open_clip and `make bench` load, with random weights."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    model = open_clip.CLIP(TINY["embed_dim"], TINY["vision_cfg"], TINY["text_cfg"])
    folder.mkdir(parents=True)
    preprocess = {
        "mean": [0.5] * 3, "std": [0.5] * 3, "size": 32, "interpolation": "bicubic",
        "resize_mode": "shortest", "mode": "RGB", "fill_color": 0,
    }  # fmt: skip
    config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder
