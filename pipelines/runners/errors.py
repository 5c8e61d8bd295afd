"""What can go wrong about where a run runs."""

from __future__ import annotations


class RunnerError(ValueError):
    """The runner cannot be used as asked; nothing was started. The message names the remedy."""


class JobFailed(RuntimeError):
    """A job was started and did not end well. Units done so far are committed; the same command goes on from there."""


class Staged(Exception):
    """A job was staged as a template, as asked, and not started. The message says where."""
