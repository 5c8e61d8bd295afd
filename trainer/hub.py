"""Publish a trained model on a hub: `python -m open_diht.trainer.hub WORKDIR/export
hf://owner/name`.

All files of the folder are published in one commit, so no reader sees half a model. open_clip then
loads `hf-hub:owner/name`, if the towers are open_clip's. The environment provides the token
(`HF_TOKEN`) and the address of another hub (`HF_ENDPOINT`).
"""

import argparse
import os
from pathlib import Path

from open_diht.common.command_line import OK, WrongUse, command, say
from open_diht.common.encoders import loading
from open_diht.common.hub import client, explained, parse_address
from open_diht.trainer.errors import TrainingError
from open_diht.trainer.export import CARD, DESCRIPTION, WEIGHTS
from open_diht.trainer.publish_options import parse
from open_diht.trainer.stores import on_disk

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz")
"""Endings of files that torch or NumPy read by pickle."""


class CannotPush(TrainingError):
    """The hub was not reached or did not accept the model."""


def push(folder: Path | str, target: str, *, private: bool = False) -> str:
    """Publish the exported model in `folder`, a path or URL, as `target`, `hf://owner/name`, which
    is created if needed. Raises `WrongUse` if the folder is not an exported model, with weights in
    safetensors alone, the target is not a repository, or there is no token; `CannotPush` if the hub
    was not reached or did not accept it; `StoreError` if the URL cannot be read.
    """
    address = parse_address(target)
    if address is None or address.kind != "model" or address.revision or address.path:
        raise WrongUse(f"{target!r} is not hf://owner/name")
    with on_disk(str(folder)) as here:
        missing = [name for name in (WEIGHTS, DESCRIPTION, CARD) if not (here / name).is_file()]
        if missing:
            raise WrongUse(
                f"{folder} is not an exported model ({missing[0]} is missing); name WORKDIR/export"
            )
        # A hub must not get files that run code where they are read.
        if others := [path.name for path in sorted(here.iterdir()) if path.suffix in _PICKLED]:
            raise WrongUse(
                f"{folder} holds {others[0]}, and files of this kind can run code; convert it to "
                "safetensors, or move it out of the folder"
            )
        with loading(
            lambda why: WrongUse(f"{folder}/{WEIGHTS} is damaged ({why}); export the model again")
        ):
            from safetensors import safe_open

            with safe_open(here / WEIGHTS, framework="pt"):  # reads the header, and checks the size
                pass
        if not os.environ.get("HF_TOKEN"):
            raise WrongUse(
                "HF_TOKEN is not set; set it to a token with write access to the repository"
            )
        from huggingface_hub import CommitOperationAdd

        files = [path for path in sorted(here.iterdir()) if path.is_file()]
        try:
            with explained(
                address,
                CannotPush,
                f"; the model is kept in {folder}. Run the same command to try again",
            ):
                api = client()
                api.create_repo(address.repository, private=private, exist_ok=True)
                done = api.create_commit(
                    address.repository,
                    [
                        CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path)
                        for path in files
                    ],
                    commit_message="Model of open-diht",
                )
        except OSError as error:  # of the disk: those of the hub are explained
            where = error.filename or folder
            raise CannotPush(
                f"{where} cannot be read ({error.strerror or error}); mend it and run the command"
                " again"
            ) from error
    return str(done.commit_url)


def _publish(options: argparse.Namespace) -> int:
    say(f"published: {push(options.folder, options.target, private=options.private)}")
    return OK


main = command(parse, _publish, failed=(TrainingError,))


if __name__ == "__main__":
    raise SystemExit(main())
