"""The client's address: never one that the client wrote itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.request import RequestContext
from slm_authz.request.address import client_address, network, parse


def call(peer: str = "10.0.0.1", forwarded: str | None = None) -> RequestContext:
    return RequestContext("GET", "/", "h", {} if forwarded is None else {"x-forwarded-for": forwarded}, peer=peer)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:CB00:7107", "203.0.113.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        (" 203.0.113.7 ", "203.0.113.7"),
        ("fe80::1%eth0", None),
        ("203.0.113.7:443", None),
        ("[2001:db8::1]", None),
        ("203.0.113.07", None),
        ("0x7f.1", None),
        ("localhost", None),
        ("/run/envoy.sock", None),
        ("", None),
        ("1" * 100_000, None),
    ],
)
def test_the_peer_in_one_spelling(peer: str, address: str | None) -> None:
    assert client_address(call(peer, "6.6.6.6"), None) == address


@pytest.mark.parametrize(
    ("forwarded", "hops", "address"),
    [
        ("203.0.113.7", 1, "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", 1, "203.0.113.7"),
        ("6.6.6.6,203.0.113.7", 1, "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7, 10.0.0.2", 2, "203.0.113.7"),
        ("6.6.6.6, 7.7.7.7, 203.0.113.7, 10.0.0.2, 10.0.0.3", 3, "203.0.113.7"),
        ("6.6.6.6, ::ffff:203.0.113.7", 1, "203.0.113.7"),
        # unknown: never the next best
        (None, 1, None),
        ("", 1, None),
        ("203.0.113.7", 2, None),
        ("6.6.6.6,", 1, None),
        ("6.6.6.6, ,", 1, None),
        ("6.6.6.6, unknown", 1, None),
        ("6.6.6.6, 203.0.113.7:4711", 1, None),
        ("6.6.6.6, [2001:db8::1]", 1, None),
        ('6.6.6.6, "203.0.113.7"', 1, None),
        ("6.6.6.6, for=203.0.113.7", 1, None),
        ("6.6.6.6 203.0.113.7", 1, None),
        ("6.6.6.6, " + "7" * 100_000, 1, None),
    ],
)
def test_forwarded_addresses_are_counted_from_the_right(forwarded: str | None, hops: int, address: str | None) -> None:
    assert client_address(call(forwarded=forwarded), hops) == address


@given(forged=st.text(max_size=60), real=st.ip_addresses(), proxies=st.lists(st.ip_addresses(v=4), max_size=3))
def test_no_word_of_the_client_moves_what_the_proxies_wrote(forged: str, real: object, proxies: list[object]) -> None:
    appended = [str(real), *map(str, proxies)]
    expected = client_address(call(forwarded=", ".join(appended)), len(appended))
    assert client_address(call(forwarded=", ".join([forged, *appended])), len(appended)) == expected
    if parse(str(real)) is not None:
        assert expected == str(parse(str(real)))


@pytest.mark.parametrize(
    ("address", "net"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("", ""),
        ("nonsense", ""),
        ("x" * 1000, ""),
    ],
)
def test_the_network_of_an_address(address: str, net: str) -> None:
    assert network(address) == net
