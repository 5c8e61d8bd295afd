"""Whole runs over manifests that have only urls, against a server on this machine."""

import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_diht.common.command_line import WrongUse
from open_diht.filters.presets import load_preset
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.manifests.plan import load_plan
from open_diht.pipelines.pilot.measure import measure
from open_diht.pipelines.settings import STAGES, ScoreSettings
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.verify.command import main as verify
from tests.pipelines.conftest import members_of
from tests.pipelines.kills import Moment, check_kills
from tests.pipelines.processes import ForkedStarter

pytest.importorskip("img2dataset", reason="img2dataset is not installed: pip install '.[download]'")

SENTENCE = "A brown dog runs after a red ball"
WITHOUT_OCR = ("captions", "download", "export")
Rows = list[dict[str, Any]]


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    with patch("socket.getaddrinfo", side_effect=socket.gaierror(socket.EAI_AGAIN, "no network")):
        yield


def _shards(output: Path) -> dict[str, bytes]:
    tars = map(members_of, (output / "shards").glob("*.tar"))
    named = (
        member
        for tar in tars
        for member in tar.items()
        if not member[0].endswith((".txt", ".json"))
    )
    return {name.partition("-")[0]: content for name, content in named}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Runs over manifests of urls, without OCR where nothing else is said."""

    folder: Path
    settings: DownloadSettings
    write: Callable[..., Path]
    filtering: Callable[..., Any]

    def manifest(self, rows: Rows, name: str = "urls.tsv") -> Path:
        return self.write(self.folder / name, rows)

    def __call__(self, manifest: Path, output: str = "out", **more: Any) -> Any:
        return self.filtering(
            manifest,
            self.folder / output,
            **{"stages": WITHOUT_OCR, "download": self.settings, **more},
        )

    def records(self, output: str = "out") -> Path:
        return self.folder / output / "work" / "download"


@pytest.fixture
def runs(
    polite: DownloadSettings,
    tsv: Callable[..., Path],
    tmp_path: Path,
    filtering: Callable[..., Any],
) -> Runs:
    return Runs(tmp_path, polite, tsv, filtering)


def numbered(urls: Iterable[str]) -> Rows:
    """A row of each url, whose caption passes."""
    return [
        {"n": n, "caption": f"{SENTENCE}, number {n}", "url": url} for n, url in enumerate(urls)
    ]


@pytest.mark.slow
def test_urls_give_what_images_at_hand_give(
    web, polite, captions, draw, tsv, tmp_path, filtering, ocr_models
):
    """Also where a run without the stage came before, and one without it comes after."""
    (tmp_path / "images").mkdir()
    rows: Rows = []
    for n in range(18):
        text = ("", "SALE 50% OFF", captions[n][:20])[n % 3]
        size = (320, 64)
        caption = captions[n]
        if n == 7:
            # 512 x 9 once reduced, where 10 is the least side.
            size = (1_600, 28)
            caption = SENTENCE
        body = draw(tmp_path / "images" / f"{n}.jpg", text, size).read_bytes()
        url = web.page(f"/{n}.jpg", body)
        rows.append({"n": n, "caption": caption, "url": url, "image_path": f"images/{n}.jpg"})
    with_paths = tsv(tmp_path / "at_hand.tsv", rows)
    urls = tsv(
        tmp_path / "urls.tsv", [{k: v for k, v in row.items() if k != "image_path"} for row in rows]
    )
    own = "captions: {min_complexity: 1}"  # as paper, but foresees no other preset
    more = {"unit_rows": 9, "download": polite, "preset": own}

    at_hand = filtering(with_paths, tmp_path / "at_hand", **more)
    assert not web.asked and "download" not in at_hand.funnel["stages"]
    with pytest.raises(WrongUse, match="add download to --stages"):
        filtering(urls, tmp_path / "out", stages=("captions", "spotting", "export"), **more)
    assert not web.asked and not (tmp_path / "out").exists()

    # The images of rows that an earlier preset rejected were not downloaded.
    none = {**more, "preset": "captions: {min_complexity: 99}"}
    filtering(urls, tmp_path / "out", stages=("captions", "download"), **none)
    before = filtering(urls, tmp_path / "out", stages=("captions", "spotting", "export"), **more)
    assert not web.asked and set(before.verdicts().values()) == {
        "image_not_available",
        "action",
        "complexity",
    }
    assert any("add download to --stages" in line for line in before.said)

    result = filtering(urls, tmp_path / "out", **more)
    assert result.verdicts() == at_hand.verdicts() and result.verdicts()["7"] == "kept"
    assert {"kept", "text_spotting", "action"} <= set(result.verdicts().values())
    kept = [
        {k: v for k, v in row.items() if k != "image_path"}
        for row in at_hand.rows("kept")
        if row["n"] != "7"
    ]
    same = [row for row in result.rows("kept") if row["n"] != "7"]
    assert sorted(same, key=repr) == sorted(kept, key=repr), "spotted, scores and all"
    # The wide image was reduced to be stored; all that is said of it is in pixels of the original.
    sizes, boxes = zip(*(_read_of(tmp_path / name, 7) for name in ("out", "at_hand")), strict=True)
    assert sizes[0] == sizes[1] == (1_600, 28)
    assert boxes[0] == [] or max(x for x, _ in boxes[0]) > 512
    shards = _shards(tmp_path / "out"), _shards(tmp_path / "at_hand")
    assert shards[0].keys() == shards[1].keys()
    small = {uid for uid, body in shards[1].items() if Image.open(io.BytesIO(body)).width <= 512}
    assert small and all(shards[0][uid] == shards[1][uid] for uid in small)
    passed = [n for n, verdict in result.verdicts().items() if verdict in ("kept", "text_spotting")]
    assert sorted(web.asked) == sorted(f"/{n}.jpg" for n in passed), (
        "only survivors of the captions, each once"
    )
    assert result.funnel["seconds"].keys() >= {"download"}

    again = filtering(urls, tmp_path / "out", **more)
    assert again.did_nothing
    offline = filtering(urls, tmp_path / "out", stages=("captions", "spotting", "export"), **more)
    assert offline.verdicts() == result.verdicts() and offline.rows("kept") == result.rows("kept")
    assert len(web.asked) == len(passed), "what was downloaded is at hand"


def test_a_pilot_without_ocr_measures_the_images_that_were_fetched(web, make_jpeg, runs):
    bodies = [make_jpeg((n + 40, 30)) for n in range(4)]
    urls = [web.page(f"/{n}.jpg", body) for n, body in enumerate(bodies)]
    runs(runs.manifest(numbered([*urls, web.url("/missing.jpg")])), stages=("captions", "download"))
    layout = Layout(runs.folder / "out")
    [measured] = measure(layout, load_plan(layout.plan), load_preset("paper"), 5)
    assert (measured.images, measured.image_bytes) == (4, sum(map(len, bodies)))


def _read_of(output: Path, ordinal: int) -> tuple[tuple[int, int], list[list[float]]]:
    """Size of the image of a row of the first unit, and the corners of what was read in it."""
    tables = sorted((output / "work" / "spotting" / "data").glob("00000-00000.*.parquet"))
    record = [
        row
        for path in tables
        for row in pq.read_table(path).to_pylist()
        if row["ordinal"] == ordinal
    ][-1]
    return (record["width"], record["height"]), [
        corner for line in record["spotted"] for corner in line["box"]
    ]


def test_only_files_without_images(
    web: Any, draw: Callable[..., Path], tmp_path: Path, runs: Runs
) -> None:
    """A manifest that comes with its images is left alone, also where it names urls and has lost an
    image."""
    (tmp_path / "in").mkdir()
    body = draw(tmp_path / "in" / "here.jpg", "").read_bytes()
    for name in ("/0", "/1", "/2"):
        web.page(name, body)
    paths = [
        {"n": n, "caption": f"{SENTENCE} {n}", "url": web.url(f"/{n}"), "image_path": "here.jpg"}
        for n in (0, 1)
    ]
    paths[1]["image_path"] = ""
    runs.manifest(paths, "in/a.tsv")
    runs.manifest([{"n": 2, "caption": f"{SENTENCE} 2", "url": web.url("/2")}], "in/b.tsv")
    result = runs(tmp_path / "in")
    assert web.asked == ["/2"]
    assert result.verdicts() == {"0": "kept", "1": "kept", "2": "kept"}
    assert len(_shards(tmp_path / "out")) == 2, "of the images at hand"


def _page(
    web: Any, draw: Callable[..., Path], folder: Path
) -> dict[str, tuple[str | None, str, dict[str, str]]]:
    """Address, verdict and more columns of a row, by name."""
    body = draw(folder / "any.jpg", "").read_bytes()
    no = [("X-Robots-Tag", "noai")]
    inside = [("Location", "http://169.254.169.254/latest/meta-data/")]
    return {
        "good": (web.page("/good", body), "kept", {}),
        "good too": (
            web.page("/good2", body),
            "kept",
            {"sha256": hashlib.sha256(body).hexdigest()},
        ),
        "gone": (web.url("/gone"), "http_status", {}),
        "swapped": (web.page("/swapped", body), "hash_mismatch", {"sha256": "0" * 64}),
        "no, thanks": (web.page("/no", body, *no), "opt_out", {}),
        "html": (web.page("/html", b"<html></html>"), "not_an_image", {}),
        "metadata": ("http://169.254.169.254/latest/meta-data/", "blocked_address", {}),
        "metadata by redirect": (web.page("/go", b"", *inside, status=302), "blocked_address", {}),
        "loopback": ("http://2130706433/a.jpg", "blocked_address", {}),
        "ssh": (f"http://{web.place.partition(':')[0]}:22/", "blocked_port", {}),
        "file": ("file:///etc/passwd", "bad_url", {}),
        "no url": ("", "bad_url", {}),
        "too large": (web.page("/large", b"\xff\xd8" + b"x" * 3_000_000), "too_large", {}),
    }


def test_failures_are_rejects_with_a_reason(
    web: Any, draw: Callable[..., Path], tmp_path: Path, runs: Runs
) -> None:
    pages = _page(web, draw, tmp_path)
    rows: Rows = [
        {"n": name, "caption": f"{SENTENCE}, number {index}", "url": url, "sha256": "", **more}
        for index, (name, (url, _, more)) in enumerate(pages.items())
    ]
    rows.append(
        {"n": "boring", "caption": "Blue mug", "url": web.page("/boring", b"x"), "sha256": ""}
    )
    manifest = runs.manifest(rows)
    result = runs(manifest)
    expected = {name: verdict for name, (_, verdict, _) in pages.items()} | {"boring": "action"}
    assert result.verdicts() == expected
    assert result.status == 0 and not result.rows("dead_letter")
    for row in result.rows("rejected"):
        assert row["stage"] == ("captions" if row["n"] == "boring" else "download")
        assert row["spotted"] is None and row["overlap"] is None
    counts = Counter(verdict for verdict in expected.values() if verdict not in ("kept", "action"))
    steps = {
        step["reason"]: step["rejected"]
        for step in result.funnel["steps"]
        if step["stage"] == "download"
    }
    assert steps == counts
    assert (
        result.funnel["kept"]
        == 2
        == len(_shards(tmp_path / "out"))
        == result.funnel["steps"][-1]["left"]
    )
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "404 Not Found" in report and "not used for training" in report
    record = json.loads((runs.records() / "commits" / "00000-00000.0000.json").read_text())
    assert record["statuses"] == {**counts, "ok": 2} and record["urls"] == len(pages)
    (table,) = (runs.records() / "data").glob("*.parquet")
    said = {row["url"]: row for row in pq.read_table(table).to_pylist()}
    assert len(said) == len(pages) and said[web.url("/gone")]["message"] == "404 Not Found"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["models"]["download"][
        "allow"
    ] == [web.place]


def test_robots_txt_is_obeyed_by_a_run_and_by_the_next_unless_it_is_to_be_ignored(
    web: Any, make_jpeg: Callable[..., bytes], tmp_path: Path, runs: Runs
) -> None:
    """What was decided stays decided when the file changes; another setting asks for all rows."""
    web.page("*", make_jpeg())
    web.page("/robots.txt", b"User-agent: *\nDisallow: /no/")
    urls = [web.url(path) for path in ("/a.jpg", "/no/b.jpg", "/no/c.jpg", "/d.jpg")]
    manifest = runs.manifest(numbered(urls))
    first = runs(manifest, unit_rows=2)
    verdicts = {"0": "kept", "1": "robots_denied", "2": "robots_denied", "3": "kept"}
    assert first.status == 0 and first.verdicts() == verdicts
    assert sorted(web.asked) == ["/a.jpg", "/d.jpg"]
    assert first.funnel["rejected"] == {"robots_denied": 2}
    tables = [
        pq.read_table(path).to_pylist() for path in (runs.records() / "data").glob("*.parquet")
    ]
    messages = {row["url"]: row["message"] for table in tables for row in table}
    assert messages[urls[1]] == messages[urls[2]] == "robots.txt: Disallow: /no/"
    out = tmp_path / "out"
    for name in ("report.html", "README.md"):
        assert "robots.txt obeyed" in (out / name).read_text(encoding="utf-8")
    used = json.loads((out / "run.json").read_text())["models"]["download"]
    assert used["respect_robots"] is True

    web.pages.pop("/robots.txt")
    web.asked.clear()
    assert runs(manifest, unit_rows=2).tables() == first.tables() and not web.asked
    assert verify([str(out)]) == 0

    web.page("/robots.txt", b"User-agent: *\nDisallow: /")
    ignoring = dataclasses.replace(runs.settings, respect_robots=False)
    assert set(runs(manifest, unit_rows=2, download=ignoring).verdicts().values()) == {"kept"}
    assert len(web.asked) == 4
    assert "robots.txt ignored" in (out / "report.html").read_text(encoding="utf-8")
    assert "robots.txt ignored" in (out / "README.md").read_text(encoding="utf-8")
    denied = runs(manifest, unit_rows=2)
    assert set(denied.verdicts().values()) == {"robots_denied"} and len(web.asked) == 4
    assert "--download-ignore-robots" in denied.outcome.errors[-1]


def test_a_preset_that_lets_more_through_downloads_only_what_is_missing(
    web, captions, make_jpeg, tmp_path, runs
):
    rows = [
        {"n": n, "caption": captions[n], "url": web.page(f"/{n}", make_jpeg())} for n in range(40)
    ]
    rows.append({"n": 40, "caption": SENTENCE, "url": web.url("/gone")})
    manifest = runs.manifest(rows)
    narrow = "captions: {min_complexity: 2, max_chars: 60}"

    def run(output: str, preset: str) -> tuple[Any, list[str]]:
        before = len(web.asked)
        return runs(manifest, output, preset=preset, unit_rows=20), web.asked[before:]

    first, asked = run("out", narrow)
    wide, then = run("out", "paper")
    fresh, at_once = run("fresh", "paper")
    assert asked and then and not set(asked) & set(then)
    assert sorted(asked + then) == sorted(at_once)
    assert wide.tables() == fresh.tables() and _shards(tmp_path / "out") == _shards(
        tmp_path / "fresh"
    )
    back, nothing = run("out", narrow)
    assert back.tables() == first.tables() and not nothing


def test_other_sizes_are_downloaded_anew(
    web: Any, make_jpeg: Callable[..., bytes], tmp_path: Path, runs: Runs
) -> None:
    """And other limits are not: they only change what fails."""
    manifest = runs.manifest(
        [{"caption": SENTENCE, "url": web.page("/a", make_jpeg(size=(300, 200)))}]
    )

    def size(**more: Any) -> tuple[int, int]:
        settings = dataclasses.replace(runs.settings, **more)
        runs(manifest, download=settings)
        (body,) = _shards(tmp_path / "out").values()
        return Image.open(io.BytesIO(body)).size

    assert size() == (300, 200) == size(retries=1, max_bytes=999_999)
    assert len(web.asked) == 1
    assert size(image_size=150) == (150, 100)
    assert len(web.asked) == 2


def test_images_that_are_downloaded_again_are_scored_again_and_the_line_says_so(
    web, make_jpeg, tmp_path, runs
):
    pytest.importorskip("open_clip", reason="open_clip is not installed: pip install '.[score]'")
    from tests.tiny_clip import write_tiny

    manifest = runs.manifest(numbered([web.page("/a", make_jpeg(size=(300, 200)))]))
    score = ScoreSettings(model=f"local-dir:{write_tiny(tmp_path / 'tiny')}", device="cpu")
    more: dict[str, Any] = {"stages": ("captions", "download", "score"), "score": score}
    runs(manifest, **more)
    again = runs(manifest, download=dataclasses.replace(runs.settings, image_size=150), **more)
    assert [line for line in again.said if line.startswith("score: ")] == [
        "score: scoring again: 1 of 1 unit, scored by another model, version or setting, or of"
        " other downloads"
    ]


def test_rows_that_settings_refused_are_asked_again(web, make_jpeg, tmp_path, runs):
    """Images fetched already are not, and the result is that of a run with the later settings
    alone."""
    large = make_jpeg(size=(900, 900))
    urls = [
        web.page("/small", make_jpeg()),
        web.page("/large", large),
        web.url("/gone"),
        "http://127.0.0.2:9/x",
    ]
    manifest = runs.manifest(numbered(urls))
    shut = dataclasses.replace(runs.settings, allow=("127.0.0.1:1",), max_bytes=len(large) - 1)
    halfway = dataclasses.replace(shut, allow=runs.settings.allow)
    opened = dataclasses.replace(halfway, max_bytes=len(large))

    refused = runs(manifest, download=shut)
    assert set(refused.verdicts().values()) == {"blocked_port"} and not web.asked
    verdicts = {"0": "kept", "1": "too_large", "2": "http_status", "3": "blocked_port"}
    assert runs(manifest, download=halfway).verdicts() == verdicts
    assert sorted(web.asked) == ["/gone", "/large", "/small"]
    web.asked.clear()
    last = runs(manifest, download=opened)
    assert web.asked == ["/large"]
    (record,) = (
        json.loads(path.read_text()) for path in (runs.records() / "commits").glob("*.json")
    )
    assert (
        record["statuses"] == {"blocked_port": 1, "http_status": 1, "ok": 2} and record["urls"] == 4
    )
    fresh = runs(manifest, "fresh", download=opened)
    assert last.tables() == fresh.tables() and _shards(tmp_path / "out") == _shards(
        tmp_path / "fresh"
    )
    web.asked.clear()
    for settings in (opened, shut):  # the same, and settings that permit less
        assert runs(manifest, download=settings).tables() == fresh.tables() and not web.asked


def test_dead_links_that_are_asked_again_are_no_outage(
    web: Any, make_jpeg: Callable[..., bytes], runs: Runs
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
    urls = [web.page(f"/{n}", make_jpeg()) for n in range(12)] + [
        f"http://{place}/{n}" for n in range(12)
    ]
    settings = dataclasses.replace(runs.settings, allow=(*runs.settings.allow, place))
    manifest = runs.manifest(numbered(urls))
    first = runs(manifest, download=settings)
    assert Counter(first.verdicts().values()) == {"kept": 12, "connect_failed": 12}
    again = runs(manifest, download=dataclasses.replace(settings, connect_timeout=11.0))
    assert again.status == 0 and again.tables() == first.tables() and len(web.asked) == 12


@pytest.mark.slow
def test_what_is_fetched_anew_is_judged_anew(web, draw, tmp_path, runs, ocr_models):
    """The web changes: what was read of an image that is another one now does not stay."""
    blank, text = (
        draw(tmp_path / f"{n}.jpg", text).read_bytes()
        for n, text in enumerate(("", "brown dog runs"))
    )
    rows = numbered(web.page(f"/{n}", blank) for n in range(3))
    web.pages.pop("/2")
    manifest = runs.manifest(rows)
    first = runs(manifest, stages=STAGES)
    assert first.verdicts() == {"0": "kept", "1": "kept", "2": "http_status"}
    read = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "out" / "work" / "spotting").rglob("*.*")
    }
    shutil.rmtree(runs.records())
    same = runs(manifest, stages=STAGES)
    assert same.tables() == first.tables() and len(web.asked) == 6
    assert read and {path: path.stat().st_mtime_ns for path in read} == read, (
        "the same images are not read again"
    )
    shutil.rmtree(runs.records())
    web.page("/1", text)
    web.page("/2", blank)
    other = runs(manifest, stages=STAGES)
    assert other.verdicts() == {"0": "kept", "1": "text_spotting", "2": "kept"}
    assert other.tables() == runs(manifest, "fresh", stages=STAGES).tables()


def test_an_outage_is_seen_over_units_of_few_urls(
    web: Any, make_jpeg: Callable[..., bytes], runs: Runs
) -> None:
    """In one unit or over several: they are set aside, their rows are not rejected, and the next
    run tries again. Where all urls of the run are too few to tell, it is said what to do."""
    web.page("*", make_jpeg())
    rows = numbered(web.url(f"/{n}.jpg") for n in range(12))
    for count, unit_rows in ((12, 12), (12, 3), (4, 3)):
        manifest = runs.manifest(rows[:count], f"{count}.tsv")
        output = f"{count}-{unit_rows}"
        with no_network():
            down = runs(manifest, output, unit_rows=unit_rows)
        if count == 4:
            assert down.status == 1 and down.funnel["rejected"] == {"dns_failed": 4}
            assert any("work/download" in line for line in down.said), "the remedy"
            shutil.rmtree(runs.records(output))
        else:
            units = 12 // unit_rows
            assert down.status == 1 and down.funnel["not_decided"] == {
                "rows": 12,
                "units": units,
                "uncounted": 0,
            }
            assert down.funnel["rows_in"] == 12 and len(down.funnel["set_aside"]) == units
            assert not list(runs.records(output).rglob("*.tar"))
        up = runs(manifest, output, unit_rows=unit_rows)
        assert up.status == 0 and len(up.rows("kept")) == count


def test_an_outage_in_a_wider_run_is_seen_and_costs_no_image_of_an_earlier_one(
    web, make_jpeg, tmp_path, runs
):
    """Only rows that this run asks for count, also where a unit has none."""
    web.page("*", make_jpeg())
    long = [4, 4, 4, 0]  # rows of each unit that only the wider preset lets pass
    rows = [
        {
            "caption": SENTENCE + (", far away" if n < count else ""),
            "url": web.url(f"/{unit}-{n}.jpg"),
        }
        for unit, count in enumerate(long)
        for n in range(12)
    ]
    manifest = runs.manifest(rows)
    narrow = f"base: paper\nforesee: []\ncaptions: {{max_chars: {len(SENTENCE)}}}"
    first = runs(manifest, preset=narrow, unit_rows=12)
    assert first.status == 0 and len(web.asked) == len(first.rows("kept")) == 36
    with no_network():
        down = runs(manifest, unit_rows=12)
    assert (
        down.status == 1
        and len(down.funnel["set_aside"]) == 3
        and "dns_failed" not in down.funnel["rejected"]
    )
    web.asked.clear()
    assert runs(manifest, preset=narrow, unit_rows=12).tables() == first.tables() and not web.asked
    up = runs(manifest, unit_rows=12)
    assert up.status == 0 and len(up.rows("kept")) == 48 and len(web.asked) == 12


def test_a_dead_link_of_many_rows_is_no_outage(web: Any, runs: Runs) -> None:
    rows = numbered([web.url("/a.jpg")] * 12)
    manifest = runs.manifest(rows)
    with no_network():
        result = runs(manifest)
    assert result.status == 1 and result.funnel["rejected"] == {"dns_failed": 12}
    assert result.funnel["not_decided"]["units"] == 0


def test_without_img2dataset_nothing_is_written(web, tsv, tmp_path, filtering, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    manifest = tsv(tmp_path / "urls.tsv", [{"caption": SENTENCE, "url": web.url("/a")}])
    with pytest.raises(WrongUse, match=r"img2dataset.*pip install.*--stages captions,export"):
        filtering(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--download-allow", "localhost", "127.0.0.1:8000"),
        ("--download-threads", "9" * 11, "it must be at least 1 and at most 4096"),
        ("--download-timeout", "nan", "--download-timeout: the value is nan"),
    ],
)
def test_wrong_options(option, value, said, tsv, tmp_path, capsys):
    from open_diht.pipelines.driver.cli import main

    manifest = tsv(tmp_path / "urls.tsv", [{"caption": SENTENCE, "url": "http://example.org/a"}])
    arguments = [
        "--dataset",
        "custom",
        "--input",
        str(manifest),
        "--output",
        str(tmp_path / "out"),
        option,
        value,
    ]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.kill
@pytest.mark.slow
def test_killed_and_started_again_equals_undisturbed(
    web, captions, make_jpeg, forks, tsv, tmp_path
):
    """No url of a committed unit is asked again, whether it succeeded, failed or was denied."""
    body = make_jpeg()
    web.page("/robots.txt", b"User-agent: *\nDisallow: /*1.jpg$")

    def slow(handler: Any) -> None:
        time.sleep(0.02)
        failed = int(handler.path[1:].partition(".")[0]) % 7 == 0
        handler.reply(b"" if failed else body, status=404 if failed else 200)

    web.pages["*"] = slow
    rows = [
        {"n": n, "caption": captions[n % len(captions)], "url": web.url(f"/{n}.jpg")}
        for n in range(240)
    ]
    manifest = tsv(tmp_path / "urls.tsv", rows)
    calm = tmp_path / "calm"
    killed = tmp_path / "killed"
    words = [
        "--stages",
        ",".join(WITHOUT_OCR),
        "--download-allow",
        web.place,
        "--download-threads",
        "4",
    ]
    committed: set[str] = set()

    def look() -> None:
        names = {path.stem for path in killed.glob("work/download/commits/[!.]*.json")}
        tables = [
            pq.read_table(killed / "work" / "download" / "data" / f"{name}.g0.parquet")
            for name in names
        ]
        committed.update(
            url.removeprefix(web.url("")) for table in tables for url in table["url"].to_pylist()
        )
        web.asked.clear()

    with contextlib.closing(ForkedStarter(forks, tmp_path)) as runs:
        runs.finish(manifest, calm, *words)
        moments = [Moment("download", 3, 0)]
        left = check_kills(
            runs, manifest, words, moments, calm=calm, killed=killed, hits=1, before_resume=look
        )
    assert committed and web.asked and not committed & set(web.asked)
    assert left["kept"] and {row["reason"] for row in left["rejected"]} >= {
        "http_status",
        "robots_denied",
    }
