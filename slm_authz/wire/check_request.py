"""CheckRequest → RequestContext (envoy/service/auth/v3/external_auth.proto, attribute_context.proto). Enters: serialized bytes.

Headers come in `headers` or, with `encode_raw_headers`, in `header_map`; the body in `body` or `raw_body`: the verdict is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError

from slm_authz.reason import Denial, Reason
from slm_authz.request import RequestContext

_parse: Final = external_auth_pb2.CheckRequest.FromString
_OUR_NAME: Final = re.compile(r"x[-_]slm[-_]", re.IGNORECASE)

UNREADABLE: Final = Denial(Reason.MALFORMED_REQUEST, "The gateway sent a call that cannot be read.")
TUNNEL: Final = Denial(Reason.PATH_NOT_ALLOWED, "Tunnels are not served here: CONNECT has no path.")
INCOMPLETE: Final = Denial(Reason.MALFORMED_REQUEST, "The gateway sent a call without a method or a path.")


def decode(payload: bytes, *, traceparent: str | None, remaining: float | None) -> RequestContext | Denial:
    """Read one call. `traceparent` comes from the RPC's metadata, `remaining` (seconds) from its deadline."""
    try:
        attributes = _parse(payload).attributes
    except DecodeError:
        return UNREADABLE
    http = attributes.request.http
    method, target = http.method, http.path
    if not method or not target:
        return TUNNEL if method == "CONNECT" else INCOMPLETE
    headers: Mapping[str, str] = http.headers
    repeated: frozenset[str] = frozenset()
    if http.HasField("header_map"):
        headers, repeated = _merge(headers, http.header_map.headers)
    return RequestContext(
        method,
        target,
        http.host,
        headers,
        repeated,
        http.raw_body or http.body.encode(),
        attributes.source.address.socket_address.address,
        headers.get("x-request-id") or http.id,
        traceparent,
        remaining,
        foreign_headers(headers),
    )


def foreign_headers(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Names of client headers that look like ours, in any spelling. Looks at names only: a look at the body would cost what it is long."""
    if "slm" not in "\n".join(headers).lower():
        return ()
    return tuple(name for name in headers if _OUR_NAME.match(name) is not None)


def _merge(headers: Mapping[str, str], pairs: Any) -> tuple[Mapping[str, str], frozenset[str]]:
    """Headers sent one by one, joined by commas as RFC 9110, 5.3 has it, and the names that came more than once."""
    merged = {name.lower(): value for name, value in headers.items()}
    repeated: set[str] = set()
    seen: set[str] = set()
    for pair in pairs:
        name = pair.key.lower()
        value = pair.value or pair.raw_value.decode("utf-8", "replace")  # what is not UTF-8 has no place in a Struct or a log
        if name in seen:
            repeated.add(name)
            merged[name] = f"{merged[name]},{value}"
        else:
            seen.add(name)
            merged[name] = value
    return merged, frozenset(repeated)
