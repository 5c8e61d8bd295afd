"""The pages in a real browser. Rows are read by their text content: they have no inner text until
they are drawn."""

import re
import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from open_diht.pipelines.output import Output
from tests.pipelines.view.conftest import HOSTILE


@pytest.fixture
def page(site: str, browser: Any) -> Iterator[Any]:
    """A tab at the first page. Nothing that it does may leave this machine, run into an error, or
    break its policy."""
    tab = browser.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.on(
        "console",
        lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None,
    )
    tab.goto(site)
    yield tab
    tab.close()
    assert asked and not wrong, wrong
    assert all(
        url.startswith("data:") or urlsplit(url).netloc == urlsplit(site).netloc for url in asked
    ), asked


def test_search_a_caption_and_see_its_row_with_boxes_and_graph(page: Any, finished: Any) -> None:
    assert f"{finished.funnel['kept']} were kept" in page.inner_text(".headline")
    row = next(
        row
        for row in finished.rows("rejected")
        if row["reason"] == "text_spotting" and row["actions"]
    )
    page.fill("input[name=caption]", row["caption"][:40])
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert all(
        row["caption"][:40].lower() in text.lower()
        for text in page.locator(".hit .text").all_text_contents()
    )
    assert page.evaluate("document.querySelector('.hit img').decode().then(() => true)"), (
        "the image is shown"
    )
    page.locator(".hit .text").first.click()
    page.wait_for_selector("svg.photo polygon.line")
    assert page.locator("svg.graph .g-object").count() >= 1
    assert page.locator("svg.graph .g-action").count() >= 1
    drawn = page.locator("svg.photo image").bounding_box()
    box = page.locator("svg.photo polygon.line").first.bounding_box()
    assert drawn["x"] <= box["x"] and box["x"] + box["width"] <= drawn["x"] + drawn["width"] + 1


def test_filter_by_reason_score_and_overlap(page: Any, finished: Any) -> None:
    page.get_by_role("link", name="text spotting").click()
    page.wait_for_selector(".hit")
    assert {*page.locator(".hit .verdict").all_text_contents()} == {"text spotting"}
    rejected = [row for row in finished.rows("rejected") if row["reason"] == "text_spotting"]
    assert page.locator(".hit").count() == min(24, len(rejected))
    page.click("summary")
    page.fill("[name=overlap_low]", "9")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("overlap_low=9"))
    fits = [row for row in rejected if row["overlap"] >= 9]
    shown = page.locator(".hit .facts").all_text_contents()
    assert 0 < len(shown) <= len(fits)
    assert all(int(re.search(r"overlap\s+(\d+)", text)[1]) >= 9 for text in shown)  # type: ignore[index]


def test_choose_an_order_and_copy_the_uids(page: Any, site: str, finished: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{site}/rows")
    page.select_option("[name=end]", "rejected:action")
    page.select_option("[name=order]", "action_score")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("order=action_score"))
    rows = [row for row in finished.rows("rejected") if row["reason"] == "action"]
    assert f"of {len(rows)}, highest action score first" in page.inner_text(".found")
    page.click(".take summary")
    page.click("#copy")
    page.locator("#copy", has_text="copied").wait_for()
    uids = page.evaluate("navigator.clipboard.readText()").split()
    assert len(uids) == min(24, len(rows)) and {*uids} <= {row["uid"] for row in rows}
    with page.expect_download() as saved:
        page.get_by_role("link", name="all uids as a file").click()
    lines = saved.value.path().read_text().split()
    assert lines[: len(uids)] == uids and sorted(lines) == sorted(row["uid"] for row in rows)


def test_a_moved_threshold_shows_what_a_run_then_keeps(page, manifest, copied, filtering):
    page.get_by_role("link", name="Thresholds").click()
    page.wait_for_selector("html.scripted")
    before = int(page.inner_text("#kept-rows"))
    slider = page.locator("[data-for='captions.min_complexity']")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.locator(".compare .more").first.wait_for()  # something is rejected that was not
    assert page.input_value("[id='captions.min_complexity']") == "2"
    assert "captions.min_complexity=2" in page.url
    page.fill("[id='text_spotting.min_chars']", "60")
    page.locator("#yaml", has_text="min_chars: 60").wait_for(state="attached")
    kept = int(page.inner_text("#kept-rows"))
    page.click(".preset summary")
    file = copied.parent / "mine.yaml"
    file.write_text(page.inner_text("#yaml"))
    done = filtering(manifest, copied, preset=str(file), unit_rows=12)
    assert kept == done.funnel["kept"] != before
    page.locator(".changed a").first.click()
    page.wait_for_selector(".card")


def test_without_a_script_the_form_does_the_same(site: str, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(f"{site}/thresholds")
    tab.fill("[id='captions.min_complexity']", "3")
    tab.get_by_role("button", name="Apply").click()
    assert "captions.min_complexity=3" in tab.url and "min_complexity: 3" in tab.text_content(
        "#yaml"
    )
    context.close()


@pytest.mark.parametrize("caption", HOSTILE)
def test_a_hostile_caption_stays_text(caption: str, page: Any, site: str) -> None:
    page.fill("input[name=caption]", caption)
    page.keyboard.press("Enter")
    page.wait_for_selector(".hit")
    assert caption in page.locator(".hit .text").all_text_contents()
    page.locator(".hit .text").first.click()
    page.wait_for_selector(".card")
    assert caption in page.inner_text(".caption")
    page.goto(f"{site}/thresholds?captions.min_complexity=9")
    page.fill("[id='captions.min_actions']", "3")  # rows that change come with a script's answer
    page.locator("#yaml", has_text="min_actions: 3").wait_for(state="attached")
    assert "taken" not in page.title()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_their_window(width: int, scheme: str, site: str, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for address in ("/", "/rows", "/rows?order=overlap", "/thresholds", "/row/00000-00000.kept.0"):
        tab.goto(site + address)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, address
    tab.close()


def test_a_server_that_is_gone_is_said_on_the_page(copied, served, browser):
    tab = browser.new_page()
    with served(Output(copied)) as site:
        tab.goto(f"{site}/thresholds")
    tab.fill("[id='captions.min_complexity']", "4")
    tab.locator("#kept", has_text="Does the server still run?").wait_for()
    tab.close()
    shutil.rmtree(copied)
