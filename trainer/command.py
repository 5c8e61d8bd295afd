"""The training that a command line has asked for: errors to one line and an exit status."""

from __future__ import annotations

from open_diht.common.command_line import OK, exit_status, say
from open_diht.common.lease import LeaseLost
from open_diht.trainer.architecture import BadArchitecture
from open_diht.trainer.checkpoint import CheckpointError
from open_diht.trainer.checks import BadZeroShotFolder
from open_diht.trainer.config import Config
from open_diht.trainer.data import BadSource, ConceptMismatch, DataError
from open_diht.trainer.export import CannotExport
from open_diht.trainer.logs import MissingTracker
from open_diht.trainer.loop import train
from open_diht.trainer.memory import OutOfMemory
from open_diht.trainer.step import Diverged
from open_diht.trainer.stores import StoreError
from open_diht.trainer.warm_start import BadWeights


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
