"""ROOM 1: the call as it arrived. Enters: what a gateway tells about one HTTP request. Leaves: `RequestContext`.

A trimmed Envoy `AttributeContext` (envoy/service/auth/v3/attribute_context.proto) without any protobuf type,
so that every room behind this one, and every test, works on plain values.
Forbidden here: protocol types, settings, any decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from slm_authz.reason import Denial

NO_NAMES: Final[frozenset[str]] = frozenset()
"""No header is known to have been repeated."""


class RequestContext(msgspec.Struct):
    """One HTTP request, as the gateway described it.

    method:      as sent, upper case in all registered methods
    target:      path and query as the upstream would get them (Envoy's `http.path`)
    host:        the `:authority`, as sent
    headers:     lower-case names; a header sent several times is one value joined by commas
    repeated:    names that are known to have been sent more than once (needs `encode_raw_headers`)
    body:        the bytes that the gateway buffered, at most its configured maximum
    peer:        address of the direct downstream peer, without port (`source.address`)
    request_id:  the caller's or the gateway's word, informative, never a key
    traceparent: W3C trace context of the gateway's own span, from the RPC's metadata; else None
    remaining:   seconds until the RPC's deadline when it was received; None: no deadline
    foreign:     names of client headers that claim to be ours (`x-slm-…`, `x_slm_…`); none of them is ever believed
    """

    method: str
    target: str
    host: str
    headers: Mapping[str, str]
    repeated: frozenset[str] = NO_NAMES
    body: bytes = b""
    peer: str = ""
    request_id: str = ""
    traceparent: str | None = None
    remaining: float | None = None
    foreign: tuple[str, ...] = ()


class Arrival(msgspec.Struct, eq=False):
    """One call of a batch, on its way through the corridor.

    call:      the transport's own id of the call; the answer goes back under it
    request:   the request, or the refusal that reading it already yielded
    cancelled: nobody waits for the answer any more
    received:  time.perf_counter_ns() at reception, for `latency_ms`
    identity:  what a deferred identity method answered, when the call comes back from waiting for it; else None
    """

    call: int
    request: RequestContext | Denial
    cancelled: bool = False
    received: int = 0
    identity: Any = None
