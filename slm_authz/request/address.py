"""The client's address, as far as it can be known, and the network that an address belongs to."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from slm_authz.request.context import RequestContext


@lru_cache(maxsize=8192)
def parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address, IPv4-mapped IPv6 as IPv4; None for anything else (names, ports and zones included)."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def client_address(request: RequestContext, trusted_hops: int | None) -> str | None:
    """The address that lists and limits mean; None where it cannot be known, which no list allows.

    `trusted_hops` None: the direct peer. Else X-Forwarded-For counted from the right: what the client itself wrote stands further
    left than the hops that the operator trusts, and is never believed.
    """
    if trusted_hops is None:
        return _canonical(request.peer)
    forwarded = request.headers.get("x-forwarded-for")
    if forwarded is None:
        return None
    hops = forwarded.split(",")
    if len(hops) < trusted_hops:
        return None
    return _canonical(hops[-trusted_hops])


@lru_cache(maxsize=8192)
def _canonical(text: str) -> str | None:
    address = parse(text)
    return str(address) if address is not None else None


@lru_cache(maxsize=8192)
def network(text: str) -> str:
    """The source network of an address: /24 or /64; "" where it is unknown."""
    address = parse(text)
    if address is None:
        return ""
    return str(ip_network((address, 24 if address.version == 4 else 64), strict=False))
