"""One request over one connection: to a checked address, with an end in time and a bound on what is received.

http.client's own limits are per line and per read: a server that sends a byte every few seconds keeps it busy for ever.
Here the socket itself knows the deadline and how much it may receive.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from open_diht.common.image_formats import FORMATS
from open_diht.pipelines.fetch.addresses import Address
from open_diht.pipelines.fetch.reasons import FetchError, Reason
from open_diht.pipelines.fetch.urls import Target

Dial = Callable[[Address, int, float], socket.socket]
"""Address, port and longest time in seconds to a connected TCP socket. Raises OSError."""

MAX_ADDRESSES = 4
"""Addresses of one host that are tried."""


_ACCEPT = ",".join([*(f"image/{form.lower()}" for form in FORMATS), "*/*;q=0.1"])
"""No image/*: servers that have an image in several formats would send AVIF, which is not read."""


class _Bounded:
    """What a socket may still do; mixed into plain and TLS sockets. Both read through `recv_into`."""

    deadline: float
    allowance: int

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.deadline))  # type: ignore[attr-defined]
        count: int = super().recv_into(*args, **kwargs)  # type: ignore[misc]
        self.allowance -= count
        if self.allowance < 0:
            raise FetchError(Reason.TOO_LARGE, "the server sends more than it may")
        return count


class _PlainSocket(_Bounded, socket.socket):
    pass


class _TLSSocket(_Bounded, ssl.SSLSocket):
    pass


def tls_context() -> ssl.SSLContext:
    """Returns a context that verifies certificates and names, and makes bounded sockets."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    return context


def dial(address: Address, port: int, timeout: float) -> socket.socket:
    """Connects to an address; see `Dial`. No name is resolved here."""
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
        raise TimeoutError("the time is up")
    return left


class GuardedConnection(http.client.HTTPConnection):
    """A connection to one of the checked addresses of a target; with TLS where there is a `context`."""

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
        self._target, self._addresses, self._context, self._dial = target, addresses[:MAX_ADDRESSES], context, dial
        self._deadline, self._connect_timeout, self._max_header_bytes = deadline, connect_timeout, max_header_bytes

    def connect(self) -> None:
        """Connects to the first address that answers. Raises FetchError connect_failed or timeout."""
        until = min(self._deadline, time.monotonic() + self._connect_timeout)
        for index, address in enumerate(self._addresses):
            last = index == len(self._addresses) - 1
            try:
                share = _left(until) if last else _left(until) / 2  # a dead first address leaves time for the others
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
            _permit(sock, self._deadline, self._max_header_bytes)
        except (OSError, ssl.SSLError, ValueError) as error:
            sock.close()
            raise _not_connected(self._target, error) from error
        return sock

    def allow_body(self, count: int) -> None:
        """From now on so many bytes may be received: the headers are read."""
        _permit(self._bounded, self._deadline, count)  # http.client has given `sock` away by now


def _permit(sock: Any, deadline: float, allowance: int) -> None:
    sock.deadline, sock.allowance = deadline, allowance


def _not_connected(target: Target, error: Exception) -> FetchError:
    if isinstance(error, TimeoutError):
        return FetchError(Reason.TIMEOUT, f"{target.host}: no connection in time", temporary=True)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    refused = isinstance(error, ConnectionRefusedError | ssl.SSLCertVerificationError | ValueError)
    return FetchError(Reason.CONNECT_FAILED, f"{target.host}: {text}", temporary=not refused)


@contextlib.contextmanager
def response(connection: GuardedConnection, target: Target, user_agent: str) -> Iterator[http.client.HTTPResponse]:
    """Asks for a target and yields the response, its headers read, its body not yet.

    Raises:
        FetchError: for everything that goes wrong here or while the caller reads: whatever an answer holds, it costs
            the row that asked, never the rows beside it.
    """
    try:
        connection.connect()
        connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", target.authority)
        connection.putheader("User-Agent", user_agent)
        connection.putheader("Accept", _ACCEPT)
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        connection.endheaders()
        try:
            answer = connection.getresponse()
        except FetchError as error:
            raise FetchError(Reason.BAD_RESPONSE, f"{target.host}: headers without end") from error
        with answer:
            yield answer
    except TimeoutError as error:
        raise FetchError(Reason.TIMEOUT, f"{target.host}: not done in time", temporary=True) from error
    except http.client.RemoteDisconnected as error:
        raise FetchError(Reason.CONNECT_FAILED, f"{target.host}: closed without an answer", temporary=True) from error
    except http.client.IncompleteRead as error:
        raise FetchError(Reason.BAD_RESPONSE, f"{target.host}: the body ends too early", temporary=True) from error
    except (http.client.HTTPException, ValueError) as error:
        raise FetchError(Reason.BAD_RESPONSE, f"{target.host}: {type(error).__name__}: {error}"[:300]) from error
    except OSError as error:
        raise FetchError(Reason.CONNECT_FAILED, f"{target.host}: {error.strerror or error}", temporary=True) from error
    except (FetchError, MemoryError):  # too little memory says nothing of the answer
        raise
    except Exception as error:
        raise FetchError(Reason.UNEXPECTED_ERROR, f"{target.host}: {type(error).__name__}: {error}"[:300]) from error
    finally:
        connection.close()
