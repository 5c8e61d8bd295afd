"""Data sets of a hub as input: read at one commit, and errors of one line."""

import re
import sys

import pytest

from open_diht.common.hub import client
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.manifests import NoInput, expand_inputs, inspect, read, read_images, split
from open_diht.pipelines.manifests.plan import pinned
from tests.tars import tar_of

FILES = {
    "data/a.tsv": b"caption\nA dog runs\n",
    "data/b.tsv": b"caption\nA cat sleeps\n",
    "README.md": b"# Data",
}


def test_a_revision_becomes_the_commit_that_it_is_and_stays_it(hub):
    repository = hub.add("datasets/o/n", FILES)
    first = repository.branches["main"]
    repository.branches["v1"] = first
    pattern = "hf://datasets/o/n/data/*.tsv,hf://datasets/o/n@v1/data/a.tsv, local.tsv"
    place, pins = pinned(pattern, {})
    assert pins == {"hf://datasets/o/n": first, "hf://datasets/o/n@v1": first}
    assert (
        place
        == f"hf://datasets/o/n@{first}/data/*.tsv,hf://datasets/o/n@{first}/data/a.tsv,local.tsv"
    )
    second = repository.commit("main", {})
    assert pinned(pattern, {})[1]["hf://datasets/o/n"] == second
    assert pinned(pattern, pins) == (place, pins), "what a run began with holds"


def test_other_input_is_left_alone() -> None:
    assert pinned("s3://bucket/a.parquet,b.tsv", {}) == ("s3://bucket/a.parquet,b.tsv", {})


@pytest.mark.parametrize(
    "pattern", ["", "/data", "/data/*.tsv", "/data/{a..b}.tsv", "@main/**/*.tsv"]
)
def test_folders_and_globs(hub, pattern):
    commit = hub.add("datasets/o/n", FILES).branches["main"]
    place, _ = pinned(f"hf://datasets/o/n{pattern}", {})
    if "{" in pattern:
        with pytest.raises(NoInput, match="nothing matches"):
            expand_inputs(place, load_dataset("custom"))
        return
    names = [f"hf://datasets/o/n@{commit}/data/{name}.tsv" for name in "ab"]
    assert expand_inputs(place, load_dataset("custom")) == names


WRONG = {
    "a model": ("hf://o/n/a.tsv", "hf_good", "only data sets are read from a hub"),
    "a bucket": ("hf://buckets/o/n/a.tsv", "hf_good", "is not hf://datasets/owner/name"),
    "not there": (
        "hf://datasets/o/none",
        "hf_good",
        "does not exist, or is private and closed to the token in HF",
    ),
    "private": ("hf://datasets/o/private", "", "private and closed to a request without HF_TOKEN"),
    "gated": (
        "hf://datasets/o/gated",
        "",
        "is gated, and a request without HF_TOKEN has no access: ask for it",
    ),
    "revision": ("hf://datasets/o/n@v9/data", "hf_good", "the repository has no revision 'v9'"),
    "token": (
        "hf://datasets/o/n",
        "hf_wrong",
        "the token in HF_TOKEN may not do that, or is not valid",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_read_is_one_line(hub, kind, monkeypatch):
    pattern, token, says = WRONG[kind]
    hub.add("datasets/o/n", FILES)
    hub.add("datasets/o/private", FILES, asked={"private": True})
    hub.add("datasets/o/gated", FILES, gated=True)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(NoInput, match=re.escape(says)) as error:
        pinned(pattern, {})
    assert "\n" not in str(error.value)


def test_a_token_opens_what_is_private_or_gated(hub, monkeypatch):
    hub.add("datasets/o/private", FILES, asked={"private": True}, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    assert pinned("hf://datasets/o/private", {})[1]


def test_a_hub_that_cannot_be_asked(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        NoInput, match=r"hf://datasets/o/n: http://127.0.0.1:9 cannot be reached \(ConnectError"
    ):
        pinned("hf://datasets/o/n", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NoInput, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set; unset it"):
        pinned("hf://datasets/o/n", {})


def test_without_its_client_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NoInput, match=r"needs the package huggingface_hub: .* install .*\[cloud\]"):
        pinned("hf://datasets/o/n", {})


def test_rows_and_images_are_those_of_a_disk(hub, tmp_path):
    """From a tar, and from files beside a manifest; one that is not there is missing and nothing
    worse."""
    member = {
        "1.jpg": b"first image",
        "1.txt": b"A dog runs",
        "2.jpg": b"second image",
        "2.txt": b"A cat sleeps",
    }
    (tmp_path / "a.tar").write_bytes(tar_of(*member.items()))
    (tmp_path / "b.tsv").write_text(
        "caption\timage_path\nA dog\ti/1.jpg\nA cat\ti/none.jpg\nA cow\ti/2.jpg\n"
    )
    (tmp_path / "i").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "i" / name).write_bytes(member[name])
    there = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    commit = hub.add("datasets/o/n", there).branches["main"]
    dataset = load_dataset("custom")
    for name, rows in (("a.tar", 2), ("b.tsv", 3)):
        found = []
        for root in (str(tmp_path), f"hf://datasets/o/n@{commit}"):
            info = inspect(f"{root}/{name}", dataset)
            captions = [
                caption
                for span in split(info, 100)
                for batch in read(span, dataset)
                for caption in batch.captions
            ]
            images = [image for _, image in read_images(info, dataset, range(rows))]
            found.append(
                (
                    captions,
                    [image if isinstance(image, bytes) else image.reason for image in images],
                )
            )
        assert found[0] == found[1] and found[1][1][0] == b"first image"
    hub.before = lambda asked: "2.jpg" not in asked
    with pytest.raises(OSError, match="out of order"):  # and not a row without its image
        list(read_images(inspect(f"hf://datasets/o/n@{commit}/b.tsv", dataset), dataset, range(3)))


def test_bars_are_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("huggingface_hub.utils", reason="not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", None)
    try:
        for terminal in (True, False):
            utils.enable_progress_bars()
            monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
            client()
            assert utils.are_progress_bars_disabled() is not terminal
    finally:
        utils.enable_progress_bars()
