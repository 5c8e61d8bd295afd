"""Settings for fetching and storing images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from open_diht.common.fields import LARGEST, BadValue, Positive, Range, check_fields
from open_diht.common.installation import program_version
from open_diht.filters.download import Reason
from open_diht.pipelines.fetch.addresses import Allowed

_DAY_S = 86_400
Threads = Annotated[int, Range(at_least=1, at_most=4096)]
"""Threads of one process. Each may have an open connection and two images in memory."""
Patience = Annotated[float, Range(at_least=0.01, at_most=_DAY_S)]
Wait = Annotated[float, Range(at_least=0, at_most=_DAY_S)]
Repeats = Annotated[int, Range(at_least=0, at_most=1000)]
UNREACHED = (Reason.DNS_FAILED, Reason.CONNECT_FAILED, Reason.TIMEOUT)
_MAY_LIFT = {
    "timeout": UNREACHED,
    "connect_timeout": UNREACHED,
    "retries": (*UNREACHED, Reason.HTTP_STATUS, Reason.BAD_RESPONSE, Reason.ROBOTS_DENIED),
    "max_wait": (Reason.HTTP_STATUS,),
    "max_redirects": (Reason.TOO_MANY_REDIRECTS,),
    "max_bytes": (Reason.TOO_LARGE, Reason.BAD_RESPONSE),
    "max_header_bytes": (Reason.BAD_RESPONSE,),
    "max_pixels": (Reason.TOO_MANY_PIXELS,),
    "ports": (Reason.BLOCKED_PORT,),
    "allow": (Reason.BLOCKED_PORT, Reason.BLOCKED_ADDRESS),
    "user_agent": (Reason.HTTP_STATUS, Reason.OPT_OUT, Reason.ROBOTS_DENIED),
}
"""Maps a setting to the reasons of failure that may no longer apply when it permits more than
before."""


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """Settings for fetching and storing images. Times are in seconds."""

    threads: Threads = 64
    """Requests at a time in each worker process."""
    timeout: Patience = 15.0
    """Most seconds of one attempt, from name resolution to the last byte, redirects included."""
    connect_timeout: Patience = 5.0
    """Longest time for a name resolution, and for a connection including its TLS handshake."""
    retries: Repeats = 1
    """Attempts after the first, for temporary failures. These are errors of the resolver, timeouts,
    broken or failed connections (unless refused, or with an invalid certificate), truncated bodies,
    and the statuses 408, 429, 502, 503 and 504. A dead host that times out costs another
    `connect_timeout` for each retry."""
    backoff: Wait = 1.0
    """Wait before the first retry, give or take a quarter; doubled for each further retry."""
    max_wait: Wait = 15.0
    """Longest wait before a retry. If Retry-After asks for more, the server is not asked again."""
    max_redirects: Repeats = 5
    """Most redirects in one attempt. Every redirect is checked like the first URL."""
    max_bytes: Positive = 16 * 2**20
    """Most bytes of an image, as sent and after decompression. Up to 2 x `threads` images are in
    memory at once."""
    max_header_bytes: Annotated[int, Range(at_least=1024, at_most=LARGEST)] = 64 * 2**10
    """Most bytes of a response before its body."""
    max_pixels: Positive = 100_000_000
    """Largest width x height according to the image's header, checked before any pixel is
    decoded."""
    image_size: Annotated[int, Range(at_least=32, at_most=LARGEST)] = 512
    """Longest side of stored images in pixels; larger images are downscaled. Text in smaller images
    is hard to read."""
    quality: Annotated[int, Range(at_least=1, at_most=100)] = 95
    """JPEG quality of stored images. A JPEG that needs no downscaling is stored unchanged."""
    ports: tuple[Annotated[int, Range(at_least=1, at_most=2**16 - 1)], ...] = (80, 443, 8080, 8443)
    """Ports that may be requested at public addresses."""
    allow: tuple[str, ...] = ()
    """Exceptions, as address:port or network:port. The address may be private, and the port need
    not be in `ports`."""
    respect_opt_out: bool = True
    """Whether to skip images whose server opts out: X-Robots-Tag noai, noimageai, noindex,
    noimageindex or none, or TDM-Reservation: 1."""
    respect_robots: bool = True
    """Whether to read the robots.txt of each host before its first image, and to skip images that
    it disallows for us, or for all if it does not name us."""
    user_agent: str = f"diht/{program_version()} (image-text data set filter)"
    """Name sent to servers in the User-Agent header; add a contact address. X-Robots-Tag and
    robots.txt may address us by its first word (without the version), or as img2dataset."""

    def __post_init__(self) -> None:
        try:
            check_fields(self)
        except BadValue as error:
            raise BadValue(f"download: {error}") from error
        if not self.user_agent.strip() or not (
            self.user_agent.isascii() and self.user_agent.isprintable()
        ):
            raise ValueError(
                f"download: user_agent is {self.user_agent!r}; it must be printable ASCII, and not"
                " blank"
            )
        for text in self.allow:
            Allowed.parse(text)

    def opt_outs(self) -> str:
        """Return which opt-outs of servers are obeyed, in words for the readers of a data set."""
        ways = {
            "robots.txt": self.respect_robots,
            "X-Robots-Tag and TDM-Reservation": self.respect_opt_out,
        }
        return ", ".join(f"{way} {'obeyed' if on else 'ignored'}" for way, on in ways.items())

    def identity(self) -> dict[str, object]:
        """Return the settings that stored images depend on. If one changes, all images are fetched
        again. `limits` returns the settings that only decide which downloads fail."""
        names = ["image_size", "quality", "respect_opt_out"]
        if not self.respect_robots:  # at its default it changes no fingerprint of older outputs
            names.append("respect_robots")
        return {name: getattr(self, name) for name in names}

    def limits(self) -> dict[str, object]:
        """Return the settings that only decide which downloads fail, as JSON values."""
        values = {name: getattr(self, name) for name in _MAY_LIFT}
        # A new version of ours must not lift refusals.
        agent = self.user_agent.replace(f"/{program_version()}", "")
        return values | {"ports": list(self.ports), "allow": list(self.allow), "user_agent": agent}

    def may_lift(self, earlier: Mapping[str, object]) -> frozenset[str]:
        """Return the reasons of failures under `earlier` (see `limits`) that these settings may
        lift."""
        now = self.limits()
        looser = [name for name, before in earlier.items() if _permits_more(now[name], before)]
        return frozenset(str(reason) for name in looser for reason in _MAY_LIFT[name])


def _permits_more(now: Any, before: Any) -> bool:
    if isinstance(now, list):
        return not set(now) <= set(before)
    return bool(now != before if isinstance(now, str) else now > before)
