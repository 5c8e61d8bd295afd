"""The web application: routes and error pages. It only reads, and escapes captions on every
page."""

import logging
from collections.abc import Callable, Mapping
from importlib.resources import files

import pyarrow as pa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from open_diht.common.command_line import WrongUse
from open_diht.common.fields import BadValue
from open_diht.common.html.page import render_page, style_sheet
from open_diht.common.spelling import spelled
from open_diht.pipelines.manifests import ManifestError
from open_diht.pipelines.report.thumbnail import ImageNotShown
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.view import pages
from open_diht.pipelines.view.evidence import place_at, thumbnail_of
from open_diht.pipelines.view.pages import Workbench
from open_diht.pipelines.view.query import BadAddress, Place, check_parameters

_log = logging.getLogger(__name__)
HOSTS = ("127.0.0.1", "localhost")
"""Accepted Host headers. Pages of other hosts that resolve to this server are refused (DNS
rebinding)."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src"
        " 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_PACKAGES = ("open_diht.pipelines.view", "open_diht.pipelines.report")
_SAID = (
    HTTPException,
    BadAddress,
    BadValue,
    WrongUse,
    RunFailed,
    ManifestError,
    OSError,
    pa.ArrowException,
)
"""Errors that are shown on a page with their message."""
_DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Errors that code raises when it reads damaged files, such as files that someone has changed."""


def make_app(bench: Workbench) -> Starlette:
    """Return the web application for an output."""

    def page(
        show: Callable[[Workbench, Mapping[str, str]], pages.Shown],
    ) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            template, content = show(bench, {**request.query_params, **request.path_params})
            about = {"root": str(bench.output.layout.root), "state": bench.output.state()}
            return HTMLResponse(render_page(_PACKAGES, template, **about, **content))

        return answer

    def bare(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Return `answer` for an address that has no parameters."""

        def checked(request: Request) -> Response:
            check_parameters(request.query_params, ())
            return answer(request)

        return checked

    def image(request: Request) -> Response:
        try:
            found = thumbnail_of(bench.output, Place.parse(request.path_params["place"]))
        except ImageNotShown as why:
            raise HTTPException(404, str(why)) from why
        return Response(found.data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    def uids(request: Request) -> Response:
        lines = pages.uids_of(bench, request.query_params)
        saved = {"Content-Disposition": 'attachment; filename="uids.txt"'}
        return StreamingResponse(lines, media_type="text/plain", headers=saved)

    def row_of_unit(request: Request) -> Response:
        place = place_at(bench.output, request.path_params["unit"], request.path_params["ordinal"])
        if place is None:
            raise HTTPException(
                404, "There is no such row, its files are missing, or a run is deciding it again."
            )
        return RedirectResponse(f"/row/{place}")

    def failed(request: Request, error: Exception) -> Response:
        status, message = _told(error)
        body = render_page(
            _PACKAGES, "error.html.j2", root=str(bench.output.layout.root), message=message, here=""
        )
        return HTMLResponse(body, status_code=status)

    return Starlette(
        routes=[
            Route("/", bare(page(pages.overview))),
            Route("/rows", page(pages.rows)),
            Route("/uids", uids),
            Route("/row/{place}", bare(page(pages.row))),
            Route("/at/{unit}/{ordinal:int}", bare(row_of_unit)),
            Route("/image/{place}", bare(image)),
            Route("/thresholds", page(pages.thresholds)),
            Route("/thresholds/kept", page(pages.kept)),
            Route("/style.css", _file(style_sheet(*reversed(_PACKAGES)), "text/css")),
            *(
                Route(
                    f"/{name}",
                    _file(files(__package__).joinpath(name).read_text("utf-8"), "text/javascript"),
                )
                for name in ("view.js", "rows.js")
            ),
        ],
        middleware=[
            Middleware(_Guarded),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        ],
        exception_handlers=dict.fromkeys((*_SAID, *_DAMAGED), failed),
    )


def _told(error: Exception) -> tuple[int, str]:
    """Return the HTTP status and the message for an error."""
    if isinstance(error, HTTPException):
        return error.status_code, error.detail
    if isinstance(error, FileNotFoundError):
        return (
            503,
            (
                f"{error.filename or error} is missing; a run may be writing it again. Try again in"
                " a moment."
            ),
        )
    if isinstance(error, pa.ArrowException | OSError):
        return (
            500,
            (
                f"{error} If a file is damaged, remove it and run the same `{spelled('filter')}` to"
                " write it again."
            ),
        )
    if isinstance(error, BadAddress | BadValue):
        return 400, str(error)
    if isinstance(error, _SAID):
        return 500, str(error)
    _log.error("a page failed", exc_info=error)
    why = f"{type(error).__name__}: {error}"
    return (
        500,
        (
            f"A file of this output may be damaged ({why}). Remove it, and run"
            f" `{spelled('filter')}` to write it."
        ),
    )


def _file(content: str, kind: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


class _Guarded:
    """Middleware that adds headers which keep pages from running or loading anything but their
    own."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._headers = [
            (name.lower().encode(), value.encode()) for name, value in _HEADERS.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, guarded)
