"""Train with HN-NCE in open_clip's own trainer: its command line, our loss.

    python examples/recipes/hn_nce_in_open_clip.py --hardness 0.25 --model ViT-B-32 --batch-size 256
    --epochs 1 \\
        --dataset-type webdataset --train-data 'out/laion2b/shards/{00000..00009}-00000-000.tar'

All options but `--alpha` and `--hardness` are those of open_clip_train, and torchrun starts it on
several GPUs. None of them sets the initial scale that the loss recommends in the log: in short runs
take a smaller --hardness (docs/which-beta.md).
"""

import argparse
import sys

import open_clip_train.main

from open_diht.losses import HnNceLoss

parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
parser.add_argument("--alpha", type=float, default=1.0)
parser.add_argument("--hardness", type=float, default=0.25)
ours, theirs = parser.parse_known_args()


def create_loss(args: argparse.Namespace) -> HnNceLoss:
    """Return the loss that open_clip's trainer calls with the features of each batch."""
    return HnNceLoss(ours.alpha, ours.hardness, rank=args.rank, world_size=args.world_size)


open_clip_train.main.create_loss = create_loss
sys.exit(open_clip_train.main.main(theirs))
