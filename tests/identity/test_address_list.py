"""A key's address list: decided by networks, never by text."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from slm_authz.identity.address_list import allowed
from slm_authz.identity.principal import Principal
from slm_authz.identity.record import networks


@pytest.mark.parametrize(
    ("listed", "address", "verdict"),
    [
        ([], "192.0.2.1", True),
        ([], None, True),
        (["10.0.0.0/8"], "10.255.255.255", True),
        (["10.0.0.0/8"], "11.0.0.0", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["::ffff:10.0.0.0/104"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.10", False),
        (["2001:db8::/32"], "2001:DB8::1", True),
        (["2001:db8::/32"], "10.0.0.1", False),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["0.0.0.0/0"], "192.0.2.1", True),
        (["::/0"], "192.0.2.1", False),
        (["10.0.0.0/8", "192.0.2.0/24"], "192.0.2.9", True),
        (["0.0.0.0/0", "::/0"], None, False),
        (["0.0.0.0/0", "::/0"], "", False),
        (["0.0.0.0/0", "::/0"], "localhost", False),
        (["0.0.0.0/0"], "10.0.0.1:8080", False),
        (["0.0.0.0/0"], "010.0.0.1", False),
        (["fe80::/10"], "fe80::1%eth0", False),
    ],
)
def test_table(listed: list[str], address: str | None, verdict: bool) -> None:
    principal = Principal("api_key", "acme", "free", allow_ip=tuple(map(ip_network, networks(listed))))
    assert allowed(principal, address) is verdict
