"""Public addresses, and the ones that are allowed besides."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.fetch import Allowed, is_public


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "93.184.215.14", "172.32.0.1", "2606:2800:21f:cb07::1", "2a00:1450::1", "64:ff9b::808:808"]
)
def test_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_no_private_address_is_public(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_loopback or address.is_link_local:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_a_disguise_makes_no_address_public(address: ipaddress.IPv4Address) -> None:
    """Of all forms that hold an IPv4 address, NAT64 alone is public, and as public as what is in it."""
    number, site = int(address), int(ipaddress.IPv6Address("2606:2800:21f:cb07::"))
    forms = {
        "compatible": number,
        "mapped": 0xFFFF << 32 | number,
        "translated": 0xFFFF << 48 | number,
        "6to4": 0x2002 << 112 | number << 80 | 1,
        "Teredo server": 0x2001 << 112 | number << 64,
        "Teredo client": 0x2001 << 112 | (number ^ 0xFFFF_FFFF),
        "NAT64 of one's own": 0x64FF9B0001 << 80 | number,
        "ISATAP": site | 0x5EFE << 32 | number,
        "ISATAP, unique": site | 0x0200_5EFE << 32 | number,
    }
    for form, disguised in forms.items():
        assert not is_public(ipaddress.IPv6Address(disguised)), form
    assert is_public(ipaddress.IPv6Address(0x64FF9B << 96 | number)) == is_public(address)


def test_allowed() -> None:
    one = Allowed.parse("127.0.0.1:8000")
    assert one.covers(ipaddress.ip_address("127.0.0.1"), 8000)
    assert not one.covers(ipaddress.ip_address("127.0.0.1"), 80)
    assert not one.covers(ipaddress.ip_address("127.0.0.2"), 8000)
    assert Allowed.parse("10.1.0.0/16:80").covers(ipaddress.ip_address("10.1.2.3"), 80)
    assert Allowed.parse("[fd00::1]:80").covers(ipaddress.ip_address("fd00::1"), 80)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "localhost:80", "127.0.0.1:", "127.0.0.1:0", "10.0.0.1/8:80", "::1"])
def test_what_allows_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8000|has no port"):
        Allowed.parse(text)
