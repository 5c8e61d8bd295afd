"""Hooks of `make docs`: Markdown files outside `docs/`, and working links.

Pages link each other by their paths in the repository, so that they also read well there.
"""

from __future__ import annotations

import logging
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

# Only warnings are printed. Not --quiet, which hides warnings from the --strict that counts them.
logging.getLogger("mkdocs").setLevel(logging.WARNING)

REPOSITORY = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```.*?^```[^\n]*$)", re.MULTILINE | re.DOTALL)
_API = re.compile(
    r"^<!-- api: (\S+)(?: ([^\n]+?))? -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside `docs/`; README is the first page.

    Args:
        files: the files of the site; pages are added.
        config: the configuration of MkDocs.
    """
    if files.get_file_from_path("index.md") is None:
        files.append(File.generated(config, "index.md", abs_src_path=str(REPOSITORY / "README.md")))
    # Other pages outside `docs/` are below `project/` on the site.
    for path in re.findall(r"'project/([^']+)'", str(config.nav)):
        if (REPOSITORY / path).is_file():
            files.append(
                File.generated(config, f"project/{path}", abs_src_path=str(REPOSITORY / path))
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adapt the links of a page to the site, and put docstrings in the place of signatures. Raises
    PluginError for a dead link.

    Args:
        markdown: the text of the page.
        page: the page.
        config: not used.
        files: the files of the site.
    """
    where = page.file.src_uri
    markdown = _API.sub(
        lambda found: f"::: {found[1]}" + (f"\n    options: {found[2]}" if found[2] else ""),
        markdown,
    )
    parts = _FENCE.split(markdown)  # code, which is every other part, does not change
    parts[::2] = [
        _LINK.sub(lambda found: _linked(found, where, files), part) for part in parts[::2]
    ]
    return "".join(parts)


def _linked(found: re.Match[str], where: str, files: Files) -> str:
    before, target, anchor, after = found.groups()
    if "://" in target or target.startswith("mailto:"):
        return found.group(0)
    if where == "index.md":
        here = "README.md"
    else:
        here = where.removeprefix("project/") if where.startswith("project/") else f"docs/{where}"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
    if path == "README.md":
        uri = "index.md"
    elif path.startswith("docs/"):
        uri = path.removeprefix("docs/")
    else:
        uri = f"project/{path}/README.md" if (REPOSITORY / path).is_dir() else f"project/{path}"
    if files.get_file_from_path(uri):
        relative = posixpath.relpath(uri, posixpath.dirname(where) or ".")
        return f"{before}{relative}{anchor or ''}{after}"
    if not (REPOSITORY / path).exists():
        raise PluginError(f"{here}: the link to {target} leads nowhere")
    if path.endswith(".md"):
        raise PluginError(
            f"{here}: the link to {target} leads to a page that nav of mkdocs.yml does not name"
        )
    # Code is not on the site: show its path without a link.
    text = before[before.index("[") + 1 : -2]
    return f"`{path}`" if text.strip("`") == posixpath.basename(path) else f"{text}, `{path}`"


class _Addresses(HTMLParser):
    """Collects what a browser fetches for a page, the targets of its links, and the names that
    links can lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.linked: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value for name, value in attrs if value}
        if "id" in named:
            self.names.add(named["id"])
        if tag in ("script", "img", "iframe", "source") and "src" in named:
            self.fetched.append(named["src"])
        if tag == "link" and named.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(named["href"])
        if tag == "a" and "href" in named:
            self.linked.append(named["href"])


def on_post_build(config: MkDocsConfig) -> None:
    """Raise PluginError if a page loads something from another site, or has a link within the site
    that leads nowhere.

    Pages must also work as files and without a network, and must not reveal their readers.
    """
    site = Path(config.site_dir).resolve()
    pages = {page: _Addresses(page) for page in sorted(site.rglob("*.html"))}
    for page, found in pages.items():
        if away := [url for url in found.fetched if re.match(r"(https?:)?//", url)]:
            raise PluginError(f"{page} loads {away[0]}, which is not of the site")
        for url in found.fetched + found.linked:
            parts = urlsplit(url)
            if parts.scheme or page.name == "404.html":
                # It is shown at any address, so its links begin at the root.
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            names = pages[target].names if target in pages else {parts.fragment}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in names):
                raise PluginError(f"{page}: the link to {url} leads nowhere")
    for sheet in site.rglob("*.css"):
        if re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")):
            raise PluginError(f"{sheet} loads something that is not of the site")
