"""Whether a caller's address is on its key's list. Decided after the key has proven valid: 403, not 401."""

from __future__ import annotations

from slm_authz.identity.principal import Principal
from slm_authz.request.address import parse


def allowed(principal: Principal, address: str | None) -> bool:
    """An empty list allows all; an address that cannot be known is on no list."""
    if not principal.allow_ip:
        return True
    known = parse(address) if address is not None else None
    return known is not None and any(known.version == network.version and known in network for network in principal.allow_ip)
