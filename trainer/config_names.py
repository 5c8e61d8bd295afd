"""The configurations that come with the trainer, by name. Imports no torch, so that a command line
can name them."""

from pathlib import Path

from open_diht.common.yaml_files import Shelf


class BadConfig(ValueError):
    """A configuration cannot be used; the message says why."""


SHELF = Shelf(Path(__file__).with_name("configs"), "configuration", BadConfig)


def config_names() -> list[str]:
    """Return the names of the configurations that come with the trainer."""
    return SHELF.names()
