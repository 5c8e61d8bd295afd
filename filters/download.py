"""Reasons why stage `download` did not fetch an image: each is a reason of the cascade."""

from enum import StrEnum


class Reason(StrEnum):
    """A reason why an image was not fetched. The values are written to data sets: add, never
    rename."""

    # missing, not http(s), too long, or with a user, a control character, a broken host or port
    BAD_URL = "bad_url"
    BLOCKED_PORT = "blocked_port"  # a port outside `DownloadSettings.ports`
    # the host is, or resolves to, an address that is neither public nor allowed
    BLOCKED_ADDRESS = "blocked_address"
    DNS_FAILED = (  # the host name has no address, or the resolver failed or did not answer in time
        "dns_failed"
    )
    CONNECT_FAILED = "connect_failed"  # refused, unreachable, no trustworthy TLS, or cut
    TIMEOUT = "timeout"  # connecting, the headers or the body took longer than allowed
    HTTP_STATUS = "http_status"  # the server answered with neither 200 nor a redirect
    # not HTTP, headers too long, no redirect target, an unknown encoding, or a bad body
    BAD_RESPONSE = "bad_response"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_LARGE = "too_large"  # more bytes than allowed, as sent or after decompression
    OPT_OUT = "opt_out"  # the server opts out, see `opts_out` in pipelines/fetch/fetcher.py
    ROBOTS_DENIED = "robots_denied"  # by the host's robots.txt, or that could not be read
    HASH_MISMATCH = "hash_mismatch"  # the bytes do not match the manifest's sha256 or md5
    # HTML, a truncated, broken or too complex image, or a format that is not accepted
    NOT_AN_IMAGE = "not_an_image"
    TOO_MANY_PIXELS = "too_many_pixels"  # according to its header, before any pixel is decoded
    UNEXPECTED_ERROR = (  # our own code failed on the response; the message has the error
        "unexpected_error"
    )


EXPLANATIONS = {
    Reason.BAD_URL: (
        "The row's URL, or one that it redirects to, is missing or not an accepted web address."
    ),
    Reason.BLOCKED_PORT: "The URL leads to a port that downloads do not use.",
    Reason.BLOCKED_ADDRESS: (
        "The URL leads to a machine outside the public internet. Downloads contact such machines "
        "only if allowed."
    ),
    Reason.DNS_FAILED: "The server's name did not resolve.",
    Reason.CONNECT_FAILED: (
        "The server could not be reached, or not safely, or the connection broke."
    ),
    Reason.TIMEOUT: "The server took too long.",
    Reason.HTTP_STATUS: (
        "The server answered with an HTTP status other than 200, such as 404 (not found)."
    ),
    Reason.BAD_RESPONSE: "The server's answer was truncated, empty or invalid.",
    Reason.TOO_MANY_REDIRECTS: "The server redirected the request too often.",
    Reason.TOO_LARGE: "The file is larger than allowed.",
    Reason.OPT_OUT: "The server asks that its images are not indexed or not used for training.",
    Reason.ROBOTS_DENIED: (
        "The host's robots.txt does not allow us to request the image, or the host failed to send"
        " its robots.txt. The image was not requested."
    ),
    Reason.HASH_MISMATCH: "The image does not match the manifest's hash.",
    Reason.NOT_AN_IMAGE: (
        "The server sent no image, a corrupt one, or one that is not accepted, such as AVIF."
    ),
    Reason.TOO_MANY_PIXELS: "The image has more pixels than allowed.",
    Reason.UNEXPECTED_ERROR: (
        "This program failed on the server's answer; the records of the download hold the message."
    ),
}
"""An explanation of each reason, for readers of a report."""


class FetchError(Exception):
    """The failure to fetch an image. Unprintable characters of the message, such as terminal codes,
    become blanks.

    If it is `temporary`, a later retry may succeed. `retry_after` is how many seconds the server
    asks to wait.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        temporary: bool = False,
        retry_after: float | None = None,
    ):
        super().__init__(reason, message)
        self.reason = reason
        self.message = "".join(sign if sign.isprintable() else " " for sign in message)
        self.temporary = temporary
        self.retry_after = retry_after
        self.attempts = 1  # number of attempts made before giving up; set by the fetcher

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"
