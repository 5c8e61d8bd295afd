"""Decide which internet addresses may be requested."""

import ipaddress
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Mostly from IANA's special-purpose registries for IPv4 and IPv6. They are written out here because
# `ipaddress`'s notion of "global" differs between Python versions, includes multicast and does not
# look into translated addresses.
_NOT_PUBLIC_4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; holds a cloud's metadata server
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's platform server, reachable from its machines only
        "169.254.0.0/16",  # link-local; holds the metadata servers of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # former 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# All assigned global unicast; loopback, local, mapped etc. lie outside.
_GLOBAL_6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""Upper halves of ISATAP interface identifiers, which embed an IPv4 address in the lower half,
under any prefix. The second one marks the IPv4 address as globally unique."""


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet. An address under the well-known
    NAT64 prefix is judged by its embedded IPv4 address, because resolvers of networks without IPv4
    map public IPv4 addresses to it. Mapped, compatible, 6to4, Teredo, ISATAP and local-use NAT64
    addresses, which embed an IPv4 address too, are never public."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if (
        address.scope_id is not None
        or address not in _GLOBAL_6
        or int(address) >> 32 & 0xFFFF_FFFF in _ISATAP
    ):
        return False
    return not any(address in network for network in _NOT_PUBLIC_6)


@dataclass(frozen=True)
class Allowed:
    """A network and port that are allowed even if private, or not in `DownloadSettings.ports`."""

    network: _Network
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse address:port or network:port, such as 127.0.0.1:8000, 10.1.0.0/16:80 or
        [fd00::1]:80. Raise ValueError for other text, also for names, which may resolve to
        anything."""
        host, _, port = text.strip().rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        try:
            network = ipaddress.ip_network(host)
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not address:port, for example 127.0.0.1:8000 or 10.1.0.0/16:80"
            ) from error
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"{text!r} has no port from 1 to 65535; write for example {host}:80")
        return cls(network, int(port))

    def covers(self, address: Address, port: int) -> bool:
        return port == self.port and address in self.network
