"""What goes wrong with a description of a data set."""

from __future__ import annotations


class DatasetError(Exception):
    """A data set's name, YAML file or setting is wrong; the message says what, where and what to write instead."""
