"""The training that a command line has asked for: errors to one line and an exit status."""

from __future__ import annotations

from common.command_line import OK, exit_status, say
from common.lease import LeaseLost
from trainer.architecture import BadArchitecture
from trainer.checkpoint import CheckpointError
from trainer.checks import BadZeroShotFolder
from trainer.config import Config
from trainer.data import BadSource, ConceptMismatch, DataError
from trainer.export import CannotExport
from trainer.logs import MissingTracker
from trainer.loop import train
from trainer.memory import OutOfMemory
from trainer.remote import StoreError
from trainer.step import Diverged
from trainer.warm_start import BadWeights


def run_training(config: Config, workdir: str) -> int:
    """Train; returns the exit status of the command. Ctrl-C passes."""

    def run() -> int:
        outcome = train(config, workdir, say)
        return OK if outcome.finished else 128 + (outcome.signal or 15)

    return exit_status(
        run,
        wrong_use=(BadArchitecture, BadWeights, BadZeroShotFolder, BadSource, ConceptMismatch, MissingTracker),
        failed=(Diverged, CheckpointError, CannotExport, DataError, OutOfMemory, StoreError, LeaseLost),
        stopped=None,
    )
