"""The client's address, as far as it can be known, and the network that an address belongs to.

Enters: what the gateway says of its peer and of the hops before it. Leaves: an address in canonical form, or None: never one that the
client itself could have written.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from slm_authz.request.context import RequestContext

_LONGEST: Final = 45
"""An IPv6 address with IPv4 tail. Longer text is never remembered, or it would fill the memory."""


def parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address, IPv4-mapped IPv6 as IPv4; None for anything else (names, ports and zones included)."""
    text = text.strip()
    return _parse(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=8192)
def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def client_address(request: RequestContext, trusted_hops: int | None) -> str | None:
    """The address that lists and limits mean; None where it cannot be known, which no list allows.

    `trusted_hops` None: the direct peer. Else that many proxies of the operator's stand before the gateway, and each has appended to
    X-Forwarded-For whom it saw: the client is that many elements from the right (Envoy's `xff_num_trusted_hops`); what stands further
    left is the client's own word. A gateway that appends its own peer before it asks (no `skip_xff_append`) is one proxy more.
    Too few elements, or one that is no address: unknown, not the peer, whom a list may allow for the proxy's sake.
    """
    if trusted_hops is None:
        return _canonical(request.peer)
    forwarded = request.headers.get("x-forwarded-for")
    if forwarded is None:
        return None
    hops = forwarded.rsplit(",", trusted_hops)
    if len(hops) < trusted_hops:
        return None
    return _canonical(hops[-trusted_hops])


def _canonical(text: str) -> str | None:
    text = text.strip()
    return _canonical_short(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=8192)
def _canonical_short(text: str) -> str | None:
    address = _parse(text)
    return str(address) if address is not None else None


@lru_cache(maxsize=8192)
def _network(text: str) -> str:
    address = _parse(text)
    if address is None:
        return ""
    return str(ip_network((address, 24 if address.version == 4 else 64), strict=False))


def network(text: str) -> str:
    """The source network of an address: /24 or /64; "" where it is unknown."""
    text = text.strip()
    return _network(text) if len(text) <= _LONGEST else ""
