"""Make the screenshots of README and the pages from a run on the sample.

    make filter OUTPUT=out/sample
    python -m benchmarks.pictures out/sample docs/images

`rejected-pair.png` shows, from the report, a rejected pair with its evidence, and the funnel.
`view.png` shows the page of thresholds of `make view`. A text file next to each picture has the
words in it, so that a test notices an outdated picture. This program needs playwright and a
Chromium. The pair is one of the sample whose photograph may be redistributed
(data/sample/PROVENANCE.tsv).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""Names of the program on PATH, by preference."""

CAPTION = "Countdown to launch"
"""Beginning of the pair's caption. The photograph (SpaceX) is in the public domain."""
KEEP = """beginning => {
  const cards = [...document.querySelectorAll("article.card")];
  const card = cards.find(one => one.innerText.includes(beginning));
  const reason = card.closest("section[id]");
  const shown = document.createElement("div");
  shown.id = "picture";
  shown.style.padding = "0 24px 24px";
  const title = document.createElement("h2");
  title.textContent = "Rejected: " + reason.id.replace(/^r-/, "").replaceAll("-", " ");
  const funnel = document.querySelector("table.funnel").closest("section");
  shown.append(title, card, funnel);
  document.querySelector("section").parentElement.prepend(shown);
  for (const one of [...shown.parentElement.children]) if (one !== shown) one.remove();
}"""
"""JavaScript that leaves only the pair and the funnel of the report."""
THRESHOLDS = "thresholds?captions.min_complexity=2&text_spotting.min_chars=9"
"""The page of thresholds, two of which are moved."""


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
            report = chromium.new_page(
                viewport={"width": 1100, "height": 900}, color_scheme="light"
            )
            report.goto((Path(output) / "report.html").resolve().as_uri())
            report.evaluate(KEEP, CAPTION)
            thresholds = chromium.new_page(
                viewport={"width": 1200, "height": 800}, color_scheme="light"
            )
            thresholds.goto(address + THRESHOLDS)
            for name, shown in (
                ("rejected-pair", report.locator("#picture")),
                ("view", thresholds.locator("body")),
            ):
                shown.screenshot(path=Path(folder) / f"{name}.png")
                words = " ".join(shown.inner_text().split()).replace(output, "out/sample")
                (Path(folder) / f"{name}.txt").write_text(words + "\n", encoding="utf-8")
    finally:
        view.terminate()
        view.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
