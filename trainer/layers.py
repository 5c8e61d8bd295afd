"""Learning rates that fall from layer to layer (`optimizer.layer_decay`), as in BEiT and fine-tuned
CLIP models.

A tower has its embeddings, its blocks, and the norm and projection after them. The last ones have
the full learning rate, the last block has it times the decay, each block before it has a further
factor, and so have the embeddings. The blocks of timm's image towers are those of timm's
`group_matcher`.
"""

import re
from collections.abc import Mapping

from open_clip.model import CLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer
from timm.models import group_parameters
from torch import nn

from open_diht.trainer.architecture import BadArchitecture, DualEncoder
from open_diht.trainer.config import LayerDecay

_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_AFTER = ("ln_post", "ln_final", "proj", "text_projection", "attn_pool")
_APART = ("visual.", "logit_")  # in a model whose text tower is not a module of its own


def layer_scales(clip: DualEncoder, decay: LayerDecay) -> dict[int, float]:
    """Map the id of each parameter of a tower whose learning rate falls to its factor of the
    learning rate. Raises `BadArchitecture` if the layers of such a tower are unknown."""
    text = clip if isinstance(clip, CLIP) else clip.text
    found: dict[int, float] = {}
    for name, tower, factor in (("image", clip.visual, decay.image), ("text", text, decay.text)):
        if factor < 1:
            depths = _depths(name, tower)
            found |= {
                id(p): factor ** depths[key] for key, p in tower.named_parameters() if key in depths
            }
    return found


def _depths(name: str, tower: nn.Module) -> Mapping[str, int]:
    """Return the number of layers between each parameter and the end of its tower."""
    names = [key for key, _ in tower.named_parameters()]
    if isinstance(tower, CLIP | VisionTransformer | TextTransformer):
        names = [key for key in names if not isinstance(tower, CLIP) or not key.startswith(_APART)]
        blocks = {key: int(block[1]) for key in names if (block := _BLOCK.match(key))}
        last = max(blocks.values())
        return {
            key: 0 if key.startswith(_AFTER) else last + 1 - blocks.get(key, -1) for key in names
        }
    if isinstance(tower, TimmModel) and hasattr(tower.trunk, "group_matcher"):
        layers = group_parameters(
            tower.trunk, tower.trunk.group_matcher(coarse=False), reverse=True
        )
        last = max(layers.values())
        return {key: last + 1 - layers[key[6:]] if key.startswith("trunk.") else 0 for key in names}
    raise BadArchitecture(
        f"optimizer.layer_decay.{name}: which layers a {type(tower).__name__} has is not known;"
        " leave it at 1, or take a transformer of open_clip"
        + (" or an image tower of timm" if name == "image" else "")
    )
