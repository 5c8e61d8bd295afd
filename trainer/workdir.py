"""The WORKDIR of a run: a folder on a disk or at an fsspec URL.

With a URL a run works in a folder on the disk and uploads its files in the background. A checkpoint
is uploaded when it is written, its manifest last. The log and the curves are uploaded before each
checkpoint, and every few seconds while they grow. A run starts from the content of the store and
ignores the disk's.
"""

import fcntl
import hashlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from open_diht.common.command_line import WrongUse, check_folder
from open_diht.common.files import is_temporary
from open_diht.common.lease import Lease, held
from open_diht.common.ranks import Ranks
from open_diht.common.stores import in_words, is_remote, local_path, translated
from open_diht.trainer.checkpoint import Checkpoints
from open_diht.trainer.config import CheckpointSettings
from open_diht.trainer.data.store import default_cache
from open_diht.trainer.picture import PAGE
from open_diht.trainer.stores import FsspecStore, LocalStore, StoreError, Uploads

CHECKPOINTS = "checkpoints"
EXPORT = "export"
LOG = "log.jsonl"
CURVES = "tensorboard"
CONFIG = "config.yaml"
# The pause between uploads of log and curves, except before a checkpoint. Objects cannot be
# appended to, so each upload sends whole files again; a reader of the URL sees a run with this
# delay.
_EVERY_S = 10.0


class Workdir:
    """The folder that a run writes to. If WORKDIR is a URL, it also has the store that keeps the
    copies."""

    def __init__(
        self,
        folder: Path,
        store: FsspecStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder = folder
        self.store = store
        self.uploads = Uploads()
        self._clock = clock
        self._uploaded_at = clock()
        self._uploaded: dict[Path, tuple[int, int]] = {}

    def __str__(self) -> str:
        return str(self.store or self.folder)

    def checkpoints(self, settings: CheckpointSettings, say: Callable[[str], None]) -> Checkpoints:
        """Return the run's checkpoints. `settings` decides which are kept, and `say` receives lines
        to report."""
        if self.store is None:
            return Checkpoints(LocalStore(self.folder / CHECKPOINTS), settings, say=say)
        store = FsspecStore(f"{self.store}/{CHECKPOINTS}", self.folder / CHECKPOINTS)
        return Checkpoints(store, settings, self.uploads, say)

    def require_unused(self) -> None:
        """Raise `WrongUse` if a new run would overwrite a configuration, a page or an export
        without a log next to it. Files next to a log belong to a run without checkpoints, and are
        overwritten."""
        paths = self.store.files() if self.store else [path.name for path in self.folder.glob("*")]
        names = {path.partition("/")[0] for path in paths}
        foreign = sorted(names & {CONFIG, EXPORT, PAGE})
        if foreign and LOG not in names:
            raise WrongUse(
                f"{self} holds {foreign[0]} but no {LOG}: it may not be this program's, and a run"
                " would overwrite it; take another WORKDIR, or move it away"
            )

    def restore(self) -> None:
        """Empty the folder on the disk, and download the log and the tracker's run id."""
        assert self.store is not None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for name in (LOG, "wandb_id"):
            with suppress(FileNotFoundError):
                (self.folder / name).write_bytes(self.store.read(name))

    def grown(self, now: bool = False) -> None:
        """If WORKDIR is a URL, upload log and curves, unless an upload runs or the last one was
        just begun. With `now` upload in any case."""
        due = now or (self.uploads.idle and self._clock() - self._uploaded_at >= _EVERY_S)
        if self.store is not None and due:
            self._uploaded_at = self._clock()
            self.uploads.submit(self._upload_grown)

    def publish(self, name: str, last: str) -> None:
        """Upload a folder in the background, if WORKDIR is a URL. Its file `last` tells readers
        that it is complete."""
        store = self.store
        if store is not None:
            self.uploads.submit(lambda: store.put(self.folder / name, name, last))

    def incomplete(self) -> Exception | None:
        """Wait until the store has all files. Return the error that prevented this, if any."""
        try:
            self.grown(now=True)
            self.uploads.wait()
        except Exception as error:  # of any kind: the other ranks must learn of it
            return error
        return None

    def _upload_grown(self) -> None:
        assert self.store is not None
        paths = (*self.folder.glob("*"), *(self.folder / CURVES).glob("*"))
        for path in sorted(paths, key=lambda path: path.name != LOG):
            # First, as it marks the rest as a run's.
            if path.is_dir() or is_temporary(path.name):  # a page that is being drawn
                continue
            status = path.stat()
            state = status.st_size, status.st_mtime_ns  # unchanged files are not uploaded again
            if self._uploaded.get(path) != state:
                self.store.write(path.read_bytes(), str(path.relative_to(self.folder)))
                self._uploaded[path] = state


def spool(url: str, cache_folder: str | None, reader: str = "") -> Path:
    """Return this machine's folder for files on their way to or from a URL, one per `reader` of the
    URL."""
    name = hashlib.sha256(f"{url} {reader}".rstrip().encode()).hexdigest()[:16]
    return Path(cache_folder or default_cache()) / "workdirs" / f"{name}-{socket.gethostname()}"


def checkpoints_at(folder: str, cache_folder: str | None, reader: str = "") -> Checkpoints:
    """Return the checkpoints of another run, for reading; see `spool`."""
    if is_remote(folder):
        return Checkpoints(FsspecStore(folder, spool(folder, cache_folder, reader)))
    return Checkpoints(LocalStore(Path(folder)))


@contextmanager
def opened(
    workdir: Path | str, cache_folder: str | None, ranks: Ranks, say: Callable[[str], None]
) -> Iterator[Workdir]:
    """Yield the WORKDIR of a run, locked against other runs, and finish its uploads on leaving,
    except after Ctrl-C. Raises `WrongUse` if another run uses it, it cannot be written or is no
    place for results, such as the home folder. Raises `StoreError`, `CheckpointError` or
    `LeaseLost` if the store failed or another run took it over.
    """
    url = str(workdir)
    if not is_remote(url):
        folder = Path(local_path(url))
        check_folder("WORKDIR", folder)
        with _locked(folder) if ranks.first else nullcontext():
            yield Workdir(folder)
        return
    if url.startswith("memory://"):
        raise WrongUse(
            f"WORKDIR {url} is in this process's memory, and the model would be lost with it; take"
            " a folder, or an address such as s3://bucket/folder"
        )
    store = FsspecStore(url)
    place = Workdir(spool(store.url, cache_folder), store)
    refused = None
    with ExitStack() as stack:
        if ranks.first:
            try:
                place.uploads.fence = stack.enter_context(_leased(store, say)).fence
                # Before the lease is released.
                stack.callback(shutil.rmtree, place.folder, ignore_errors=True)
                place.restore()
            except (WrongUse, StoreError) as error:
                refused = error
        # A refused run leaves the folder alone, which a live run on this machine may use.
        ranks.all_or_error(refused)
        if ranks.local_rank == 0 and not ranks.first:
            # Once per machine, whose ranks share it.
            stack.callback(shutil.rmtree, place.folder, ignore_errors=True)
        try:
            yield place
        except Exception as failed:  # not KeyboardInterrupt: a second Ctrl-C does not wait
            if ranks.first and (left := place.incomplete()) not in (None, failed):
                say(f"{place} is incomplete: {left}")
            raise
        ranks.all_or_error(place.incomplete() if ranks.first else None)


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Refuse a folder that another run writes to. The lock belongs to the process (POSIX): a lock
    of the open file (flock) would be inherited by the loader's workers, and block a restart for
    seconds after the run was killed.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / "lock", "w")  # noqa: SIM115 closed below
    except OSError as error:
        raise WrongUse(
            f"WORKDIR {workdir} cannot be written ({error}): take another one"
        ) from error
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # EAGAIN, EACCES: it is locked
            raise WrongUse(
                f"another run is writing to {workdir}; wait for it, or take another WORKDIR"
            ) from error
        except OSError as error:
            raise WrongUse(
                f"WORKDIR {workdir} cannot be locked ({error}): take one on another file system"
            ) from error
        with held(workdir):
            yield


@contextmanager
def _leased(store: FsspecStore, say: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lease of a store. Wait until a killed run's lease expires, but fail if another run
    renews its lease."""
    lease = Lease(store.fs, f"{store.path}/lease", str(store), say=say)
    remedy = "check its name, credentials and rights, or take another WORKDIR"
    with translated(
        lambda error: WrongUse(f"WORKDIR {store} cannot be written ({in_words(error)}): {remedy}")
    ):
        taken = lease.take_alone()
    if not taken:
        holders = ", ".join(str(other["holder"]) for other in lease.refused_by)
        raise WrongUse(
            f"another run ({holders}) is writing to {store}; wait for it, or take another WORKDIR"
        )
    try:
        yield lease
    finally:
        lease.release()
