"""UCF101 as images: the middle frame, as in CLIP and CoOp, of every video of its first split.

`ucf101/test/<Class>/<video>.jpg` holds test list 1, and `ucf101/train/...` train list 1 for
few-shot and linear probes. Frames are counted by decoding, because the number in a video's header
is not reliable. PyAV (extra `eval`) decodes; the videos are a RAR archive, which bsdtar
(libarchive), unrar or 7z unpacks.
"""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from open_diht.common.files import published_folder
from open_diht.common.installation import remedy
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.archives import jpeg, unpack
from open_diht.eval.fetch.download import Fetcher, Remote
from open_diht.eval.fetch.files import ARCHIVES

VIDEOS = "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar"
LISTS = "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"
LISTS_FOLDER = "ucfTrainTestlist/"
LIST_OF = {"test": "testlist01.txt", "train": "trainlist01.txt"}
UNPACKERS: Mapping[str, tuple[str, ...]] = {
    "bsdtar": ("-xf", "{archive}", "-C", "{folder}"),
    "unrar": ("x", "-idq", "{archive}", "{folder}/"),
    "7z": ("x", "-bd", "-o{folder}", "{archive}"),
}


def fetch_ucf101(folder: Path, fetcher: Fetcher, videos: Path | None = None) -> None:
    """Write the frames of each split whose folder is missing: test, and train unless only zero-shot
    is wanted. If `videos` is a folder of unpacked videos and lists, nothing is downloaded."""
    splits = [split for split in LIST_OF if split == "test" or not fetcher.zero_shot]
    missing = [split for split in splits if not (folder / split).is_dir()]
    if not missing:
        fetcher.say(f"UCF101: already in {folder}")
        return
    av = None if fetcher.sizes_only else _pyav()  # before gigabytes are downloaded in vain
    if videos is not None:
        if not fetcher.sizes_only:
            _write(av, videos, missing, folder, fetcher)
        return
    archives = fetcher.root / ARCHIVES
    rar, lists = (
        Remote(url=url, path=archives / url.rpartition("/")[2]) for url in (VIDEOS, LISTS)
    )
    if not fetcher.sizes_only and not any(map(shutil.which, UNPACKERS)):
        raise FetchFailed(
            f"UCF101: none of {', '.join(UNPACKERS)} is on PATH, and its videos are a RAR archive"
        )
    if not fetcher.get("UCF101", [rar, lists]):
        return
    with tempfile.TemporaryDirectory(dir=archives) as scratch:
        unpack(lists.path, {LISTS_FOLDER: Path(scratch) / "lists"})
        unpack_rar(rar.path, Path(scratch))
        _write(av, Path(scratch), missing, folder, fetcher)
    for archive in (rar, lists):
        archive.path.unlink()


def unpack_rar(archive: Path, folder: Path) -> None:
    """Unpack a RAR archive with the first of UNPACKERS that is installed and succeeds."""
    troubles = []
    for name, arguments in UNPACKERS.items():
        if program := shutil.which(name):
            filled = [one.format(archive=archive, folder=folder) for one in arguments]
            done = subprocess.run([program, *filled], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            troubles.append(f"{name}: {' '.join((done.stderr or done.stdout).split())[-200:]}")
    raise FetchFailed(f"{archive} could not be unpacked ({'; '.join(troubles)})")


def _write(av: Any, videos: Path, splits: list[str], folder: Path, fetcher: Fetcher) -> None:
    found = {path.name: path for path in videos.rglob("*.avi")}
    for split in splits:
        lists = sorted(videos.rglob(LIST_OF[split]))
        if not lists:
            raise FetchFailed(f"UCF101: no {LIST_OF[split]} in {videos}; it is in {LISTS}")
        # Lines are "Class/video.avi"; in the training list the class's number follows.
        names = [
            line.split()[0]
            for line in lists[0].read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        lacking = [name for name in names if name.rpartition("/")[2] not in found]
        if lacking:
            raise FetchFailed(
                f"UCF101: {len(lacking)} of {len(names)} videos are not in {videos}, as"
                f" {lacking[0]}"
            )
        with published_folder(folder / split) as building:
            for name in names:
                path = (building / name).with_suffix(".jpg")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(jpeg(middle_frame(av, found[name.rpartition("/")[2]])))
        fetcher.say(f"UCF101, {split}: {len(names):,} middle frames in {folder}")


def middle_frame(av: Any, path: Path) -> Image.Image:
    """Return frame n // 2 of the n frames of a video, in RGB."""
    try:
        # Decode twice, to count and to reach the middle, instead of keeping all frames in memory.
        with av.open(str(path)) as video:
            count = sum(1 for _ in video.decode(video=0))
        with av.open(str(path)) as video:
            frame = next(itertools.islice(video.decode(video=0), count // 2, None), None)
    except (av.error.FFmpegError, IndexError) as error:
        raise FetchFailed(f"{path} is not a video ({error})") from None
    if frame is None:
        raise FetchFailed(f"{path} has no frames")
    return frame.to_image()


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise FetchFailed(
            f"frames of videos need PyAV, which is not installed: {remedy('eval')}"
        ) from None
    return av
