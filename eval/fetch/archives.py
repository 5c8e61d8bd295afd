"""Unpack zip and tar archives, write the samples of a webdataset, and encode images as JPEG."""

import io
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from PIL import Image

from open_diht.common.files import published, published_folder
from open_diht.eval.errors import FetchFailed

Sample = tuple[str, Mapping[str, Any]]
"""A sample: its key, and the content (bytes or text) of each member by extension."""


def unpack(archive: Path, members: Mapping[str, Path]) -> None:
    """Extract members of an archive, each completely or not at all. `members` maps members, or
    whole folders ("name/"), to their targets. Raises `FetchFailed` if the archive is damaged, lacks
    a member, or has a name that leads out of its folder."""
    found: set[str] = set()
    with ExitStack() as stack:
        building = {
            inside: stack.enter_context(
                (published_folder if inside.endswith("/") else published)(target)
            )
            for inside, target in members.items()
        }
        # One pass over the archive: a tar is a stream, and seeking back would decompress it again.
        try:
            for name, content in _files(archive):
                for inside, path in building.items():
                    if name == inside or (inside.endswith("/") and name.startswith(inside)):
                        found.add(inside)
                        target = (
                            below(path, name.removeprefix(inside)) if inside.endswith("/") else path
                        )
                        target.parent.mkdir(parents=True, exist_ok=True)
                        with target.open("wb") as out:
                            shutil.copyfileobj(content, out)
        except (
            zipfile.BadZipFile,
            tarfile.TarError,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            OSError,
        ) as error:
            # gzip and bz2 raise OSError without a number; errors of the disk have one.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            said = " ".join(str(error).split())
            raise FetchFailed(
                f"{archive} cannot be unpacked ({said}); remove it and run the command again"
            ) from None
        for inside in members:
            if inside not in found:
                raise FetchFailed(
                    f"{archive} has no {inside}; perhaps it was changed at its source"
                )


def below(folder: Path, name: str) -> Path:
    """Return the path `name` in `folder`. Raises `FetchFailed` if the name leads out of the
    folder."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise FetchFailed(f"{name!r} leads out of its folder; it was not written")
    return folder / name


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of the files in an archive, in its order, skipping links and devices
    in a tar."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if not name.endswith("/"):
                    with zipped.open(name) as content:
                        yield name, content
        return
    with tarfile.open(archive) as tarred:
        for member in tarred:
            if member.isfile() and (found := tarred.extractfile(member)):
                yield member.name.removeprefix("./"), found
        # A checksum of the whole stream comes after the last member, and is tested when it is read.
        while tarred.fileobj and tarred.fileobj.read(1 << 20):
            pass


def jpeg(image: Image.Image, quality: int = 95) -> bytes:
    """Return an RGB image as JPEG."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def write_tar(path: Path, samples: Iterable[Sample]) -> int:
    count = 0
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            count += 1
            for extension, content in members.items():
                raw = content.encode("utf-8") if isinstance(content, str) else content
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(raw)
                tar.addfile(entry, io.BytesIO(raw))
    return count
