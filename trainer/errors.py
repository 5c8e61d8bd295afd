"""The base class of errors that end a training."""


class TrainingError(RuntimeError):
    """A run cannot continue (exit status 1). The message names the remedy."""
