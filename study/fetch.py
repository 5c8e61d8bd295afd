"""Entry point of `python -m study.fetch` (`make study-data`): downloads the sets of the study.

Contents, size and, for most, terms of each set are printed before it is downloaded. An archive
appears completely or not at all; complete ones are reused. Flickr8k's and the groceries' images are
stored with at most SIDE pixels on the shorter side.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from open_diht.common.command_line import (
    INTERRUPTED,
    OK,
    Parser,
    WrongUse,
    complain,
    exit_status,
    number,
    say,
)
from open_diht.common.data_root import data_root
from open_diht.common.fields import Positive
from open_diht.common.files import publish_bytes, published, sha256_file
from open_diht.common.image_parts import BadImage
from open_diht.common.spelling import spelled
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.__main__ import fetch_torchvision
from open_diht.eval.fetch.__main__ import main as fetch_for_evaluation
from open_diht.eval.fetch.archives import Sample, jpeg, write_tar
from open_diht.eval.fetch.download import download
from open_diht.eval.tasks import choose_tasks
from study.images import opened
from study.verdicts import FilterFailed
from study.web import make_web

SIDE = 112
QUALITY = 90
ROWS = 35_000
"""Rows of the manifest of URLs; about half of CC3M's images are gone from the web."""
LAION_COMMIT = "95523bc7579745a1749b8132d408b9fea89a338e"
LAION_SHA256 = "cfa6bcb629614e66d4c286f0c9511a79482b9f5d5c42025b3622225660dea897"
GROCERY_COMMIT = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
GROCERY_COUNTS = {"train": 2640, "test": 2485}
FLICKR8K_COUNTS = {"train": 6000, "dev": 1000, "test": 1000}


@dataclass(frozen=True, kw_only=True)
class Places:
    """URLs of the archives; tests use a server of their own."""

    flickr8k: str = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
    grocery: str = (
        f"https://codeload.github.com/marcusklasson/GroceryStoreDataset/tar.gz/{GROCERY_COMMIT}"
    )
    laion: str = f"https://raw.githubusercontent.com/rom1504/img2dataset/{LAION_COMMIT}/tests/test_files/test_10000.parquet"


ABOUT = {
    "flickr8k": (
        "1.1 GB, 8,000 photographs with five captions each; for research alone, not to be passed on"
    ),
    "grocery": "120 MB, 5,125 photographs of 81 kinds of groceries (Klasson et al. 2019); MIT",
    "laion": "1.3 MB, ten thousand alt texts of LAION-400M, out of img2dataset's tests; CC-BY-4.0",
    "web": (
        f"about 2 GB and some hours for {ROWS:,} rows: images of the first urls of CC3M's TSV,"
        " which Google's page hands out (--manifest); they belong to their owners"
    ),
    "cifar10": f"170 MB, as `{spelled('bench-data', task='cifar10')}`",
    "fashion_mnist": (
        "31 MB, 70,000 images of Fashion-MNIST (Xiao et al. 2017), as torchvision fetches them; MIT"
    ),
    "reference": f"110 MB, the reference encoder, as `{spelled('bench-data', task='reference')}`",
}
"""Contents, size and, for most, terms of each set."""


def main(arguments: Sequence[str] | None = None, prog: str = "python -m study.fetch") -> int:
    """Run the command line. Return 0, 1 if a set failed, 2 for wrong use, or 130 for Ctrl-C."""
    listing = "; ".join(f"{name}: {about}" for name, about in ABOUT.items())
    parser = Parser(prog=prog, description="Fetch the data of the study.", epilog=listing)
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help=f"of {', '.join(ABOUT)} (default: all; web with --manifest)",
    )
    parser.add_argument(
        "--data", default="out/study-data", help="folder of the sets (default out/study-data)"
    )
    parser.add_argument("--manifest", type=Path, help="CC3M's TSV (caption, url), for the set web")
    parser.add_argument(
        "--rows", type=number(Positive), default=ROWS, help=f"rows of it (default {ROWS})"
    )
    return exit_status(lambda: fetch(parser.parse_args(arguments), Places()))


def fetch(options: argparse.Namespace, places: Places) -> int:
    """Fetch the requested sets and return the exit status. A failure is printed, and does not stop
    the others."""
    wanted = options.sets or [name for name in ABOUT if name != "web" or options.manifest]
    for name in wanted:
        if name not in ABOUT:
            raise WrongUse(f"set {name!r} is unknown; there are {', '.join(ABOUT)}")
    if "web" in wanted and not options.manifest:
        page = "https://ai.google.com/research/ConceptualCaptions/download"
        raise WrongUse(
            f"web needs a manifest of urls: --manifest Train_GCC-training.tsv, which {page}"
            " hands out"
        )
    for name in wanted:
        say(f"{name}: {ABOUT[name]}")
    folder = Path(options.data)
    how: dict[str, Callable[[], int]] = {
        "flickr8k": lambda: fetch_flickr8k(folder, places.flickr8k),
        "grocery": lambda: fetch_grocery(folder, places.grocery),
        "laion": lambda: fetch_laion(folder, places.laion),
        "fashion_mnist": fetch_fashion,
        "web": lambda: make_web(options.manifest, options.rows, folder, say),
    }
    worst = OK
    for name in wanted:
        worst = max(worst, _tried(name, how.get(name)))
        if worst == INTERRUPTED:  # of a set that the evaluation's command fetches
            break
    return worst


def fetch_fashion() -> int:
    """Fetch Fashion-MNIST to the evaluation's first place for it. Return its size. Raises
    `FetchFailed`."""
    (task,) = choose_tasks("fashion_mnist").tasks
    for source in (task.sources[0], task.support[0]):
        fetch_torchvision(task.name, source, data_root())
    return 70_000


def fetch_laion(folder: Path, url: str) -> int:
    """Fetch `folder`/laion-captions.parquet and return its number of rows. Raises `FetchFailed`."""
    path = folder / "laion-captions.parquet"
    download(url, path)
    if sha256_file(path) != LAION_SHA256:
        path.unlink()
        raise FetchFailed(
            f"{path}, from {url}, is another file than before: its SHA-256 does not begin"
            f" {LAION_SHA256[:8]}"
        )
    return 10_000


def fetch_grocery(folder: Path, url: str, counts: dict[str, int] = GROCERY_COUNTS) -> int:
    """Write `folder`/grocery-{train,test}.tar and the names of the classes; return the number of
    images."""
    archive = folder / "archives" / "grocery.tar.gz"
    download(url, archive)
    texts = dict[str, str]()
    images = dict[str, bytes]()
    with tarfile.open(archive, "r:gz") as members:
        for member in members:
            name = "/".join(PurePosixPath(member.name).parts[2:])  # below REPOSITORY-COMMIT/dataset
            content = members.extractfile(member) if member.isfile() else None
            if content and name in ("train.txt", "test.txt", "classes.csv"):
                texts[name] = content.read().decode()
            elif content and name.startswith(("train/", "test/")):
                images[name] = shrunk(content.read())
    if missing := {"train.txt", "test.txt", "classes.csv"} - texts.keys():
        raise FetchFailed(
            f"{archive} has no {', '.join(sorted(missing))}; remove it and fetch it again"
        )
    names = {
        int(row[1]): row[0].replace("-", " ")
        for row in list(csv.reader(io.StringIO(texts["classes.csv"])))[1:]
    }
    publish_bytes(
        folder / "grocery-classes.txt", "".join(f"{names[n]}\n" for n in sorted(names)).encode()
    )
    for split, count in counts.items():
        rows = [
            [word.strip() for word in line.split(",")]
            for line in texts[f"{split}.txt"].splitlines()
            if line
        ]
        samples = (
            (f"{place:05d}", {"jpg": images[path], "cls": label})
            for place, (path, label, _) in enumerate(rows)
        )
        _write(folder / f"grocery-{split}.tar", samples, count)
    return sum(counts.values())


def fetch_flickr8k(folder: Path, url: str, counts: dict[str, int] = FLICKR8K_COUNTS) -> int:
    """Write `folder`/flickr8k-{train,dev,test}.tar and return the number of images."""
    archives = folder / "archives"
    for name in ("Flickr8k_text.zip", "Flickr8k_Dataset.zip"):
        download(f"{url}/{name}", archives / name)
    captions: dict[str, list[str]] = defaultdict(list)
    with zipfile.ZipFile(archives / "Flickr8k_text.zip") as texts:
        for line in texts.read("Flickr8k.token.txt").decode().splitlines():
            name, _, caption = line.partition("\t")
            captions[name.partition("#")[0]].append(caption.strip())
        lists = {
            split: texts.read(f"Flickr_8k.{split}Images.txt").decode().split() for split in counts
        }
    with zipfile.ZipFile(archives / "Flickr8k_Dataset.zip") as images:
        # An archive made on a Mac lists every name again below __MACOSX.
        places = {
            PurePosixPath(name).name: name
            for name in images.namelist()
            if not name.startswith("__MACOSX")
        }

        def samples(names: Sequence[str]) -> Iterator[Sample]:
            for name in sorted(names):
                key = name.removesuffix(".jpg")
                said = captions[name]
                content = {"key": key, "captions": said}
                yield (
                    key,
                    {
                        "jpg": shrunk(images.read(places[name])),
                        "json": json.dumps(content),
                        "txt": said[0],
                    },
                )

        for split, count in counts.items():
            _write(folder / f"flickr8k-{split}.tar", samples(lists[split]), count)
    return sum(counts.values())


def shrunk(content: bytes) -> bytes:
    """Return the image as JPEG with at most SIDE pixels on the shorter side. Raises `BadImage`."""
    image = opened(content)
    scale = SIDE / min(image.size)
    # Shrink only: enlarging would add bytes and no detail.
    if scale < 1:
        width, height = (max(1, round(edge * scale)) for edge in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return jpeg(image, QUALITY)


def _write(path: Path, samples: Iterator[Sample], expected: int) -> None:
    with published(path) as temporary:
        try:
            found = write_tar(temporary, samples)
        except KeyError as error:
            raise FetchFailed(
                f"{path.name}: the archive lacks {error.args[0]}; remove it and fetch it again"
            ) from None
        if found != expected:
            raise FetchFailed(
                f"{path.name}: {found} images, expected {expected}; remove the archive and fetch it"
                " again"
            )


def _tried(name: str, what: Callable[[], int] | None) -> int:
    if what is None:
        return fetch_for_evaluation(["--task", name])
    try:
        say(f"{name}: {what():,} items available")
    except (FetchFailed, FilterFailed) as error:
        return complain(error)
    except (BadImage, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        return complain(
            f"{name}: an archive is damaged ({error}); remove it and fetch the set again"
        )
    return OK


if __name__ == "__main__":
    raise SystemExit(main())
