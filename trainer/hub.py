"""A trained model to a hub: `python -m open_diht.trainer.hub WORKDIR/export hf://owner/name`.

All files of the folder come in one commit, so nobody meets half a model; open_clip then loads `hf-hub:owner/name`. The
token comes from the environment (`HF_TOKEN`), and so does the address of another hub (`HF_ENDPOINT`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from open_diht.common.command_line import OK, Parser, WrongUse, exit_status, say
from open_diht.common.hub_address import parse_address
from open_diht.trainer.export import CARD, DESCRIPTION, WEIGHTS
from open_diht.trainer.stores import StoreError, on_disk


class CannotPush(RuntimeError):
    """The hub did not take the model; the message says why."""


def push(folder: Path | str, target: str, *, private: bool = False) -> str:
    """Publish an exported model, in a folder or behind a URL, as `hf://owner/name`, a repository that is made where
    there is none; the address of the commit. Raises `WrongUse` where folder, target or token are not there,
    `CannotPush`, `StoreError`."""
    repository = _repository(target)
    with on_disk(str(folder)) as here:
        return _push(here, str(folder), target, repository, private=private)


def _push(here: Path, folder: str, target: str, repository: str, *, private: bool) -> str:
    missing = [name for name in (WEIGHTS, DESCRIPTION, CARD) if not (here / name).is_file()]
    if missing:
        raise WrongUse(f"{folder} is no exported model, {missing[0]} is missing; name the folder WORKDIR/export")
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise WrongUse("HF_TOKEN is not set: put a token there that may write to the repository")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, endpoint=os.environ.get("HF_ENDPOINT"))
    files = [path for path in sorted(here.iterdir()) if path.is_file()]
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.create_commit(
            repository,
            [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files],
            commit_message="Model of open-diht",
        )
    except Exception as error:  # the hub's client and those that it stands on share no error class
        raise CannotPush(
            f"{target} at {api.endpoint} cannot be written: {type(error).__name__}: {str(error).splitlines()[0]}; the "
            f"model stays in {folder}, the same command tries again"
        ) from error
    return str(done.commit_url)


def _repository(target: str) -> str:
    address = parse_address(target)
    if address is None or address.kind != "model" or address.revision or address.path:
        raise WrongUse(f"{target!r} is no hf://owner/name")
    return address.repository


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m open_diht.trainer.hub", description="Publish an exported model on the Hugging Face hub."
    )
    parser.add_argument("folder", help="WORKDIR/export, or its URL, or what python -m open_diht.trainer.released wrote")
    parser.add_argument("target", help="hf://owner/name")
    parser.add_argument("--private", action="store_true", help="where the repository is made: not for everybody")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""

    def run() -> int:
        options = _parser().parse_args(arguments)
        say(f"published: {push(options.folder, options.target, private=options.private)}")
        return OK

    return exit_status(run, failed=(CannotPush, StoreError))


if __name__ == "__main__":
    raise SystemExit(main())
