"""Small towers in addition to open_clip's, and your own towers: by name, or by import path."""

from open_diht.trainer.towers.registry import BadTower, build_tower, is_own, register
from open_diht.trainer.towers.words import WordTokenizer, read_words

__all__ = ["BadTower", "WordTokenizer", "build_tower", "is_own", "read_words", "register"]
