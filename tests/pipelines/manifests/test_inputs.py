"""From what people type to a list of files."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import (
    NoInput,
    check_loose_images,
    expand_inputs,
    inspect,
    read_images,
)
from tests.pipelines.processes import REPOSITORY, captured

CUSTOM = load_dataset("custom")
Write = Callable[[str, bytes], str]


def names(pattern: str, name: str = "custom") -> list[str]:
    return [Path(path).name for path in expand_inputs(pattern, load_dataset(name))]


def test_a_file_a_folder_a_glob_and_a_list(write: Write, tmp_path: Path) -> None:
    for name in (
        "b.tsv",
        "a.tsv",
        "c.parquet",
        "notes.md",
        "_SUCCESS",
        ".a.tsv.crc",
        "00_stats.json",
    ):
        write(name, b"x")
    assert names(f"{tmp_path}/a.tsv") == ["a.tsv"]
    assert names(str(tmp_path)) == ["a.tsv", "b.tsv", "c.parquet"]
    assert names(f"{tmp_path}/*.tsv") == ["a.tsv", "b.tsv"]
    assert names(f"{tmp_path}/c.parquet, {tmp_path}/*.tsv,{tmp_path}/a.tsv") == [
        "a.tsv",
        "b.tsv",
        "c.parquet",
    ]
    assert names(f"file://{tmp_path}/a.tsv") == ["a.tsv"]


def test_a_folder_gives_the_files_of_the_set_first(write: Write, tmp_path: Path) -> None:
    for name in ("manifest.tsv", "expected.tsv"):
        write(name, b"x")
    assert names(str(tmp_path), "sample") == ["manifest.tsv"]
    assert names(str(tmp_path), "laion2b") == ["expected.tsv", "manifest.tsv"]


def test_folders_below_are_searched_where_the_folder_itself_has_nothing(
    write: Write, tmp_path: Path
) -> None:
    write("part/0/a.parquet", b"x")
    write("_temporary/0/b.parquet", b"x")
    assert names(str(tmp_path)) == ["a.parquet"]


def test_a_folder_is_no_pattern(write: Write, tmp_path: Path) -> None:
    write("run [1]*/a.parquet", b"x")
    write("run [2]*/part/0/b.parquet", b"x")
    assert names(f"{tmp_path}/run [1]*") == ["a.parquet"]
    assert names(f"{tmp_path}/run [2]*") == ["b.parquet"]


@pytest.mark.parametrize("pattern", ["", "/*.parquet", "/b.parquet"])
def test_a_link_that_leads_nowhere_is_named(write: Write, tmp_path: Path, pattern: str) -> None:
    write("a.parquet", b"x")
    (tmp_path / "notes.md").symlink_to("nowhere")
    assert names(str(tmp_path)) == ["a.parquet"], "what is no manifest may lead anywhere"
    (tmp_path / "b.parquet").symlink_to("annex/b")
    with pytest.raises(
        NoInput,
        match=r"b\.parquet' is a link to 'annex/b', which is not there or cannot be accessed",
    ):
        names(f"{tmp_path}{pattern}")


def test_a_numbered_range(write: Write, tmp_path: Path) -> None:
    for number in range(8, 12):
        write(f"{number:05d}.tar", b"x")
    assert names(f"{tmp_path}/{{00009..00011}}.tar") == ["00009.tar", "00010.tar", "00011.tar"]
    with pytest.raises(NoInput, match=r"nothing matches .*00012\.tar"):
        names(f"{tmp_path}/{{00011..00012}}.tar")
    with pytest.raises(NoInput, match="runs backwards"):
        names(f"{tmp_path}/{{00011..00009}}.tar")


def test_a_name_with_a_comma_is_one_file(write: Write) -> None:
    path = write("a,b.tsv", b"x")
    assert expand_inputs(path, CUSTOM) == [path]


def test_relative_paths_become_absolute(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.tsv", b"x")
    monkeypatch.chdir(tmp_path)
    assert expand_inputs("*.tsv", CUSTOM) == [str(tmp_path / "a.tsv")]


def test_urls(tmp_path: Path) -> None:
    folder = f"memory://{uuid.uuid4().hex}"
    with fsspec.open(f"{folder}/x/a.tsv", "wb") as handle:
        handle.write(b"x")
    [path] = expand_inputs(f"{folder}/x/*.tsv", CUSTOM)
    assert path.startswith("memory://") and path.endswith("/x/a.tsv")
    assert expand_inputs(f"{folder}/x", CUSTOM) == [path]
    assert expand_inputs(path, CUSTOM) == [path]
    with pytest.raises(NoInput, match=r"x', holds a\.tsv"):
        expand_inputs(f"{folder}/x/*.csv", CUSTOM)


def test_nothing_found_says_what_is_there(write: Write, tmp_path: Path) -> None:
    write("laion/a.parquet", b"x")
    with pytest.raises(
        NoInput,
        match=rf"nearest folder that exists, '{tmp_path}', holds laion \(did you mean 'laion'\?\)",
    ):
        expand_inputs(f"{tmp_path}/lain/*.parquet", CUSTOM)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInput, match=r"the folder .* has no file .*it holds nothing"):
        expand_inputs(f"{tmp_path}/empty", CUSTOM)
    write("set/notes.doc", b"x")
    with pytest.raises(NoInput, match=r"the folder .* has no file .*it holds notes\.doc"):
        expand_inputs(f"{tmp_path}/set", CUSTOM)


def test_the_same_rows_twice_are_refused(write: Write, tmp_path: Path) -> None:
    write("00000.tar", b"x")
    write("00000.parquet", b"x")
    with pytest.raises(NoInput, match="writes the same rows to both; name only one"):
        expand_inputs(str(tmp_path), CUSTOM)
    assert names(f"{tmp_path}/*.tar") == ["00000.tar"]


@pytest.mark.parametrize("given", ["{}", "{}/00000", "{}/*/*.json", "{}/*.parquet"])
def test_img2datasets_loose_files_are_read_from_the_tar_that_the_message_makes(
    write, tmp_path, given
):
    """Its layout `files`: the Parquet file has the URLs, and the folder of its name the images."""
    for row in range(3):
        item = {"url": f"http://x/{row}", "caption": "a dog", "key": f"{row:09d}"}
        for ending, content in (
            ("jpg", f"image {row}"),
            ("txt", "a dog"),
            ("json", json.dumps(item, indent=4)),
        ):
            write(f"00000/{row:09d}.{ending}", content.encode())
    write("00000_stats.json", b"{}")
    if "json" not in given:
        pq.write_table(
            pa.table({"url": ["http://x/0"], "caption": ["a dog"]}), tmp_path / "00000.parquet"
        )
    with pytest.raises(NoInput, match="tar --sort=name") as raised:
        check_loose_images(
            [inspect(path, CUSTOM) for path in expand_inputs(given.format(tmp_path), CUSTOM)]
        )
    command = str(raised.value).rpartition(": ")[2]
    subprocess.run(shlex.split(command), check=True, timeout=60)
    [path] = expand_inputs(f"{tmp_path}/*.tar", CUSTOM)
    info = inspect(path, CUSTOM)
    assert info.images and info.roles.url == "url"
    assert dict(read_images(info, CUSTOM, [0, 2])) == {0: b"image 0", 2: b"image 2"}


def test_tables_next_to_images_are_read(write: Write, tmp_path: Path) -> None:
    write("set/0.jpg", b"x")
    write("set/0.txt", b"x")
    for name, columns in (("set", {"image_path": ["set/0.jpg"]}), ("other", {"n": [1]})):
        table = pa.table({"url": ["http://x"], "caption": ["a dog"], **columns})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    write("captions.json", b'{"caption": "a dog"}')
    write("captions.txt", b"x")
    paths = expand_inputs(str(tmp_path), CUSTOM)
    assert len(paths) == 3
    check_loose_images([inspect(path, CUSTOM) for path in paths])


def test_a_folder_of_images_and_texts_is_packed_first(write: Write, tmp_path: Path) -> None:
    write("set/0.jpg", b"x")
    write("set/0.txt", b"x")
    with pytest.raises(
        NoInput, match=rf"tar --sort=name -cf {tmp_path}/set\.tar -C {tmp_path}/set \."
    ):
        expand_inputs(f"{tmp_path}/set/", CUSTOM)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("", "is empty; name a file"),
        ("  ", "name a file"),
        (",,,", "has nothing between its commas"),
        ("foo://bucket/x", r"Protocol not known.*s3://bucket/folder"),
        ("/dev/zero", "'/dev/zero' is not a regular file"),
    ],
)
def test_what_names_no_file_says_what_would(pattern: str, said: str) -> None:
    with pytest.raises(NoInput, match=said):
        expand_inputs(pattern, CUSTOM)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tsv")
    with pytest.raises(NoInput, match="not a regular file"):
        expand_inputs(str(tmp_path / "a.tsv"), CUSTOM)


def test_a_quoted_tilde_is_the_home_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("set/a.tsv", b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_inputs("~/set/*.tsv", CUSTOM) == expand_inputs("~/set", CUSTOM) == [path]


AS_NOBODY = """
import os, sys
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import NoInput, expand_inputs

custom = load_dataset("custom")
expand_inputs(sys.argv[1] + "/open/a.tsv", custom)  # imports what it needs while that can be read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    print(expand_inputs(sys.argv[2], custom))
except NoInput as error:
    print(error)
"""


@pytest.mark.parametrize("pattern", ["{}", "{}/**/*.tsv", "{}/*/*.tsv"])
def test_a_folder_that_cannot_be_listed_is_named(pattern: str) -> None:
    # pytest's own folders are closed to everybody else, and TMPDIR may lie in one that is.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        for name in ("open", "shut"):
            (Path(folder) / name).mkdir()
            (Path(folder) / name / "a.tsv").write_bytes(b"x")
        (Path(folder) / "shut").chmod(0)
        done = captured(
            [sys.executable, "-c", AS_NOBODY, folder, pattern.format(folder)],
            cwd=REPOSITORY,
            timeout=60,
        )
        (Path(folder) / "shut").chmod(0o755)
    assert f"the folder '{folder}/shut' cannot be listed (Permission denied)" in done.stdout, (
        done.stderr
    )
    assert "chmod u+rx" in done.stdout
