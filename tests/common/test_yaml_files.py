"""YAML: what is refused is refused in one line with its place, and what is written is what is
read."""

from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from open_diht.common.yaml_files import BadYaml, parse_yaml, read_yaml

MERGED = """
base: &base {size: 1, colour: red}
inner: {deep: {mine: &mine {<<: *base, size: 2}}}
all: {<<: *mine, size: 3}
"""


def test_values_are_those_of_yaml() -> None:
    text = "a: 5e-4\nb: -1E+3\nc: 0x10\nd: 1e3x\ne: .nan\nf: {g: [1, two, null]}\n1: x\n'1': y\n"
    content = parse_yaml(text, "here")
    assert (content["a"], content["b"], content["c"], content["d"]) == (0.0005, -1000.0, 16, "1e3x")
    assert content["e"] != content["e"] and content["f"] == {"g": [1, "two", None]}
    assert (content[1], content["1"]) == ("x", "y")
    assert parse_yaml("", "here") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("010", "010"),
            ("-07", "-07"),
            ("1:30", "1:30"),
            ("1:30.5", "1:30.5"),
            ("10:00:00", "10:00:00"),
            ("0", 0),
        ],
        *[
            ("1_000", 1000),
            ("-12", -12),
            ("0x1F", 31),
            ("0b11", 3),
            ("0.5", 0.5),
            (".5", 0.5),
            ("1.", 1.0),
        ],
        *[
            ("-.inf", float("-inf")),
            ("1e3", 1000.0),
            ("08", "08"),
            ("1.2.3", "1.2.3"),
            ("00.5", 0.5),
        ],
        # `no` is Norwegian.
        *[
            ("no", "no"),
            ("on", "on"),
            ("Yes", "Yes"),
            ("off", "off"),
            ("y", "y"),
        ],
        *[("true", True), ("True", True), ("FALSE", False), ("false", False)],
    ],
)
def test_values_are_those_that_people_read(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}", "here")["a"]
    assert (read, type(read)) == (value, type(value))


@given(st.integers() | st.floats(allow_nan=False) | st.text("0123456789:_.-+xb", max_size=6))
def test_what_pyyaml_writes_is_read_as_it_was(value: object) -> None:
    # YAML 1.2 calls -.5 a number, and so do people; PyYAML writes the text without quotes.
    assume(not isinstance(value, str) or value[:2] not in ("-.", "+."))
    assert parse_yaml(yaml.safe_dump({"a": value}), "here") == {"a": value}


def test_a_merged_key_may_be_given_anew() -> None:
    assert parse_yaml(MERGED, "here")["all"] == {"size": 3, "colour": "red"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: key 'a' is given twice; remove one of them"),
        ("a: {b: 1, c: {}, b: 2}", "line 1, column 18: key 'b' is given twice; remove one of them"),
        ('"a\\nb": 1\n"a\\nb": 2', "key 'a b' is given twice; remove one of them"),
        ("- {x: 1}\n- {y: 1, y: 1}\n", "line 2, column 10: key 'y' is given twice"),
        ("a: [1, 2\nb: 3\n", "line 2, column 2: not YAML"),
        *[
            (f"a: !!{tagged}", "a value cannot be read")
            for tagged in ("bool no thing", "int ''", "timestamp foo")
        ],
        (
            "a: b: c\n",
            "line 1, column 5: not YAML, mapping values are not allowed here; write `key: value`",
        ),
        ("a:\n\tb: 1\n", "line 2, column 1: not YAML, found character"),
        ("a: 'open\n", "line 2, column 1: not YAML, found unexpected end of stream"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: not YAML"),
        ("a: *none\n", "line 1, column 4: not YAML, found undefined alias"),
        (
            "a: !!python/name:os.system x\n",
            "line 1, column 4: not YAML, could not determine a constructor",
        ),
        ("{[1]: 2}", "line 1, column 2: not YAML"),
        ("a: 1\nb: \x07\n", "line 2: not YAML, character U+0007; remove it"),
        ("[" * 5_000, "nested too deeply"),
        (f"a: {'9' * 5_000}", "a value cannot be read"),
        ("a: 2023-02-31", "a value cannot be read (day is out of range for month)"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(BadYaml) as error:
        parse_yaml(text, "mine.yaml")
    assert str(error.value).startswith("mine.yaml") and message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("ab1:-{}[]&*!|>'\"#%@`,?~ \n\t\x00é"), max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse_yaml(text, "mine.yaml")
    except BadYaml as error:
        assert "\n" not in str(error)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("a: é\n", encoding="utf-8")
    assert read_yaml(path) == {"a": "é"}
    path.write_bytes(b"a: \xe9\n")
    with pytest.raises(BadYaml, match=r"mine\.yaml is not UTF-8 text \(byte 3\); save it as such"):
        read_yaml(path)
    with pytest.raises(
        BadYaml, match=r"none\.yaml: No such file or directory; give the path of a readable file"
    ):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(BadYaml, match=r"Is a directory; give"):
        read_yaml(tmp_path)
