"""What goes wrong with a description of a data set."""

from __future__ import annotations


class DatasetError(ValueError):
    """A data set's name, YAML file or setting is wrong; the message says what, where and what to write instead."""


class UnknownDataset(DatasetError):
    """No data set of that name comes with the project; the message lists those that do."""
