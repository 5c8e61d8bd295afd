"""The error for invalid data set descriptions."""

from __future__ import annotations


class DatasetError(Exception):
    """An error in a data set's name, YAML file or setting. The message says what is wrong and,
    unless that is clear from it, what to write instead."""
