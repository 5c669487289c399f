"""What ROOM 2 hands on: a verified caller. Built once per credential and remembered, never per request."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol, runtime_checkable

import msgspec

from slm_authz.reason import Denial
from slm_authz.request import RequestContext


class Principal(msgspec.Struct, eq=False):
    """A verified caller. All strings that travel in headers are visible ASCII of at most 256 bytes.

    method:   name of the identity method that verified it (`api_key`, `anonymous`, a plugin's name)
    client:   who pays; a client is unique within its tenant
    tenant:   None: the client is its own tenant
    key_id:   None: the key is the client
    scopes:   OAuth 2.0 scopes (RFC 6749, 3.3)
    models:   the credential's own list of model names or globs; None: all that the tier has
    allow_ip: networks that the client address must be in; empty: any
    answer, account: opaque slots in which `wire` and `quota` keep what they derived from this principal
    """

    method: str
    client: str
    tier: str
    tenant: str | None = None
    key_id: str | None = None
    scopes: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    models: tuple[str, ...] | None = None
    allow_ip: tuple[IPv4Network | IPv6Network, ...] = ()
    answer: object = None
    account: object = None


class Deferred(msgspec.Struct, eq=False):
    """An answer that has to wait for something else. It leaves the batch; `answer` is awaited in a bounded place."""

    answer: Awaitable[Principal | Denial | None]


@runtime_checkable
class IdentityMethod(Protocol):
    """A way to verify callers: entry point group `slm_authz.identity`.

    The entry point is a callable that takes the method's own mapping from the configuration and returns this.
    """

    def identify(self, request: RequestContext, now: int) -> Principal | Denial | Deferred | None:
        """Verify the caller. `now` is Unix time in milliseconds. None: this request carries nothing of mine."""
        ...
