"""Render a report as one file: the report's own Jinja template inside the shared page."""

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from open_diht.common.html.charts import bar
from open_diht.common.html.text import attribute, percent, prose, show, words


def render_page(package: str | tuple[str, ...], template: str, **content: Any) -> str:
    """Return a page, or a part of one, as HTML. The first package has the template and its style
    sheets; the others have templates that it imports. A whole page extends `page.html.j2` and fills
    the blocks `title` and `body`. Values are escaped: pass finished HTML through `|safe` and
    untrusted text through `|show`."""
    packages = (package,) if isinstance(package, str) else package
    return _environment(*packages).get_template(template).render(**content)


@cache
def _environment(*packages: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "") for package in (*packages, __package__)]),
        autoescape=True,
        undefined=StrictUndefined,  # a misspelled variable is an error
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["show"] = lambda text, limit=400: Markup(show(text, limit))
    environment.filters["prose"] = lambda text, limit=400: Markup(prose(text, limit))
    environment.filters["attribute"] = lambda text, limit=400: Markup(attribute(text, limit))
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters |= {"percent": percent, "words": words}
    environment.globals["bar"] = lambda parts: Markup(bar(parts))
    environment.globals["style"] = Markup(style_sheet(packages[0]))
    return environment


def style_sheet(*packages: str) -> str:
    """Return the shared style sheet followed by those of the packages."""
    folders = [files(package) for package in (__package__, *packages)]
    sheets = [
        file for folder in folders for file in sorted(folder.iterdir(), key=lambda one: one.name)
    ]
    return "".join(file.read_text("utf-8") for file in sheets if file.name.endswith(".css"))
