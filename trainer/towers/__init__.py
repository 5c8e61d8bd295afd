"""Towers of your own in addition to open_clip's, by import path or by name."""

from open_diht.trainer.towers.registry import BadTower, build_tower, is_own, own_tokenizer, register

__all__ = ["BadTower", "build_tower", "is_own", "own_tokenizer", "register"]
