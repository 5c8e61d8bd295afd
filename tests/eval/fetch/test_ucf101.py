"""UCF101's images are the middle frames of its videos, by its own lists."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_diht.eval.data import Memo
from open_diht.eval.data.files import read_folder
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.download import Fetcher
from open_diht.eval.fetch.ucf101 import fetch_ucf101, middle_frame, unpack_rar

FRAMES = 7


def write_video(path: Path, shade: int) -> None:
    """FRAMES frames, each brighter than the one before, from `shade` on."""
    av = pytest.importorskip("av", reason="PyAV (extra `eval`) is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as video:
        stream = video.add_stream("mpeg4", rate=25)
        stream.width = 64
        stream.height = 48
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), shade + 10 * number, dtype=np.uint8)
            )
            video.mux(stream.encode(frame))
        video.mux(stream.encode())


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "videos"
    names = {"Archery": 20, "Apply": 120}
    for name, shade in names.items():
        for group in (1, 2):
            write_video(folder / "UCF-101" / name / f"v_{name}_g0{group}.avi", shade)
    lists = folder / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "testlist01.txt").write_text("".join(f"{name}/v_{name}_g01.avi\r\n" for name in names))
    (lists / "trainlist01.txt").write_text(
        "".join(f"{name}/v_{name}_g02.avi 1\r\n" for name in names)
    )
    return folder


def test_frames_of_both_lists_come_where_the_task_looks(tmp_path, videos):
    said: list[str] = []
    fetch_ucf101(tmp_path / "ucf101", Fetcher(tmp_path, said.append), videos)
    for split in ("test", "train"):
        data = read_folder(tmp_path / "ucf101", split, Memo(tmp_path / "hashes"), "ucf101")
        assert data.class_names == ("Apply", "Archery") and len(data) == 2
        shades = [np.asarray(data.images.open(index)).mean() for index in range(2)]
        assert shades == pytest.approx([120 + 10 * (FRAMES // 2), 20 + 10 * (FRAMES // 2)], abs=4)
    fetch_ucf101(tmp_path / "ucf101", Fetcher(tmp_path, said.append), videos)
    assert "already in" in said[-1]


def test_zero_shot_takes_the_test_list_alone(tmp_path, videos):
    fetch_ucf101(tmp_path / "ucf101", Fetcher(tmp_path, print, zero_shot=True), videos)
    assert [path.name for path in (tmp_path / "ucf101").iterdir()] == ["test"]


def test_a_video_that_lacks_or_is_none_is_named_and_no_split_appears(tmp_path, videos):
    av: Any = pytest.importorskip("av")
    gone = videos / "UCF-101" / "Apply" / "v_Apply_g01.avi"
    gone.write_bytes(b"no video")
    with pytest.raises(FetchFailed, match=r"v_Apply_g01\.avi is not a video"):
        middle_frame(av, gone)
    gone.unlink()
    with pytest.raises(FetchFailed, match=r"1 of 2 videos are not in .*v_Apply_g01"):
        fetch_ucf101(tmp_path / "ucf101", Fetcher(tmp_path, print), videos)
    assert not (tmp_path / "ucf101").exists()


def test_without_a_decoder_or_an_unpacker_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(FetchFailed, match=r"install .*eval"):
        fetch_ucf101(tmp_path / "ucf101", Fetcher(tmp_path, print))
    monkeypatch.setattr("open_diht.eval.fetch.ucf101._pyav", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchFailed, match="none of bsdtar, unrar, 7z is on PATH"):
        fetch_ucf101(tmp_path / "ucf101", Fetcher(tmp_path, print))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not any(map(shutil.which, ("bsdtar", "unrar", "7z"))), reason="no program that unpacks archives"
)
def test_an_archive_that_is_none_is_told(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"no archive")
    with pytest.raises(FetchFailed, match="could not be unpacked"):
        unpack_rar(tmp_path / "a.rar", tmp_path / "out")
