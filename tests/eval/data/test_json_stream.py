"""A list of a large JSON file, one element at a time, as the whole file would give it."""

import json

import pytest

from open_diht.eval.data import json_stream
from open_diht.eval.data.json_stream import elements

VALUE = {
    "info": {"about": 'a "list": [1, 2]', "n": [1, 2, {"list": 3}]},
    "list": [{"a": "\u00e9\u4e2d\\"}, 12345, -1.5e10, "text", None, [], {"b": [True]}],
    "empty": [],
    "behind": "x",
}


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_it_is_the_list_however_little_is_read_at_once(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    (tmp_path / "x.json").write_text(json.dumps(VALUE, indent=indent), encoding="utf-8")
    for name in ("list", "empty"):
        assert list(elements(tmp_path / "x.json", name)) == VALUE[name]


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{}", '{"list": 3}', '{"other": []}', '{"list": [1, 2', '{"list": [{"a": 1}, {"b',
        '{"list": [1 2]}', '{"list": [1]', '{"list": [1], "x', '{"list": [1], "x": [2',
        '{"list": [1], "x": 2',
    ],
)  # fmt: skip
def test_what_has_no_such_list_or_is_cut_off_is_an_error(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(json.JSONDecodeError):
        list(elements(tmp_path / "x.json", "list"))
