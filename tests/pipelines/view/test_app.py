"""The pages: guarded, escaped, bounded; and errors that say what is wrong."""

import html
import re
import shlex
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from open_diht.pipelines.output import Output
from open_diht.pipelines.rows.command import main
from open_diht.pipelines.view.query import (
    Bounds,
    Place,
    Query,
    address_of,
    choices_of,
    count_of,
    query_of,
    search,
)
from tests.common.html_tags import Tags
from tests.pipelines.view.conftest import HOSTILE


def get(address: str, **headers: str) -> tuple[int, str, Any]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=60
        ) as answer:
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace"), error.headers


ADDRESSES = ["/", "/rows", "/rows?caption=script", "/thresholds", "/style.css"]
ADDRESSES += ["/thresholds/kept?captions.min_actions=2", "/uids?end=kept", "/rows.js"]


@pytest.mark.parametrize("address", [*ADDRESSES, "/view.js", "/nowhere", "/rows?end=elsewhere"])
def test_no_page_may_load_or_run_what_is_not_its_own(address: str, site: str) -> None:
    _, _, headers = get(site + address)
    policy = headers["Content-Security-Policy"]
    assert (
        "default-src 'none'" in policy and "unsafe" not in policy and "script-src 'self'" in policy
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_no_browser_keeps_the_image_of_an_address(site: str) -> None:
    """After another run, its row may be another one."""
    status, _, headers = get(f"{site}/image/00000-00000.kept.0")
    assert status == 200 and headers["Cache-Control"] == "no-store"


def test_a_page_of_another_name_is_refused(site: str) -> None:
    status, text, _ = get(site, Host="evil.example:80")
    assert status == 400 and "were kept" not in text
    port = site.rpartition(":")[2]
    assert get(site, Host=f"localhost:{port}")[0] == 200


@pytest.mark.parametrize("address", ADDRESSES[:4])
def test_pages_are_well_formed_and_load_only_their_own(address: str, site: str) -> None:
    status, text, _ = get(site + address)
    page = Tags(text)
    assert status == 200 and not page.open
    assert not any(
        name.startswith("on") or name == "style"
        for _, attributes in page.tags
        for name in attributes
    )
    loaded = [one.get("src") or one.get("href") or one.get("action") or "/" for _, one in page.tags]
    assert all(one.startswith("/") or one == "data:," for one in loaded)
    scripts = {"/thresholds": ["/view.js"], "/rows": ["/rows.js"]}
    assert [one.get("src") for tag, one in page.tags if tag == "script"] == scripts.get(
        address.partition("?")[0], []
    )


def test_hostile_captions_are_text(site: str, output: Output) -> None:
    for caption in HOSTILE:
        (hit,) = search(output, Query(caption=caption)).hits
        for address in (address_of(Query(caption=caption)), f"/row/{hit.place}"):
            page = Tags(get(site + address)[1])
            assert caption in page.text
            assert not any(tag in ("script", "svg") and "onload" in one for tag, one in page.tags)
            sources = [one["src"] or "" for tag, one in page.tags if tag == "img"]
            assert all(one.startswith("/image/") for one in sources)
            assert all(one["alt"] for tag, one in page.tags if tag == "img")


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/nowhere", 404, "Not Found"),
        ("/row/what", 400, "is not the place of a row"),
        ("/row/00000-00000.kept.999", 404, "There is no such row"),
        ("/at/00000-00000/999", 404, "There is no such row"),
        ("/image/00000-00000.kept.999", 404, "the row is missing"),
        ("/rows?end=elsewhere", 400, "no end 'elsewhere'; choose one of kept, rejected"),
        ("/rows?overlap_low=wide", 400, "overlap low is 'wide', which is not a number"),
        ("/rows?column=secret", 400, "no numeric column 'secret'; choose one of n, similarity"),
        ("/rows?end=rejected:actoin", 400, "'actoin' (did you mean 'action'?)"),
        ("/rows?order=overlp", 400, "no order 'overlp' (did you mean 'overlap'?)"),
        ("/rows?order=overlap&skip=100001", 400, "a whole number of at most 100,000"),
        ("/rows?skip=1", 400, "only a list with an order has it"),
        ("/uids?end=elsewhere", 400, "no end 'elsewhere'"),
        ("/rows?from=x.kept.0", 400, "there is no unit 'x'"),
        ("/rows?captoin=dog", 400, "no parameter 'captoin' (did you mean 'caption'?)"),
        ("/?end=kept", 400, "no parameter 'end'; this page has none"),
        (
            "/row/00000-00000.kept.0?place=00000-00000.kept.1",
            400,
            "no parameter 'place'; this page has none",
        ),
        ("/at/00000-00000/0?from=1", 400, "no parameter 'from'; this page has none"),
        ("/image/00000-00000.kept.0?size=9", 400, "no parameter 'size'; this page has none"),
        ("/thresholds?seed=-1", 400, "not a whole number"),
        ("/thresholds?text_spotting.min_scor=1", 400, "did you mean 'text_spotting.min_score'?"),
        ("/at/%00/0", 404, "There is no such row"),
        ("/row/%00.kept.0", 400, "is not the place of a row"),
        ("/image/%00.kept.0", 400, "is not the place of a row"),
    ],
)
def test_what_cannot_be_shown_says_why(address: str, status: int, said: str, site: str) -> None:
    found, text, _ = get(site + address)
    assert (found, said in Tags(text).text) == (status, True), text


def links_of(text: str) -> dict[str, str]:
    """The addresses of a page's links, by their text."""
    links = re.findall(r'<a href="([^"]*)"[^>]*>([^<]*)</a>', text)
    return {name: html.unescape(address) for address, name in links}


def test_the_pages_of_an_order_go_on_to_its_end(site: str, finished: Any) -> None:
    address, seen, pages = "/rows?order=complexity", list[int](), 0
    while address:
        pages += 1
        text = get(site + address)[1]
        found = [int(number) for number in re.findall(r"complexity <b>(\d+)</b>", text)]
        seen += found
        address = links_of(text).get("Next rows", "")
    rows = [row for end in ("kept", "rejected") for row in finished.rows(end)]
    assert pages > 1 and seen == sorted((row["complexity"] for row in rows), reverse=True)


def test_a_list_is_taken_along_as_uids_as_a_link_and_as_a_command(
    site: str, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rejected = [row for row in finished.rows("rejected") if row["reason"] == "action"]
    asked = "/rows?end=rejected%3Aaction&caption=a&complexity_high=&order=action_score"
    text = get(site + asked)[1]
    links = links_of(text)
    assert (
        get(site + links["link to this list"])[1].partition("looked at")[0]
        == (text.partition("looked at")[0])
    )
    status, lines, headers = get(site + links["all uids as a file"])
    expected = {row["uid"] for row in rejected if "a" in row["caption"].lower()}
    assert status == 200 and "attachment" in headers["Content-Disposition"]
    assert expected and len(lines.splitlines()) == len(expected) == len({*lines.splitlines()})
    assert {*lines.splitlines()} == expected
    (command,) = re.findall("<pre>(.*?)</pre>", text)
    words = shlex.split(html.unescape(re.sub("<[^>]*>", "", command)))
    assert words[:2] == ["open-diht", "rows"] and main([*words[2:], "--uids"]) == 0
    assert capsys.readouterr().out == lines
    plain = get(f"{site}/uids?end=rejected%3Aaction")[1].split()
    assert sorted(plain) == sorted(row["uid"] for row in rejected)


def test_each_end_is_listed_with_its_rows(site: str, finished: Any) -> None:
    text = get(site + "/rows")[1]
    labels = dict(re.findall(r'<option value="([^"]*)"[^>]*>([^<]*)</option>', text))
    for reason, rows in finished.funnel["rejected"].items():
        assert labels[f"rejected:{reason}"].endswith(f"({rows})")
    assert labels["kept"] == f"kept ({finished.funnel['kept']})"


def test_a_threshold_that_the_preset_refuses_is_said_on_the_page(site: str) -> None:
    status, text, _ = get(site + "/thresholds/kept?text_spotting.min_score=7")
    assert (
        status == 200
        and "text_spotting.min_score is 7.0; it must be at least 0 and at most 1" in text
    )


def test_only_reading_is_answered(site: str) -> None:
    request = urllib.request.Request(site + "/rows", data=b"caption=x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request, timeout=60)


def test_nothing_is_written(copied: Path, served: Any) -> None:
    def there() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in copied.rglob("*")}

    before = there()
    with served(Output(copied)) as site:
        for address in (*ADDRESSES, "/row/00000-00000.rejected.0", "/image/00000-00000.kept.0"):
            assert get(site + address)[0] == 200
    assert there() == before


def test_a_running_output_says_that_it_runs(copied: Path, served: Any) -> None:
    (copied / "funnel.json").unlink()
    for record in sorted((copied / "work/decide/commits").glob("*.json"))[2:]:
        record.unlink()
    with served(Output(copied)) as site:
        for address in ("/", "/rows", "/thresholds"):
            assert "This run has not come to its end: 2 of" in Tags(get(site + address)[1]).text
        assert "Counted over 2 decided units" in Tags(get(site)[1]).text
        page = Tags(get(site + "/rows?end=undecided")[1])
        assert "not decided" in page.text
        row, *_ = (
            one["href"]
            for tag, one in page.tags
            if tag == "a" and (one["href"] or "").startswith("/row/")
        )
        assert {"graph", "photo"} <= {
            one.get("class") for _, one in Tags(get(f"{site}{row}")[1]).tags
        }


def test_a_large_output_says_that_it_is_a_sample(output: Output, served: Any) -> None:
    with served(output, rows=40) as site:
        text = Tags(get(site + "/thresholds")[1]).text
    assert "A random sample: " in text and "95 % interval" in text and "draw another" in text


def test_files_that_are_gone_or_damaged_are_said(copied: Path, served: Any) -> None:
    first, second = sorted((copied / "kept").iterdir())[:2]
    whole = second.read_bytes()
    damaged = bytearray(whole)
    damaged[8:200] = bytes(192)  # a page of a column
    first.write_bytes(b"PAR1 no more")
    units = [path.stem.removeprefix("part-") for path in (first, second)]
    (copied / f"work/captions/data/{units[1]}.parquet").unlink()
    with served(Output(copied)) as site:
        status, text, _ = get(site + "/rows?end=kept")
        assert status == 500 and "This page cannot be shown" in text
        assert "run the same `open-diht filter` to write it again" in text
        second.write_bytes(damaged)
        status, text, _ = get(f"{site}/rows?end=kept&unit={units[1]}")
        assert status == 500 and "If a file is damaged, remove it" in text
        second.write_bytes(whole)
        status, text, _ = get(f"{site}/row/{units[1]}.kept.0")
        assert status == 503 and "Try again in a moment" in text


KEEP_ALL = "base: paper\ncaptions: {min_complexity: 0, min_actions: 0}\ndedup: {pairs: false}\n"
KEEP_NONE = "base: paper\ncaptions: {min_complexity: 100}\n"


@pytest.mark.parametrize(
    ("preset", "stages", "rows", "image", "ends"),
    [
        (KEEP_ALL, ("captions",), 6, "blank.png", {"kept"}),
        (KEEP_NONE, ("captions",), 6, "blank.png", {"rejected"}),
        (KEEP_ALL, ("captions",), 1, "blank.png", {"kept"}),
        (KEEP_ALL, ("captions", "spotting"), 3, "missing.png", {"dead_letter"}),
    ],
    ids=["no rejected rows", "no kept rows", "one row", "dead letters only"],
)
def test_outputs_without_rows_at_an_end_are_shown(
    preset, stages, rows, image, ends, filtering, tsv, with_images, served, tmp_path, ocr_models
):
    (tmp_path / "own.yaml").write_text(preset)
    made = [
        {**row, "image_path": f"images/{image}"} for row in with_images(tmp_path / "images", rows)
    ]
    done = filtering(
        tsv(tmp_path / "own.tsv", made),
        tmp_path / "out",
        preset=str(tmp_path / "own.yaml"),
        stages=stages,
        unit_rows=3,
    )
    assert {end for end in ("kept", "rejected", "dead_letter") if done.rows(end)} == ends
    pages = ["/", "/rows", "/thresholds", "/thresholds/kept?captions.min_actions=1"]
    pages += [f"/rows?end={end}" for end in ("kept", "rejected", "dead_letter", "undecided")]
    pages += [f"/row/00000-00000.{end}.0" for end in ends]
    with served(Output(done.output)) as site:
        assert {address: get(site + address)[0] for address in pages} == dict.fromkeys(pages, 200)
    for name in ("run.json", "funnel.json"):
        (done.output / name).unlink()
    with served(Output(done.output)) as site:
        assert {address: get(site + address)[0] for address in pages} == dict.fromkeys(pages, 200)


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', '{"segments": "x"}'])
def test_a_record_of_images_in_another_shape_is_named(
    content: str, copied: Path, served: Any
) -> None:
    record = min((copied / "work/spotting/commits").glob("*.json"))
    record.write_text(content)
    with served(Output(copied)) as site:
        for address in ("/thresholds", "/row/00000-00000.kept.0"):
            assert (
                f"{record.name} is not a commit record; remove it"
                in Tags(get(site + address)[1]).text
            )


def test_an_address_is_its_query(output: Output) -> None:
    query = Query(
        end="rejected",
        reason="action",
        caption="a & b?",
        read="ü",
        overlap=Bounds(low=0.5, high=2),
        column="n",
        values=Bounds(low=-12_345.678_9, high=1_234_567),
        order="action_score",
        ascending=True,
    )
    place = Place("00000-00003", "kept", 7)
    given = dict(urllib.parse.parse_qsl(address_of(query, place, 48).partition("?")[2]))
    choices = choices_of(output, count_of(output))
    assert query_of(given, choices) == query
    assert (Place.parse(given["from"]), given["skip"]) == (place, "48")
