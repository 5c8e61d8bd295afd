"""Parse URLs from manifests strictly, and escape them."""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from open_diht.filters.download import FetchError, Reason

MAX_URL = 8_192
"""Longest accepted URL, in characters."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_HOST = re.compile(r"[a-z0-9_][a-z0-9._-]*")
_ESCAPED = (  # left unescaped: ~, reserved characters, and %, for existing escapes
    "%/:=&?~#+!$,;'@()*[]"
)


@dataclass(frozen=True)
class Target:
    """A parsed and normalized URL."""

    scheme: str
    """http or https."""
    host: str
    """Host name or address, lower case, ASCII; an IPv6 address without brackets."""
    port: int
    path: str
    """Path and query without fragment, ASCII, escaped; begins with a slash."""

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"
        )

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(url: str | None, base: Target | None = None) -> Target:
    """Parse a URL from the manifest, or from a redirect of `base`. Spaces and non-ASCII letters,
    which many manifests leave unescaped, are escaped. Host names in other scripts are converted to
    their ASCII (IDNA) form. Raise FetchError bad_url, or blocked_address for an IPv6 address with a
    zone. A user or password is refused, since it can disguise the real host."""
    text = (url or "").strip(" \t\r\n")
    if not text:
        raise _bad(text, "the row has no address")
    if len(text) > MAX_URL:
        raise _bad(text, f"{len(text)} characters, more than {MAX_URL}")
    if _CONTROL.search(text):
        raise _bad(text, "control characters")
    try:
        parts = urlsplit(urljoin(str(base), text) if base else text)
        port = parts.port
    except ValueError as error:
        raise _bad(text, str(error)) from error
    if parts.scheme not in ("http", "https"):
        raise _bad(text, f"scheme {parts.scheme!r} is not http or https")
    if "@" in parts.netloc or "\\" in parts.netloc:
        raise _bad(text, "a user, password or backslash before the path")
    if port == 0:
        raise _bad(text, "port 0")
    path = quote(parts.path or "/", safe=_ESCAPED) + (
        f"?{quote(parts.query, safe=_ESCAPED)}" if parts.query else ""
    )
    return Target(
        scheme=parts.scheme,
        host=_host(parts.hostname or "", text),
        port=port or (443 if parts.scheme == "https" else 80),
        path=path if path.startswith("/") else f"/{path}",
    )


def _host(host: str, url: str) -> str:
    """Return the host in lower-case ASCII. Whether it may be requested depends on what it resolves
    to."""
    if ":" in host:
        if "%" in host:  # only addresses of local scope have zones
            raise FetchError(Reason.BLOCKED_ADDRESS, f"{host} is not a public address")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise _bad(url, f"host: {error}") from error
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise _bad(url, f"host {host!r}: {error}") from error
    name = name.lower().removesuffix(".")
    # Underscores and hyphens in odd places break the rules but are in use.
    if (
        not _HOST.fullmatch(name)
        or ".." in name
        or len(name) > 253
        or any(len(part) > 63 for part in name.split("."))
    ):
        raise _bad(url, f"host {host!r} is not a host name or an address")
    return name


def _bad(url: str, why: str) -> FetchError:
    return FetchError(Reason.BAD_URL, f"{url[:200]!r}: {why}")
