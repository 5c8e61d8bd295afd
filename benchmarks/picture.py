"""Make the picture of the README from a run's report: a rejected pair with its evidence, and the funnel.

    make filter OUTPUT=out/sample
    python -m benchmarks.picture out/sample docs/images/rejected-pair.png

It needs playwright and a Chromium. The pair is one of the sample whose photograph may be redistributed
(data/sample/PROVENANCE.tsv).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CAPTION = "Countdown to launch"
"""Beginning of the caption of the pair. Its photograph (SpaceX) is in the public domain."""
KEEP = """beginning => {
  const card = [...document.querySelectorAll("article.card")].find(one => one.innerText.includes(beginning));
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
"""CSS that leaves only the pair and the funnel of the report."""


def main(output: str, picture: str) -> None:
    """Write the picture to the PNG `picture`. `output` is a finished output of `make filter` on the sample."""
    found = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    with sync_playwright() as started:
        # Chromium refuses to run as root with its sandbox.
        no_sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=found, args=no_sandbox)
        page = browser.new_page(viewport={"width": 1100, "height": 900}, color_scheme="light")
        page.goto((Path(output) / "report.html").resolve().as_uri())
        page.evaluate(KEEP, CAPTION)
        page.locator("#picture").screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
