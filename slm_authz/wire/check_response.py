"""Decision → CheckResponse bytes (envoy/service/auth/v3/external_auth.proto). The last thing that happens to a call here.

An allow is assembled from three pieces: what depends on the caller (kept on the principal), on the model, and on this call. Denials are
answers inside an OK RPC; `status.code` of a denial is never 0, because Envoy reads 0 as allow whatever else is set.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from slm_authz.decision import Decision
from slm_authz.identity.principal import Principal
from slm_authz.llm.refusal import refusal_body
from slm_authz.reason import Denial, Reason
from slm_authz.wire.protobuf import field, integer, text, varint
from slm_authz.wire.status import PERMISSION_DENIED, grpc_code

FAMILY: Final = ("x-slm-client", "x-slm-tenant", "x-slm-tier", "x-slm-key-id", "x-slm-scopes", "x-slm-model", "x-slm-decision-id")
"""The headers that we own: each is either set or removed on its way to the upstream."""

ALWAYS_REMOVED: Final = ("x-ai-eg-model", "accept-encoding")
"""The first is another product's word for the model; an answer in an encoding hides its usage."""

_SAFE: Final = re.compile(r"[\x20-\x7e\t]*")

# CheckResponse: status 1, denied_response 2, ok_response 3, dynamic_metadata 4
# OkHttpResponse: headers 2, headers_to_remove 5, response_headers_to_add 6, query_parameters_to_remove 8
# DeniedHttpResponse: status 1, headers 2, body 3
# HeaderValueOption: header 1 {key 1, value 2}, append 2 (BoolValue), append_action 3 (OVERWRITE_IF_EXISTS_OR_ADD = 2)
_OVERWRITE: Final = field(2, b"") + integer(3, 2)  # append: an explicit BoolValue false is an empty message


class UnsafeHeaderError(Exception):
    """A header value that would be an injection. Never answered: the call gets the last resort."""


def _header(number: int, name: str, value: str) -> bytes:
    if _SAFE.fullmatch(value) is None:
        raise UnsafeHeaderError(name)
    return field(number, field(1, text(1, name) + text(2, value)) + _OVERWRITE)


@lru_cache(maxsize=4096)
def _cached_header(number: int, name: str, value: str) -> bytes:
    return _header(number, name, value)


def _member(name: str, value: bytes) -> bytes:
    """One entry of google.protobuf.Struct.fields: {key 1, value 2}."""
    return field(1, text(1, name) + field(2, value))


def _string(value: str) -> bytes:
    """google.protobuf.Value with string_value (3)."""
    return text(3, value)


class _Prefix:
    """What an allow says of one caller, for one set of filled credential places."""

    __slots__ = ("headers", "metadata", "strip")

    def __init__(self, principal: Principal | None, strip: tuple[str, ...]) -> None:
        self.strip = strip
        values = _identity(principal)
        headers = b"".join(_header(2, f"x-slm-{name}", value) for name, value in values.items())
        present = {f"x-slm-{name}" for name in values} | {"x-slm-model", "x-slm-decision-id"}
        gone = dict.fromkeys((*(name for name in FAMILY if name not in present), *ALWAYS_REMOVED, *(n for n in strip if n not in present)))
        self.headers = headers + b"".join(text(5, name) for name in gone)
        self.metadata = _identity_members(principal)


def _identity(principal: Principal | None) -> dict[str, str]:
    """Header names of our family (without `x-slm-`) and their values; what has no value is left out."""
    if principal is None:
        return {}
    values = {
        "client": principal.client,
        "tenant": principal.tenant,
        "tier": principal.tier,
        "key-id": principal.key_id,
        "scopes": ",".join(principal.scopes),
    }
    return {name: value for name, value in values.items() if value}


def _identity_members(principal: Principal | None) -> bytes:
    members = {name.replace("-", "_"): value for name, value in _identity(principal).items() if name != "scopes"}
    return b"".join(_member(name, _string(value)) for name, value in members.items())


_STATUS_OK: Final = field(1, integer(1, 0))
_KEY_SLM: Final = text(1, "slm")
_DECISION_KEY: Final = text(1, "decision_id")
_HOLD_KEY: Final = text(1, "hold")
_ID_HEADER: Final = "x-slm-decision-id"


@lru_cache(maxsize=4096)
def _model_pieces(model: str, api: str) -> tuple[bytes, bytes]:
    """(request header or its removal, metadata members) of a model and an API."""
    header = _header(2, "x-slm-model", model) if model else text(5, "x-slm-model")
    members = (_member("model", _string(model)) if model else b"") + (_member("api", _string(api)) if api else b"")
    return header, members


def _prefix(decision: Decision) -> _Prefix:
    principal, strip = decision.principal, decision.strip_headers
    if principal is None:
        return _Prefix(None, strip)
    prefix = principal.answer
    if type(prefix) is not _Prefix or (prefix.strip is not strip and prefix.strip != strip):
        prefix = principal.answer = _Prefix(principal, strip)
    return prefix


def _metadata(decision: Decision, members: bytes) -> bytes:
    """dynamic_metadata (4): Struct {slm: Struct {…}}; the request and token limits beside it where there is an opinion."""
    identity = decision.id.encode()
    one = varint(len(identity))
    value = b"\x1a" + one + identity
    entry = _DECISION_KEY + b"\x12" + varint(len(value)) + value
    members += b"\x0a" + varint(len(entry)) + entry
    if decision.hold:
        hold = decision.hold.encode()
        value = b"\x1a" + varint(len(hold)) + hold
        entry = _HOLD_KEY + b"\x12" + varint(len(value)) + value
        members += b"\x0a" + varint(len(entry)) + entry
    value = b"\x2a" + varint(len(members)) + members
    entry = _KEY_SLM + b"\x12" + varint(len(value)) + value
    metadata = b"\x0a" + varint(len(entry)) + entry
    for name, size, unit in decision.limits:
        metadata += _member(name, field(5, _member("requests_per_unit", _number(size)) + _member("unit", _string(unit))))
    return b"\x22" + varint(len(metadata)) + metadata


def _number(value: int) -> bytes:
    """google.protobuf.Value with number_value (2), a double."""
    import struct

    return b"\x11" + struct.pack("<d", float(value))


def encode(decision: Decision) -> bytes:
    """The answer to one call. UnsafeHeaderError: answer LAST_RESORT instead."""
    if decision.denial is not None:
        return _refuse(decision, decision.denial)
    if decision.reply is not None:
        return _serve(decision, decision.reply)
    prefix = _prefix(decision)
    model_header, model_members = _model_pieces(decision.model, decision.api)
    pieces = [prefix.headers, model_header, _header(2, _ID_HEADER, decision.id), _header(6, _ID_HEADER, decision.id)]
    for name, value in decision.headers:
        pieces.append(_cached_header(6, name, value))
    pieces.extend([text(8, name) for name in decision.strip_query])
    body = b"".join(pieces)
    return b"".join((_STATUS_OK, b"\x1a", varint(len(body)), body, _metadata(decision, prefix.metadata + model_members)))


def _denied(status: int, code: int, headers: list[tuple[str, str]], body: bytes, metadata: bytes) -> bytes:
    """Status {code}, denied_response {status {code}, headers, body}, dynamic_metadata."""
    denied = field(1, integer(1, status)) + b"".join(_header(2, name, value) for name, value in headers) + field(3, body)
    return field(1, integer(1, code)) + field(2, denied) + metadata


def _refuse(decision: Decision, denial: Denial) -> bytes:
    status = denial.http_status
    headers = [(_ID_HEADER, decision.id), ("content-type", "application/json")]
    if status == 401:
        headers.append(("www-authenticate", _challenge(denial)))
    if denial.retry_after is not None:
        headers.append(("retry-after", str(denial.retry_after)))
    if not denial.should_retry:
        headers.append(("x-should-retry", "false"))
    headers.extend(denial.headers)
    members = _identity_members(decision.principal) + _model_pieces(decision.model, decision.api)[1]
    return _denied(status, grpc_code(status), headers, refusal_body(decision.dialect, denial), _metadata(decision, members))


def _challenge(denial: Denial) -> str:
    """RFC 6750, 3: no error code where no credential was sent."""
    realm = 'Bearer realm="slm-authz"'
    return realm if denial.reason is Reason.NO_CREDENTIAL else f'{realm}, error="invalid_token"'


def _serve(decision: Decision, reply: bytes) -> bytes:
    """A denied response with status 200 and a body is served as it is: that is how we answer in the upstream's place."""
    headers = [(_ID_HEADER, decision.id), ("content-type", "application/json"), *decision.headers]
    members = _identity_members(decision.principal) + _model_pieces(decision.model, decision.api)[1]
    return _denied(200, PERMISSION_DENIED, headers, reply, _metadata(decision, members))


def _last_resort() -> bytes:
    denial = Denial(Reason.INTERNAL, "Something failed here; the call was not let through. Retry in a moment.", retry_after=1)
    headers = [("content-type", "application/json"), ("retry-after", "1")]
    return _denied(503, grpc_code(503), headers, refusal_body("openai", denial), b"")


LAST_RESORT: Final[bytes] = _last_resort()
"""The one answer without a decision id: constant, so that nothing can fail while giving it."""
