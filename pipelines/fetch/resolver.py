"""From a host to the addresses that are asked: resolved once, every one of them checked."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime

from open_diht.pipelines.fetch.addresses import Address, Allowed, is_public
from open_diht.pipelines.fetch.reasons import FetchError, Reason
from open_diht.pipelines.fetch.urls import Target

Resolve = Callable[[str, int, float], list[str]]
"""Host, port and longest time in seconds to addresses as text. Raises FetchError dns_failed."""

_SAYS_NO = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAIL)


class SystemResolver:
    """The system's resolver, with a limit of time that it does not have itself."""

    def __init__(self, threads: int):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    def __call__(self, host: str, port: int, timeout: float) -> list[str]:
        """See `Resolve`. Also reads the many ways to write an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1."""
        answer = self._pool.submit(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            return list(dict.fromkeys(str(entry[4][0]) for entry in answer.result(timeout)))
        except NotInTime as error:
            answer.cancel()
            raise FetchError(Reason.DNS_FAILED, f"{host}: no answer in {timeout:.1f} s", temporary=True) from error
        except socket.gaierror as error:
            raise FetchError(
                Reason.DNS_FAILED, f"{host}: {error.strerror}", temporary=error.errno not in _SAYS_NO
            ) from error
        except (OSError, UnicodeError) as error:
            raise FetchError(Reason.DNS_FAILED, f"{host}: {error}", temporary=isinstance(error, OSError)) from error

    def close(self) -> None:
        """Ends its threads once their lookups have ended."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def checked_addresses(
    target: Target, resolve: Resolve, timeout: float, ports: Iterable[int], allowed: Iterable[Allowed]
) -> list[Address]:
    """Returns the addresses of a target's host. They are what is connected to: resolving again could give others.

    Raises:
        FetchError: dns_failed; blocked_address where any of them is not public (a name of which one address is private
            is no name to trust); blocked_port.
    """
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
            raise FetchError(Reason.BLOCKED_ADDRESS, f"{target.host}{which} is no public address")
        if target.port not in ports:
            raise FetchError(Reason.BLOCKED_PORT, f"{target.host}: port {target.port}")
    return addresses


def _address(text: str, target: Target) -> Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise FetchError(Reason.DNS_FAILED, f"{target.host}: the resolver answered {text!r}") from error
