"""One request over one connection to a checked address, with a deadline and a byte limit.

http.client's own limits apply per line and per read: a server that sends a byte every few seconds
can keep it busy forever. Here the socket itself enforces the deadline and the byte limit.
"""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from open_diht.common.image_formats import FORMATS
from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.addresses import Address
from open_diht.pipelines.fetch.urls import Target

Dial = Callable[[Address, int, float], socket.socket]
"""Maps an address, a port and a timeout in seconds to a connected TCP socket. Raises OSError."""

MAX_ADDRESSES = 4
"""Maximum number of addresses of one host that are tried."""


_ACCEPT = ",".join([*(f"image/{form.lower()}" for form in FORMATS), "*/*;q=0.1"])
"""Omits image/*: servers that store an image in several formats may send AVIF, which we do not
read."""


class _Bounded:
    """A mixin that limits reading from a plain or TLS socket in time and bytes. Both read through
    `recv_into`."""

    deadline: float
    allowance: int

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        # Each read gets only the time that is left.
        self.settimeout(_left(self.deadline))  # type: ignore[attr-defined]
        count: int = super().recv_into(*args, **kwargs)  # type: ignore[misc]
        self.allowance -= count
        if self.allowance < 0:
            raise FetchError(Reason.TOO_LARGE, "the server sends more than allowed")
        return count


class _PlainSocket(_Bounded, socket.socket):
    pass


class _TLSSocket(_Bounded, ssl.SSLSocket):
    pass


def tls_context() -> ssl.SSLContext:
    """Return a context that verifies certificates and host names, and creates bounded sockets."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    return context


def dial(address: Address, port: int, timeout: float) -> socket.socket:
    """Connect to an address, without resolving any name (see `Dial`)."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = _PlainSocket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("out of time")
    return left


class GuardedConnection(http.client.HTTPConnection):
    """A connection to one of the checked addresses of a target, over TLS if `context` is given."""

    def __init__(
        self,
        target: Target,
        addresses: Sequence[Address],
        *,
        deadline: float,
        connect_timeout: float,
        max_header_bytes: int,
        context: ssl.SSLContext | None,
        dial: Dial = dial,
    ):
        super().__init__(target.host, target.port)
        self._target = target
        self._addresses = addresses[:MAX_ADDRESSES]
        self._context = context
        self._dial = dial
        self._deadline = deadline
        self._connect_timeout = connect_timeout
        self._max_header_bytes = max_header_bytes

    def connect(self) -> None:
        """Connect to the first address that accepts. Raises FetchError connect_failed or
        timeout."""
        until = min(self._deadline, time.monotonic() + self._connect_timeout)
        for index, address in enumerate(self._addresses):
            last = index == len(self._addresses) - 1
            try:
                # Leave time for the other addresses.
                share = _left(until) if last else _left(until) / 2
                sock = self._dial(address, self._target.port, share)
            except OSError as error:
                if last:
                    raise _not_connected(self._target, error) from error
                continue
            self.sock = self._bounded = self._secured(sock, until)
            return

    def _secured(self, sock: socket.socket, until: float) -> socket.socket:
        try:
            if self._context is not None:
                sock.settimeout(_left(until))
                _permit(sock, self._deadline, self._max_header_bytes)
                sock = self._context.wrap_socket(sock, server_hostname=self._target.host)
            # With TLS this is another socket, whose limits are not set yet.
            _permit(sock, self._deadline, self._max_header_bytes)
        except (OSError, ssl.SSLError, ValueError) as error:
            sock.close()
            raise _not_connected(self._target, error) from error
        return sock

    def allow_body(self, count: int) -> None:
        """Allow `count` more bytes to be received. Call it once the headers are read."""
        _permit(self._bounded, self._deadline, count)  # http.client may have detached `sock` by now


def _permit(sock: Any, deadline: float, allowance: int) -> None:
    sock.deadline = deadline
    sock.allowance = allowance


def _not_connected(target: Target, error: Exception) -> FetchError:
    if isinstance(error, TimeoutError):
        return FetchError(Reason.TIMEOUT, f"{target.host}: no connection in time", temporary=True)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    # These errors would occur again; others may be temporary.
    refused = isinstance(error, ConnectionRefusedError | ssl.SSLCertVerificationError | ValueError)
    return FetchError(Reason.CONNECT_FAILED, f"{target.host}: {text}", temporary=not refused)


@contextlib.contextmanager
def response(
    connection: GuardedConnection, target: Target, user_agent: str, first: int | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Request a target and yield the response, with its headers read and its body unread. The
    connection is closed at the end. Raise FetchError for every failure here or while the caller
    reads, so that a bad response costs only the rows with that URL. MemoryError passes through.
    With `first`, only so many bytes are requested; servers may send more."""
    try:
        connection.connect()
        connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", target.authority)
        connection.putheader("User-Agent", user_agent)
        connection.putheader("Accept", _ACCEPT)
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        if first is not None:
            connection.putheader("Range", f"bytes=0-{first - 1}")
        connection.endheaders()
        try:
            answer = connection.getresponse()
        except FetchError as error:  # the headers exceeded the byte limit
            raise FetchError(Reason.BAD_RESPONSE, f"{target.host}: headers without end") from error
        with answer:
            yield answer
    except TimeoutError as error:
        raise FetchError(
            Reason.TIMEOUT, f"{target.host}: not done in time", temporary=True
        ) from error
    # Both an OSError and an HTTPException, so it is handled before these.
    except http.client.RemoteDisconnected as error:
        raise FetchError(
            Reason.CONNECT_FAILED, f"{target.host}: closed without an answer", temporary=True
        ) from error
    except http.client.IncompleteRead as error:
        raise FetchError(
            Reason.BAD_RESPONSE, f"{target.host}: the body ends too early", temporary=True
        ) from error
    except (http.client.HTTPException, ValueError) as error:
        raise FetchError(
            Reason.BAD_RESPONSE, f"{target.host}: {type(error).__name__}: {error}"[:300]
        ) from error
    except OSError as error:
        raise FetchError(
            Reason.CONNECT_FAILED, f"{target.host}: {error.strerror or error}", temporary=True
        ) from error
    except (FetchError, MemoryError):  # running out of memory says nothing about the response
        raise
    except Exception as error:
        raise FetchError(
            Reason.UNEXPECTED_ERROR, f"{target.host}: {type(error).__name__}: {error}"[:300]
        ) from error
    finally:
        connection.close()
