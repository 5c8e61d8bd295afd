"""One look at a file: what it tells, and which of two errors a bad file is."""

import base64
import bz2
import gzip
import io
import json
import random
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import BadSchema, UnreadableFile, inspect, read, split
from open_diht.pipelines.manifests.files import reading

CUSTOM = load_dataset("custom")
Write = Callable[[str, bytes], str]
TarOf = Callable[..., bytes]


def parquet(rows: int = 3, **options: object) -> bytes:
    buffer = io.BytesIO()
    table = pa.table(
        {
            "url": [f"http://x/{row}" for row in range(rows)],
            "text": [f"dog {row}" for row in range(rows)],
        }
    )
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def test_parquet(write: Write) -> None:
    content = parquet(10, row_group_size=4)
    info = inspect(write("a.parquet", content), CUSTOM)
    assert (info.format, info.rows, info.row_groups, info.bytes) == (
        "parquet",
        10,
        (4, 4, 2),
        len(content),
    )
    assert [(column.name, column.type) for column in info.columns] == [
        ("url", "string"),
        ("text", "string"),
    ]
    assert (info.roles.url, info.roles.caption) == ("url", "text")


def test_text_formats(write: Write) -> None:
    tsv = inspect(write("a.tsv", b"url\tcaption\nhttp://x\ta dog\n"), CUSTOM)
    assert (tsv.format, tsv.rows, tsv.estimated_rows, tsv.data_start) == ("tsv", None, 1, 12)
    csv = inspect(
        write("a.csv", b'url,"cap\ntion"\r\nhttp://x,a dog\r\n'),
        CUSTOM.with_roles(caption="cap\ntion"),
    )
    assert (csv.format, csv.data_start) == ("csv", 16)
    jsonl = inspect(
        write("a.jsonl", b'{"caption": "a", "n": 1, "f": 1.5, "b": true, "o": {"x": 1}}\n'), CUSTOM
    )
    assert [column.type for column in jsonl.columns] == [
        "string",
        "int64",
        "double",
        "bool",
        "string",
        "string",
    ]
    assert jsonl.columns[-1].name == "_extra"


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "oddly.named.tsv"])
def test_compression_is_told_from_the_bytes(write: Write, name: str) -> None:
    assert inspect(write(name, gzip.compress(b"caption\na dog\n")), CUSTOM).compression == "gzip"


def test_a_file_without_ending_is_told_from_its_bytes(write: Write, tar_of: TarOf) -> None:
    assert inspect(write("part-00000", parquet()), CUSTOM).format == "parquet"
    assert inspect(write("shard", tar_of(("1.txt", b"a dog"))), CUSTOM).format == "webdataset"
    path = write("rows", b"caption\na dog\n")
    with pytest.raises(BadSchema, match="neither the name nor the first bytes"):
        inspect(path, CUSTOM)
    assert inspect(path, CUSTOM.with_roles(format="tsv")).format == "tsv"


def test_the_fingerprint_changes_with_either_end_and_the_size(write: Write) -> None:
    middle = b"x" * 200_000
    contents = [
        b"caption\na" + middle + b"z\n",
        b"caption\nb" + middle + b"z\n",
        b"caption\na" + middle + b"y\n",
    ]
    contents.append(b"caption\na" + middle + b"xz\n")
    prints = [
        inspect(write(f"{index}.tsv", content), CUSTOM).fingerprint
        for index, content in enumerate(contents)
    ]
    assert len(set(prints)) == 4
    assert inspect(write("again.tsv", contents[0]), CUSTOM).fingerprint == prints[0]


def test_files_without_rows(write: Write) -> None:
    for name, content in (
        ("a.parquet", parquet(0)),
        ("a.tsv", b"caption\turl\n"),
        ("b.tsv", b"caption\turl"),
    ):
        info = inspect(write(name, content), CUSTOM)
        assert info.rows == 0
        assert list(read(info, CUSTOM)) == []


HTML = b"<!DOCTYPE html><html><body>404</body></html>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
UNREADABLE = {
    "zero bytes": ("a.parquet", b"", "EmptyFile", "0 bytes"),
    "zero bytes of text": ("a.tsv", b"", "EmptyFile", "0 bytes"),
    "only line ends": ("a.tsv", b"\n\r\n\n", "EmptyFile", "no line"),
    "a web page named parquet": ("a.parquet", HTML, "NotParquet", "a web page"),
    "a web page named tsv": ("a.tsv", HTML, "NotAManifest", "a web page"),
    "a web page named gz": ("a.tsv.gz", HTML, "NotCompressed", "a web page"),
    "a web page named tar": ("a.tar", HTML * 20, "BrokenTar", "no tar header at byte 0"),
    "a Git LFS pointer": ("a.parquet", LFS, "NotParquet", "git lfs pull"),
    "parquet without its end": ("a.parquet", parquet(1000)[:-100], "ArrowInvalid", ""),
    "parquet cut in half": ("a.parquet", parquet(1000)[:2000], "ArrowInvalid", ""),
    "parquet magic and nothing else": ("a.parquet", b"PAR1", "ArrowInvalid", ""),
    "parquet named tsv": ("a.tsv", parquet(), "NotAManifest", "the file is Parquet"),
    "CR alone": ("a.tsv", b"url\tcaption\rhttp://e.org\tA dog\r", "LineEnds", "tr '"),
    "CR alone, CSV": ("a.csv", b"url,caption\rhttp://e.org,A dog\r", "LineEnds", "tr '"),
    "encrypted Parquet": (
        "a.parquet",
        b"PARE" + b"\x00" * 90 + b"PARE",
        "Encrypted",
        "without encryption",
    ),
    "UTF-16": ("a.tsv", "caption\na dog\n".encode("utf-16"), "NotUtf8", "iconv"),
    "a binary header": ("a.tsv", b"caption\xff\t\x00url\na\tb\n", "NotText", "header"),
    "an unclosed quote in the header": ("a.csv", b'"caption,url\na,b\n', "NotText", "header"),
    "a gz cut in its first block": (
        "a.tsv.gz",
        gzip.compress(b"caption\na dog\n")[:12],
        "EOFError",
        "",
    ),
    "a bz2 that is none": ("a.tsv.bz2", b"BZhello", "OSError", ""),
    "an empty tar": ("a.tar", b"\0" * 1024, "EmptyTar", "no members"),
    "a tar cut in its first member": ("a.tar", b"", "BrokenTar", "ends inside"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files(case: str, write: Write, tar_of: TarOf) -> None:
    name, content, error, message = UNREADABLE[case]
    if case == "a tar cut in its first member":
        content = tar_of(("1.jpg", b"x" * 5000), ("1.txt", b"a dog"))[:2000]
    path = write(name, content)
    with pytest.raises(UnreadableFile) as caught:
        inspect(path, CUSTOM)
    assert (caught.value.path, caught.value.error) == (path, error)
    assert message in str(caught.value)


def test_encrypted_columns_are_named_before_they_are_read(tmp_path):
    """The footer can be read, and pyarrow ends the process where an encrypted column is looked
    at."""
    table = pa.table({"caption": ["A dog runs"], "n": [1]})
    keys = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["n"]}, plaintext_footer=True, data_key_length_bits=128
    )
    factory = encryption.CryptoFactory(lambda _: _NoKms())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), keys)
    with pq.ParquetWriter(
        tmp_path / "a.parquet", table.schema, encryption_properties=properties
    ) as writer:
        writer.write_table(table)
    with pytest.raises(UnreadableFile) as caught:
        inspect(str(tmp_path / "a.parquet"), CUSTOM)
    assert caught.value.error == "Encrypted" and "without encryption" in caught.value.message


class _NoKms(encryption.KmsClient):  # type: ignore[misc]
    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return base64.b64encode(key_bytes).decode()


def test_messages_of_libraries_become_one_line_that_prints() -> None:
    with pytest.raises(UnreadableFile) as caught, reading("a.parquet"):
        raise OSError("Invalid:\n  \x1b[31mbytes\x00\r\n\tof the file\n")
    assert caught.value.message == "Invalid: [31mbytes of the file"


def test_an_absent_file_and_a_folder(write: Write, tmp_path: object) -> None:
    with pytest.raises(UnreadableFile, match="FileNotFoundError"):
        inspect(f"{tmp_path}/absent.tsv", CUSTOM)
    with pytest.raises(UnreadableFile, match="this is a folder"):
        inspect(str(tmp_path), CUSTOM)


def test_the_error_survives_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(UnreadableFile("a", "OSError", "why")))
    assert (error.path, error.error, error.message) == ("a", "OSError", "why")


BAD_SCHEMA = {
    "no caption": ("custom", "a.tsv", b"url\tcomment\nhttp://x\tb\n", "no column for the caption"),
    "the same column twice": (
        "custom",
        "a.tsv",
        b"caption\tcaption\na\tb\n",
        "occurs more than once",
    ),
    "numbers for captions": (
        "custom",
        "a.jsonl",
        b'{"caption": 1}\n{"caption": 2}\n',
        "is int64, which cannot be",
    ),
    "an array of rows": ("custom", "a.json", b'[\n{"caption": "a"}\n]', "not JSON Lines"),
    "one array": (
        "custom",
        "a.json",
        json.dumps([{"caption": "a"}]).encode(),
        "one object per line",
    ),
    "lists of urls": (
        "custom",
        "a.jsonl",
        b'{"url": ["http://a"], "caption": ["b"]}\n',
        "cannot be the url",
    ),
    "data for a header": (
        "custom",
        "a.tsv",
        b"http://x/1\ta dog\nhttp://x/2\ta cat\n",
        "looks like data",
    ),
    "CSV named TSV": ("custom", "a.tsv", b"url,caption\nhttp://x,a\n", "--format csv"),
    "TSV named CSV": ("custom", "a.csv", b"url\tcaption\nhttp://x\ta\n", "--format tsv"),
    "the order of the other set": ("cc12m", "a.tsv", b"a dog\thttp://x\n", "--columns caption,url"),
    "a header where none should be": (
        "cc12m",
        "a.tsv",
        b"url\tcaption\nhttp://x\ta dog\n",
        "this line is a header",
    ),
    "no url at all": ("cc3m", "a.tsv", b"a dog\tanother\n", "starts with http"),
    "too many columns": ("cc3m", "a.tsv", b"a\tb\tc\n", "no line among the first 1 has 2 fields"),
}


@pytest.mark.parametrize("case", BAD_SCHEMA)
def test_bad_schemas(case: str, write: Write) -> None:
    dataset, name, content, message = BAD_SCHEMA[case]
    with pytest.raises(BadSchema, match=message) as caught:
        inspect(write(name, content), load_dataset(dataset))
    assert name in str(caught.value)


def test_a_broken_first_row_does_not_hide_the_order(write: Write) -> None:
    path = write("a.tsv", b"torn line\na dog\thttp://x\n")
    assert inspect(path, load_dataset("cc3m")).roles.url == "url"


def test_a_break_behind_the_beginning_is_left_to_reading(write: Write) -> None:
    content = b"caption\n" + b"".join(b"a dog %d\n" % row for row in range(200_000))
    for ending, packed in (("gz", gzip.compress(content)), ("bz2", bz2.compress(content))):
        info = inspect(write(f"a.tsv.{ending}", packed[: len(packed) // 2]), CUSTOM)
        assert info.roles.caption == "caption"


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.csv", r"Then pass --delimiter ';'"), ("a.tsv", r"Then pass --format csv --delimiter ';'")],
)
def test_semicolons_are_named(write: Write, name: str, said: str) -> None:
    with pytest.raises(BadSchema, match=said):
        inspect(write(name, b"url;caption\nhttp://x;a dog\n"), CUSTOM)


def test_a_column_of_bytes_that_is_named_as_caption_is_no_image(tmp_path):
    pq.write_table(pa.table({"image": [b"a dog"]}), tmp_path / "a.parquet")
    info = inspect(str(tmp_path / "a.parquet"), CUSTOM.with_roles(caption="image"))
    assert [batch.captions for batch in read(info, CUSTOM)] == [["a dog"]] and not info.images
    with pytest.raises(BadSchema, match="cannot be both image and caption"):
        inspect(str(tmp_path / "a.parquet"), CUSTOM.with_roles(caption="image", image="image"))


def test_a_line_without_end_that_is_taken_for_a_header_is_not_quoted_whole(write: Write) -> None:
    with pytest.raises(BadSchema, match="no column for the caption") as raised:
        inspect(write("a.csv", b"x" * 70_000 + b"," + b"y" * 70_000 + b"\n1,2\n"), CUSTOM)
    assert len(str(raised.value)) < 1_000


GERMAN = "bild;text des bildes;größe\nhttp://x/1.jpg;ein Hund;2\n"
ODD = {
    "UTF-16": (
        GERMAN.encode("utf-16"),
        {},
        ["iconv -f UTF-16", "--delimiter ';'", "bild, text des bildes, größe"],
    ),
    "Latin-1": (
        GERMAN.encode("latin-1"),
        {},
        ["iconv -f LATIN1", "--delimiter ';'", "--caption-column NAME"],
    ),
    "CR": (
        GERMAN.replace("\n", "\r").encode(),
        {},
        [r"tr '\r' '\n'", "--delimiter ';'", "--caption-column NAME"],
    ),
    "tabs": (GERMAN.replace(";", "\t").encode(), {}, ["--format tsv", "--caption-column NAME"]),
    "no header": (GERMAN.partition("\n")[2].encode(), {}, ["--delimiter ';'", "--columns a,b,..."]),
    "too few columns": (
        GERMAN.encode(),
        {"columns": ["url", "caption"]},
        ["--delimiter ';'", "the first has 3"],
    ),
    "names": (
        b"url,URL,n,n\n",
        {},
        ["'n' occurs more than once", "--url-column NAME", "--caption-column NAME"],
    ),
}


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
@pytest.mark.parametrize("case", ODD)
def test_all_problems_of_an_odd_table_are_reported_at_once(case, pack, write):
    content, roles, said = ODD[case]
    path = write("a.csv.gz" if pack is gzip.compress else "a.csv", pack(content))
    with pytest.raises((BadSchema, UnreadableFile)) as raised:
        inspect(path, CUSTOM.with_roles(**roles))
    message = str(raised.value)
    places = [message.find(one) for one in said]
    assert path in message and -1 not in places and places == sorted(places), message


def test_a_tar_of_images_alone_is_told_what_it_lacks(write: Write, tar_of: TarOf) -> None:
    path = write("a.tar", tar_of(("1.jpg", b"x"), ("2.png", b"y")))
    with pytest.raises(
        BadSchema, match=r"holds no captions: .*only members \.jpg, \.png.*<key>\.txt"
    ) as raised:
        inspect(path, CUSTOM)
    assert "_extra" not in str(raised.value)


@pytest.mark.parametrize("order", ["shuffled", "images last"])
@pytest.mark.parametrize("count", [5, 1_000])
def test_a_tar_in_no_order_is_refused_with_the_command_that_sorts_it(write, tar_of, order, count):
    members = [
        (f"./{row:04d}.{ending}", b"a dog")
        for row in range(count)
        for ending in ("jpg", "json", "txt")
    ]
    if order == "shuffled":
        random.Random(1).shuffle(members)
    else:
        members.sort(key=lambda member: member[0].endswith(".jpg"))
    path = write("a.tar", tar_of(*members))
    with pytest.raises(BadSchema, match=r"not next to each other.*tar --sort=name") as raised:
        inspect(path, CUSTOM)
    assert path in str(raised.value)


def test_incomplete_samples_and_equal_keys_are_no_disorder(write: Write, tar_of: TarOf) -> None:
    texts = tar_of(*((f"{row}.txt", b"a dog") for row in range(200)))
    assert not inspect(write("a.tar", texts + texts), CUSTOM).images
    late = [("7.txt", b"a dog")]  # appended for one sample, which costs that sample alone
    names = [f"{row}.{ending}" for row in range(9) for ending in ("jpg", "txt")]
    whole = [(name, b"a dog") for name in names if name != "7.txt"]
    assert inspect(write("b.tar", tar_of(*whole, *late)), CUSTOM).images


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_columns_without_number_are_refused(write: Write, name: str) -> None:
    rows = (json.dumps({f"m{row}-{n}": 0 for n in range(60)}) for row in range(200))
    content = "caption," * 20_000 if name == "a.csv" else "\n".join(rows)
    with pytest.raises(BadSchema, match=r"columns, more than 10000"):
        inspect(write(name, content.encode()), CUSTOM)


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress, bz2.compress])
@pytest.mark.parametrize("whole", [1, 2, 50])
def test_a_tar_that_breaks_early_is_planned_for_its_head(write, tar_of, whole, compress):
    parts = [
        tar_of((f"{row:03d}.jpg", bytes(700)), (f"{row:03d}.txt", b"a dog")) for row in range(whole)
    ]
    body = b"".join(part[: 512 * 5] for part in parts)  # without end markers
    path = write("a.tar", compress(body + tar_of(("x.jpg", bytes(5000)))[:900]))
    info = inspect(path, CUSTOM)
    [span] = split(info, 100)
    rows = 0
    with pytest.raises(UnreadableFile, match=r"ends inside|Truncated|ended prematurely"):
        for batch in read(span, CUSTOM):
            rows += batch.rows
    assert rows == whole
