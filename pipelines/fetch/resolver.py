"""Resolve a host once and check every address it resolves to."""

import ipaddress
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.addresses import Address, Allowed, is_public
from open_diht.pipelines.fetch.urls import Target

Resolve = Callable[[str, int, float], list[str]]
"""Maps a host, a port and a timeout in seconds to addresses as text. Raises FetchError
dns_failed."""

# Definite answers; other errors may be temporary.
_SAYS_NO = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAIL)


class SystemResolver:
    """The system's resolver, with a timeout that the caller sets."""

    def __init__(self, threads: int):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    def __call__(self, host: str, port: int, timeout: float) -> list[str]:
        """Resolve a host; see `Resolve`. Also reads unusual IPv4 forms: 2130706433, 0x7f.1,
        0177.0.0.1."""
        answer = self._pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            return list(dict.fromkeys(str(entry[4][0]) for entry in answer.result(timeout)))
        except NotInTime as error:
            answer.cancel()
            raise FetchError(
                Reason.DNS_FAILED, f"{host}: no answer in {timeout:.1f} s", temporary=True
            ) from error
        except socket.gaierror as error:
            raise FetchError(
                Reason.DNS_FAILED,
                f"{host}: {error.strerror}",
                temporary=error.errno not in _SAYS_NO,
            ) from error
        except (OSError, UnicodeError) as error:
            raise FetchError(
                Reason.DNS_FAILED, f"{host}: {error}", temporary=isinstance(error, OSError)
            ) from error

    def close(self) -> None:
        """Shut down the threads once their running lookups end."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def checked_addresses(
    target: Target,
    resolve: Resolve,
    timeout: float,
    ports: Iterable[int],
    allowed: Iterable[Allowed],
) -> list[Address]:
    """Return the checked addresses of a target's host. Connect to these: a second lookup could give
    others. `allowed` are exceptions, with any address and port. Raise FetchError dns_failed,
    blocked_port, or blocked_address. A host is blocked if any of its addresses is neither public
    nor allowed: a name with even one private address is not trusted."""
    allowed, ports = tuple(allowed), tuple(ports)
    if target.port not in ports and all(entry.port != target.port for entry in allowed):
        raise FetchError(Reason.BLOCKED_PORT, f"{target.host}: port {target.port}")
    addresses = [_address(text, target) for text in resolve(target.host, target.port, timeout)]
    if not addresses:
        raise FetchError(Reason.DNS_FAILED, f"{target.host}: no address")
    for address in addresses:
        if any(entry.covers(address, target.port) for entry in allowed):
            continue
        if not is_public(address):
            which = "" if target.host == str(address) else f" is {address}, which"
            raise FetchError(
                Reason.BLOCKED_ADDRESS, f"{target.host}{which} is not a public address"
            )
        if target.port not in ports:
            raise FetchError(Reason.BLOCKED_PORT, f"{target.host}: port {target.port}")
    return addresses


def _address(text: str, target: Target) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise FetchError(
            Reason.DNS_FAILED, f"{target.host}: the resolver answered {text!r}"
        ) from error
