"""Errors that have no better place."""


class WrongUse(ValueError):
    """The run cannot start as asked; nothing was written."""
