"""Make the screenshots of README and the pages from a run on the sample.

    make filter OUTPUT=out/sample
    python -m benchmarks.pictures out/sample docs/images

`view.png` shows the page of thresholds of `make view`. `view.gif` shows a threshold of that page
that moves, then a rejected pair with its evidence. `pairs.png` shows six pairs with their reasons.
A text file next to each picture has the words in it, so that a test notices an outdated picture.
This program needs playwright and a Chromium. The photographs of the pairs are in the public domain
(data/sample/PROVENANCE.tsv).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""Names of the program on PATH, by preference."""

CAPTION = "Countdown to launch"
"""Beginning of the pair's caption. The photograph (SpaceX) is in the public domain."""
THRESHOLDS = "thresholds?captions.min_complexity=2&text_spotting.min_chars=9"
"""The page of thresholds, two of which are moved."""
TOUR = (
    ("thresholds", 1_800),
    *((f"thresholds?text_spotting.min_chars={chars}", 900) for chars in (6, 7, 8)),
    ("thresholds?text_spotting.min_chars=9", 2_500),
    (f"rows?end=rejected&caption={CAPTION.replace(' ', '+')}", 1_500),
    ("", 5_000),  # the pair, behind the link of its row
)
"""The pages of the moving picture, and how many milliseconds each is shown."""
PAIRS = (
    "Siberian tiger walking",
    "tawny owl perching",
    "A white duck standing",
    "High Trestle Trail",
    "Grey long-haired cat",
    CAPTION,
)
"""Beginnings of the captions of three pairs that are kept and three that are rejected, whose
photographs are in the public domain."""


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the system's Chromium, without a screen, for the `with` block. Raises SystemExit if
    none is on PATH."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        raise SystemExit(
            "no Chromium on PATH; on Debian: apt-get install chromium-headless-shell"
            " fonts-dejavu-core"
        )
    # Chromium refuses to run as root with its sandbox.
    no_sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=no_sandbox)
        yield chromium
        chromium.close()


def show_all(page: Page) -> None:
    """Draw all rows of a list and load their images, and wait for it. By themselves they appear
    only when they come into view, which neither the text nor a screenshot waits for."""
    page.evaluate(
        """async () => {
            for (const row of document.querySelectorAll(".hit"))
                row.style.contentVisibility = "visible";
            for (const image of document.images) {
                image.loading = "eager";
                await image.decode();
            }
        }"""
    )


def tour(chromium: Browser, address: str, path: Path) -> str:
    """Write the moving picture, and return the words of all its pages."""
    page = chromium.new_page(viewport={"width": 1000, "height": 680}, color_scheme="light")
    frames = []
    words = []
    for place, _ in TOUR:
        if place:
            page.goto(address + place)
        else:
            page.locator("a[href^='/row/']").first.click()
        page.wait_for_load_state("networkidle")
        show_all(page)
        words.append(page.locator("body").inner_text())
        frame = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        frames.append(frame.resize((800, 544), Image.Resampling.LANCZOS).quantize(64))
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=[ms for _, ms in TOUR], loop=0
    )
    return " ".join(words)


def pairs(chromium: Browser, address: str, path: Path) -> str:
    """Write the picture of six pairs, as the viewer shows them in its lists, and return their
    words."""
    page = chromium.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
    cards = []
    words = []
    for caption in PAIRS:
        page.goto(f"{address}rows?caption={caption.replace(' ', '+')}")
        hit = page.locator("article.hit").filter(has_text=caption).first
        show_all(page)
        # The mark of what a search found would look like a reason.
        hit.locator(".hit").evaluate("mark => mark.removeAttribute('class')")
        words.append(hit.inner_text())
        cards.append(Image.open(io.BytesIO(hit.screenshot())).convert("RGB"))
    width = cards[0].width + 8
    first, second = (max(card.height for card in row) for row in (cards[:3], cards[3:]))
    picture = Image.new("RGB", (3 * width, first + 8 + second), cards[0].getpixel((0, 0)))
    for number, card in enumerate(cards):
        picture.paste(card, (number % 3 * width, number // 3 * (first + 8)))
    picture.quantize(128).save(path)
    return " ".join(words)


def main(output: str, folder: str) -> None:
    """Write the pictures and their words to `folder`, from a finished output of `make filter` on
    the sample."""
    view = subprocess.Popen(
        [sys.executable, "-m", "open_diht", "view", "--output", output],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert view.stdout is not None
    try:
        address = view.stdout.readline().split()[0]
        with browser() as chromium:
            thresholds = chromium.new_page(
                viewport={"width": 1200, "height": 800}, color_scheme="light"
            )
            thresholds.goto(address + THRESHOLDS)
            thresholds.locator("body").screenshot(path=Path(folder) / "view.png")
            for name, words in (
                ("view.png", thresholds.locator("body").inner_text()),
                ("view.gif", tour(chromium, address, Path(folder) / "view.gif")),
                ("pairs.png", pairs(chromium, address, Path(folder) / "pairs.png")),
            ):
                said = " ".join(words.split()).replace(output, "out/sample")
                said = re.sub(r"in \d+\.\d s", "in some seconds", said)
                (Path(folder) / f"{name}.txt").write_text(f"{said}\n", encoding="utf-8")
    finally:
        view.terminate()
        view.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
