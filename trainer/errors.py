"""The base class of errors that end a training."""


class TrainingError(RuntimeError):
    """A run cannot continue (exit status 1, or 2 for an error that is also a `WrongUse`)."""
