"""A run that somebody disturbs: input that changes, an output folder that goes, a disk that is
full."""

import ctypes
import fcntl
import os
import resource
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver.cli import main
from open_diht.pipelines.manifests.plan import PlanMismatch, keep_plan, make_plan
from open_diht.pipelines.runners import Direct
from open_diht.pipelines.store.commit import RunFailed, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.verify.command import main as verify
from tests.pipelines.conftest import Here

ROWS = 4_000
UNIT_ROWS = 1_000
QUICK: dict[str, Any] = {"stages": ("export",), "unit_rows": UNIT_ROWS}
UNIT = "00000-00002"
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of Linux


def write(path: Path, mark: str, rows: int = ROWS) -> Path:
    captions = [f"{mark} {n}: a brown dog runs after a red ball, {n * n}" for n in range(rows)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"n": range(rows), "caption": captions}), path, row_group_size=500)
    else:
        path.write_text(
            "n\tcaption\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(captions))
        )
    return path


def marks(result: Any) -> set[str]:
    """The versions whose rows are in the results."""
    return {row["caption"][0] for kind in ("kept", "rejected") for row in result.rows(kind)}


# ---- input that changes
@pytest.mark.parametrize("name", ["a.tsv", "a.parquet"])
@pytest.mark.parametrize("rows", [ROWS, ROWS // 2, None])
def test_input_that_changes_while_it_is_read(name, rows, tmp_path, filtering):
    """Overwritten, shortened or removed: nothing of it stays, the file is named, and once it is
    back the same command ends as if nothing had been."""
    path = write(tmp_path / name, "A")
    output = tmp_path / "out"
    other = write(tmp_path / f"other{path.suffix}", "C", 100)
    source = f"{path},{other}"
    first = filtering(source, output, **QUICK)
    assert first.status == 0 and marks(first) == {"A", "C"}
    before = first.tables()
    stamp = os.stat(path)
    Layout(output).commit("captions", UNIT).unlink()

    def change(line: str) -> None:
        if line.startswith("captions:"):  # it is about to do the one unit that is missing
            path.unlink() if rows is None else write(path, "B", rows)

    disturbed = filtering(source, output, on_line=change, **QUICK)
    assert disturbed.status == 1 and marks(disturbed) == {"C"}
    (error,) = disturbed.outcome.errors
    what = "is gone" if rows is None else "has changed since it was inspected"
    assert error.startswith(f"{path} {what}") and "none of its rows are in the results" in error
    funnel = disturbed.funnel
    assert funnel["rows_in"] == 100 + funnel["not_decided"]["rows"]
    assert (
        funnel["not_decided"]["units"]
        == len(list((output / "work" / "captions" / "data").iterdir())) - 1
    )
    assert funnel["not_decided"]["rows"] > ROWS / 2, "as many as were counted"
    if rows is not None:
        with pytest.raises(PlanMismatch, match=f"differs: {path}.*choose another OUTPUT"):
            filtering(source, output, **QUICK)
    write(path, "A")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = filtering(source, output, **QUICK)
    assert again.status == 0 and again.tables() == before


def test_input_that_changes_before_it_is_decided(
    tmp_path: Path, filtering: Callable[..., Any]
) -> None:
    """In its middle, its size and both ends as they were: only the time of the file tells."""
    path = write(tmp_path / "a.tsv", "A")
    output = tmp_path / "out"
    first = filtering(path, output, **QUICK)

    def change(line: str) -> None:
        if line.startswith("reusing the stored annotations"):  # it is about to decide all units
            with open(path, "r+b") as file:
                file.seek(100_000)
                file.write(b"X")

    disturbed = filtering(path, output, preset="captions: {max_chars: 45}", on_line=change, **QUICK)
    assert disturbed.status == 1 and not marks(disturbed)
    assert (
        disturbed.funnel["not_decided"]["rows"] == ROWS
        and not disturbed.funnel["not_decided"]["uncounted"]
    )
    (error,) = disturbed.outcome.errors
    assert error.startswith(f"{path} has changed since it was inspected")
    assert not (output / "work" / "captions" / "commits" / f"{UNIT}.json").exists()
    assert verify([str(output), "--sample", "0"]) == 0, (
        "the run has counted these rows, and forgot their annotations"
    )
    write(path, "A")
    again = filtering(path, output, **QUICK)
    assert again.status == 0 and again.tables() == first.tables()


def test_input_that_changes_after_it_was_read(
    tmp_path: Path, filtering: Callable[..., Any]
) -> None:
    """The results are whole, and of what it held; it is said, and its units are made anew."""
    path = write(tmp_path / "a.tsv", "A")
    output = tmp_path / "out"

    def change(line: str) -> None:
        if line.startswith("results in"):
            with open(path, "ab") as file:
                file.write(b"one more\tB\n")

    result = filtering(path, output, on_line=change, **QUICK)
    assert result.status == 1 and marks(result) == {"A"} and result.funnel["rows_in"] == ROWS
    (error,) = result.outcome.errors
    assert (
        error.startswith(f"{path} has changed")
        and "the results are from its earlier content" in error
    )
    write(path, "A")
    again = filtering(path, output, **QUICK)
    assert again.status == 0 and again.tables() == result.tables()
    assert not any("nothing to do: " in line for line in again.said)


# ---- units that are set aside
def test_rows_of_a_unit_that_is_set_aside_are_rows_in(
    tmp_path: Path, filtering: Callable[..., Any]
) -> None:
    path = write(tmp_path / "a.parquet", "A")
    output = tmp_path / "out"
    layout = Layout(output)
    keep_plan(layout.plan, make_plan(str(path), load_dataset("custom"), 1, UNIT_ROWS, output))
    layout.data("captions", UNIT).mkdir(parents=True)
    result = filtering(path, output, **QUICK)
    assert result.status == 1 and len(result.rows("kept")) == ROWS - UNIT_ROWS
    assert result.funnel["rows_in"] == ROWS
    assert result.funnel["not_decided"] == {"rows": UNIT_ROWS, "units": 1, "uncounted": 0}
    first = result.funnel["steps"][0]
    assert (first["reason"], first["lost"], first["left"]) == (
        "not_decided",
        UNIT_ROWS,
        ROWS - UNIT_ROWS,
    )
    assert any("not decided" in line and "25.0 %" in line for line in result.said)
    report = (output / "report.html").read_text()
    assert "do not add up" not in report and "set aside" in report


@pytest.mark.parametrize("unreadable", [0, 1])
def test_a_unit_that_cannot_be_exported_hides_no_unreadable_file(
    unreadable, tmp_path, tsv, with_images, filtering
):
    (tmp_path / "in").mkdir()
    tsv(tmp_path / "in" / "a.tsv", with_images(tmp_path / "in" / "images", 40))
    for number in range(unreadable):
        (tmp_path / "in" / f"broken{number}.parquet").write_bytes(b"<html>")
    obstacle = tmp_path / "out" / "shards" / "00000-00001-000.tar"
    (obstacle / "x").mkdir(parents=True)
    source = f"{tmp_path}/in/*.tsv" + f",{tmp_path}/in/*.parquet" * unreadable
    settings: dict[str, Any] = {"stages": ("export",), "unit_rows": 10}
    result = filtering(source, tmp_path / "out", **settings)
    assert result.status == 1 and result.funnel["set_aside"] == {"00000-00001": "export"}
    assert (
        result.funnel["not_decided"]["units"] == 0
        and result.funnel["kept"] == len(result.rows("kept")) == 40
    )
    assert (
        result.funnel["dead_letter"]["units"] == 1 + unreadable == len(result.rows("dead_letter"))
    )
    first, *more = result.outcome.errors
    assert first.startswith("failed: 1 unit, first 00000-00001 in stage export")
    assert len(more) == unreadable
    if unreadable:
        assert (
            more[0].startswith("1 part of the input could not be read")
            and "broken0.parquet" in more[0]
        )
    shutil.rmtree(obstacle)
    again = filtering(source, tmp_path / "out", **settings)
    assert (
        again.funnel["set_aside"] == {}
        and len(again.outcome.errors) == unreadable
        and obstacle.is_file()
    )


# ---- an output folder that goes
def test_an_output_folder_that_is_removed_is_named_at_once(
    tmp_path: Path, filtering: Callable[..., Any]
) -> None:
    path = write(tmp_path / "a.tsv", "A")
    output = tmp_path / "out"
    commits = Layout(output).commits("captions")
    calls = []

    def remove() -> None:
        while not commits.is_dir() or len(list(commits.glob("0*.json"))) < 3:
            time.sleep(0.001)
        os.rename(output, tmp_path / "removed")
        calls.append(1)

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    said = (
        f"OUTPUT {output} was removed or emptied.*remove {output}/work if .* run the same command"
    )
    with pytest.raises(RunFailed, match=said):
        filtering(path, output, stages=("export",), unit_rows=20)
    assert calls
    done = len(list((tmp_path / "removed" / "work" / "captions" / "commits").glob("0*.json")))
    assert done < ROWS // 20 // 2, "the units that were left were not begun"
    # There if a unit was being written at that moment.
    shutil.rmtree(output / "work", ignore_errors=True)
    again = filtering(path, output, stages=("export",), unit_rows=200)
    assert again.status == 0 and len(again.rows("kept")) == ROWS


# ---- a full disk
@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write larger files, as it would on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "name"),
    [(1_000, "plan.json"), (12_000, "croissant.json"), (16_000, "report.html")],
)
def test_a_file_that_the_driver_cannot_write(size, name, tmp_path, filtering):
    path = write(tmp_path / "a.tsv", "A", 100)
    output = tmp_path / "out"
    with (
        files_of_at_most(size),
        pytest.raises(RunFailed, match=rf"{name} cannot be written \(File too large\)"),
    ):
        filtering(path, output, stages=("export",), unit_rows=25)
    assert not list(output.rglob(f"*{name}*"))
    again = filtering(path, output, stages=("export",), unit_rows=25)
    assert again.status == 0 and len(again.rows("kept")) == 100


def words_on_a_disk(output: str, source: str, limit: str, stages: str) -> list[str]:
    """Mount a file system of its own, in a process whose mounts no other sees. Return the words of
    a run on it."""
    assert ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0
    for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", limit, "tmpfs", output]):
        subprocess.run(["mount", *words], check=True)
    given = {"--input": source, "--output": output, "--stages": stages, "--workers": "1"}
    return ["--dataset", "custom", *(word for pair in given.items() for word in pair)]


def on_a_small_disk(output: str, source: str) -> None:
    """A run on a file system that is too small, and again when it has room."""
    words = words_on_a_disk(output, source, "size=200k", "export")
    with patch.object(Direct, "run", Here.run):
        assert main([*words, "--unit-rows", str(UNIT_ROWS)]) == 1
        subprocess.run(["mount", "-o", "remount,size=64m", output], check=True)
        assert main([*words, "--unit-rows", str(UNIT_ROWS)]) == 0
    assert read_json(Path(output) / "funnel.json")["kept"] == ROWS


def on_a_disk_for_few_files(output: str, source: str) -> None:
    """The same on a file system that takes few files, with workers of Beam, which wraps their
    errors."""
    assert main(words_on_a_disk(output, source, "nr_inodes=14", "captions")) == 1


@pytest.mark.parametrize(
    "run",
    [
        pytest.param("on_a_small_disk"),
        pytest.param("on_a_disk_for_few_files", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(run, tmp_path, forks):
    """A file system of its own, so small that the run does not fit; then with room."""
    path = write(tmp_path / "a.tsv", "A")
    output = tmp_path / "out"
    output.mkdir()
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(output)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    forks.call(__file__, run, str(output), str(path), said=tmp_path / "said")
    said = (tmp_path / "said").read_text()
    (refusal,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "make room" in refusal.lower() and str(output) in refusal and "Traceback" not in said, (
        said
    )
    assert not [*output.iterdir()], "it was no file system of its own"


# ---- a disk that fails
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN: from then on, all calls give EIO
_WITHOUT_A_FLUSH = 2


def turn_read_only(folder: Path, device: str) -> None:
    """Report an error of the disk to the kernel, which then makes the file system read-only."""
    Path("/sys/fs/ext4", device, "trigger_fs_error").write_text("1")


def lose(folder: Path, device: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(handle, _SHUTDOWN, struct.pack("I", _WITHOUT_A_FLUSH))
    os.close(handle)


FAULTS = {"turn_read_only": "Make its file system writable again", "lose": "Check the disk"}


def mount_ext4(image: str, folder: str) -> str:
    """Mount an image of a file system, and return the name of the device."""
    subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, folder], check=True)
    found = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", folder], check=True, capture_output=True, text=True
    )
    return Path(found.stdout.strip()).name


def on_a_disk_that_fails(image: str, output: str, source: str, fault: str) -> None:
    """A run whose disk fails after the first unit, with workers of Beam; then the same on the disk
    as it came back."""
    assert ctypes.CDLL(None).unshare(_NEW_MOUNTS) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    device = mount_ext4(image, output)

    def fail_after_a_unit() -> None:
        while not list(Path(output).glob("work/captions/commits/0*.json")):
            time.sleep(0.005)
        globals()[fault](Path(output), device)

    thread = threading.Thread(target=fail_after_a_unit)
    thread.start()
    words = [
        "--dataset",
        "custom",
        "--input",
        source,
        "--output",
        output,
        "--stages",
        "export",
        "--workers",
        "2",
    ]
    assert main([*words, "--unit-rows", "100"]) == 1
    thread.join()
    subprocess.run(["umount", output], check=True)
    mount_ext4(image, output)
    assert main([*words, "--unit-rows", "100"]) == 0
    assert read_json(Path(output) / "funnel.json")["kept"] == ROWS


@pytest.fixture
def ext4(tmp_path: Path) -> Path:
    """An image of a file system of its own; skips where none can be mounted."""
    image = tmp_path / "disk.img"
    folder = tmp_path / "probe"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    mount = ["unshare", "--mount", "mount", "-o", "loop", str(image), str(folder)]
    try:
        for words in (["mkfs.ext4", "-q", str(image)], mount):
            subprocess.run(words, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no ext4 can be mounted here, which takes root and loop devices: {error}")
    return image


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.timeout(600)  # against the hang that it is about
@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_ends_the_run_with_its_remedy(fault, ext4, tmp_path, forks):
    path = write(tmp_path / "a.tsv", "A")
    output = tmp_path / "out"
    output.mkdir()
    forks.call(
        __file__,
        "on_a_disk_that_fails",
        str(ext4),
        str(output),
        str(path),
        fault,
        said=tmp_path / "said",
    )
    said = (tmp_path / "said").read_text()
    (refusal,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert FAULTS[fault] in refusal and str(output) in refusal, said
    assert "run the same command to resume" in refusal and "Traceback" not in said, said
