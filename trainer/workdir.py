"""The WORKDIR of a run: a folder on a disk, or behind an fsspec URL.

Behind a URL a run works in a folder on the disk, as ever, and what it writes there is brought to the store while it
goes on: a checkpoint when it is written, its manifest last; the log and the curves at most every few seconds, and
before each checkpoint. It begins with what the store has, whatever a run before has left on the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from open_diht.common.command_line import WrongUse, check_folder
from open_diht.common.lease import RENEW_S, VALID_S, Lease, LeaseLost
from open_diht.common.ranks import Ranks
from open_diht.common.store_errors import in_words
from open_diht.trainer.checkpoint import CheckpointError, Checkpoints
from open_diht.trainer.config import CheckpointSettings
from open_diht.trainer.data.store import default_cache, is_remote
from open_diht.trainer.remote import RemoteFolder, StoreError
from open_diht.trainer.stored_checkpoints import StoredCheckpoints
from open_diht.trainer.uploads import Uploads

CHECKPOINTS, EXPORT, LOG, CURVES, CONFIG = "checkpoints", "export", "log.jsonl", "tensorboard", "config.yaml"
_EVERY_S = 10.0  # log and curves go to a store at most that often, besides checkpoints


class Workdir:
    """One on a disk."""

    def __init__(self, folder: Path):
        self.folder = folder
        """Where files are written."""

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def exported(self) -> Path | None:
        """Where the model stays, if on a disk."""
        return self.folder / EXPORT

    def checkpoints(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Checkpoints:
        """Those of the run."""
        return Checkpoints(self.folder / CHECKPOINTS, settings)

    def require_unused(self) -> None:
        """For a run that begins here. Raises `WrongUse` where files of others have names of its own: it would write
        over them. Where there is a log, they are of a run that did not come to its first checkpoint."""
        names = self._names()
        theirs = sorted(names & {CONFIG, EXPORT})
        if theirs and LOG not in names:
            raise WrongUse(
                f"{self} holds {theirs[0]}, which no run here has written ({LOG} is not there), and which a run would "
                "write over; take another WORKDIR, or move it away"
            )

    def grown(self, now: bool = False) -> None:
        """Files directly in the folder, or curves, have grown. `now`: a checkpoint comes next, which counts on them."""

    def publish(self, name: str, last: str) -> None:
        """A folder is written; `last` is the file by which others know that it is whole."""

    def place(self, name: str) -> str:
        """Where others find something."""
        return str(self.folder / name)

    def _names(self) -> set[str]:
        return {path.name for path in self.folder.glob("*")}


class RemoteWorkdir(Workdir):
    """One behind a URL, and the folder on the disk."""

    def __init__(self, store: RemoteFolder, folder: Path, clock: Callable[[], float] = time.monotonic):
        super().__init__(folder)
        self._store, self._clock = store, clock
        self._check: Callable[[], None] = lambda: None
        self._uploads = Uploads()
        self._brought: dict[Path, tuple[int, int]] = {}
        self._last = clock()

    def __str__(self) -> str:
        return str(self._store)

    @property
    def exported(self) -> Path | None:
        """Nowhere."""
        return None

    def begin(self, check: Callable[[], None]) -> None:
        """Make the folder anew, with what is continued. `check` raises where the store is another run's by now."""
        self._check = check
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in (LOG, "wandb_id"):
            with suppress(FileNotFoundError):
                self._store.download(self.folder / name, name)
        self._brought = {path: _state(path) for path in self._growing()}

    def checkpoints(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Checkpoints:
        """Those of the run."""
        store = RemoteFolder(self.place(CHECKPOINTS))
        return StoredCheckpoints(store, self.folder / CHECKPOINTS, settings, self._uploads, self._check, say)

    def grown(self, now: bool = False) -> None:
        """Has them uploaded; where it is not for a checkpoint, only now and then."""
        if now or (self._uploads.idle and self._clock() - self._last >= _EVERY_S):
            self._last = self._clock()
            self._uploads.later(self._bring)

    def publish(self, name: str, last: str) -> None:
        """Has it uploaded."""
        self._uploads.later(lambda: self._store.upload_folder(self.folder / name, *Path(name).parts, last=last))

    def place(self, name: str) -> str:
        """Its URL."""
        return f"{self._store}/{name}"

    def complete(self) -> None:
        """Wait until the store has all. Raises what kept it from that."""
        self.grown(now=True)
        self._uploads.wait()

    def close(self) -> None:
        """No more is written."""
        self._uploads.end()

    def _names(self) -> set[str]:
        return {path.partition("/")[0] for path in self._store.files()}

    def _bring(self) -> None:
        self._check()
        for path in self._growing():
            state = _state(path)
            if self._brought.get(path) != state:
                self._store.write(path.read_bytes(), *path.relative_to(self.folder).parts)
                self._brought[path] = state

    def _growing(self) -> list[Path]:
        found = (*self.folder.glob("*"), *(self.folder / CURVES).glob("*"))
        log_first = sorted(found, key=lambda path: (path.name != LOG, path))  # by the log others know whose the rest is
        return [path for path in log_first if path.is_file()]


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def spool(url: str, cache_folder: str | None) -> Path:
    """The folder on this machine by way of which files go to a URL, and come from it; for one run at a time."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Path(cache_folder or default_cache()) / "workdirs" / f"{name}-{socket.gethostname()}"


def checkpoints_at(folder: str, cache_folder: str | None) -> Checkpoints:
    """Those of another run, to be read: in a folder, or behind a URL."""
    if is_remote(folder):
        return StoredCheckpoints(RemoteFolder(folder), spool(folder, cache_folder))
    return Checkpoints(Path(folder))


@contextmanager
def opened(
    workdir: Path | str, cache_folder: str | None, ranks: Ranks, say: Callable[[str], None]
) -> Iterator[Workdir]:
    """The WORKDIR of a run, for which it is the only one while the `with` block lasts; at the end all is there.

    Raises:
        WrongUse: another run has it, or it cannot be written.
        StoreError, CheckpointError: a store took no more.
    """
    url = str(workdir)
    if not is_remote(url):
        folder = Path(url.removeprefix("file://").removeprefix("local://"))
        check_folder("WORKDIR", folder)
        with _locked(folder, ranks):
            yield Workdir(folder)
        return
    if url.startswith("memory://"):
        raise WrongUse(
            f"WORKDIR {url} is the memory of this process, and the model would go with it; take a folder, or an "
            "address such as s3://bucket/folder"
        )
    store = RemoteFolder(url)
    folder = spool(store.url, cache_folder)
    remote, refused = RemoteWorkdir(store, folder), None
    with ExitStack() as stack:
        if ranks.local_rank == 0:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(remote.close)
        if ranks.first:
            try:
                lease = stack.enter_context(_leased(store, say))
                remote.begin(lease.check)
            except (WrongUse, StoreError) as error:
                refused = error
        ranks.all_or_error(refused)
        try:
            yield remote
        except Exception as failed:  # not a second Ctrl-C
            if ranks.first and (left := _incomplete(remote)) not in (None, failed):
                say(f"not all is in {remote}: {left}")
            raise
        ranks.all_or_error(_incomplete(remote) if ranks.first else None)


@contextmanager
def _locked(workdir: Path, ranks: Ranks) -> Iterator[None]:
    """Keeps two runs from writing to one folder. The lock is the process's own (POSIX), not the open file's (flock),
    which the loader's workers would inherit and hold for seconds after the run was killed, against its restart."""
    if not ranks.first:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / "lock", "w")  # noqa: SIM115 closed below
    except OSError as error:
        raise WrongUse(f"WORKDIR {workdir} cannot be written ({error}): take another one") from error
    with lock as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WrongUse(f"another run is writing to {workdir}; wait for it, or take another WORKDIR") from error
        yield


@contextmanager
def _leased(store: RemoteFolder, say: Callable[[str], None]) -> Iterator[Lease]:
    lease = Lease(store.fs, store.inside("lease"), str(store))
    try:
        _take(lease, store, say)
    except WrongUse:
        raise
    except Exception as error:  # fsspec's backends share no error class; all mean that nothing can be written there
        raise WrongUse(
            f"WORKDIR {store} cannot be written ({in_words(error)}): see to its name, credentials and rights, or take "
            "another WORKDIR"
        ) from error
    try:
        yield lease
    finally:
        lease.release()


def _take(lease: Lease, store: RemoteFolder, say: Callable[[str], None]) -> None:
    """Waits for as long as the lease of a run that was killed counts; one that is renewed meanwhile is at work."""
    seen: dict[str, float] = {}
    while not lease.take(shared=False):
        for other in lease.others():
            if not seen:
                say(f"{store} was in use a moment ago: waiting up to {VALID_S:.0f} s for whether that run was killed")
            if other["renewed"] - seen.setdefault(other["holder"], other["renewed"]) > 0.9 * RENEW_S:
                raise WrongUse(
                    f"another run ({other['holder']}) is writing to {store}; wait for it, or take another WORKDIR"
                )
        time.sleep(random.uniform(1, 3))  # two that have met ask at different moments


def _incomplete(workdir: RemoteWorkdir) -> Exception | None:
    """Waits until everything is in the store; what kept it from that."""
    try:
        workdir.complete()
    except (StoreError, CheckpointError, LeaseLost) as error:
        return error
    return None
