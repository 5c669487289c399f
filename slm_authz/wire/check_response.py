"""Decision → CheckResponse bytes (envoy/service/auth/v3/external_auth.proto). The last thing that happens to a call here.

An allow is assembled from what depends on the caller and the model (kept on the principal) and from values whose surroundings are
remembered by their length. Denials are answers inside an OK RPC; `status.code` of a denial is never 0: Envoy reads 0 as allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from slm_authz.decision import Decision
from slm_authz.identity.principal import Principal
from slm_authz.llm.refusal import refusal_body
from slm_authz.reason import Denial, Reason
from slm_authz.wire.protobuf import double, field, integer, opening, text, varint
from slm_authz.wire.status import PERMISSION_DENIED, grpc_code

FAMILY: Final = ("x-slm-client", "x-slm-tenant", "x-slm-tier", "x-slm-key-id", "x-slm-scopes", "x-slm-model", "x-slm-decision-id")
"""The headers that we own: each is either set or removed on its way to the upstream."""

ALWAYS_REMOVED: Final = ("x-ai-eg-model", "accept-encoding")
"""The first is another product's word for the model; an answer in an encoding hides its usage."""

# CheckResponse: status 1, denied_response 2, ok_response 3, dynamic_metadata 4
# OkHttpResponse: headers 2, headers_to_remove 5, response_headers_to_add 6, query_parameters_to_remove 8
# DeniedHttpResponse: status 1, headers 2, body 3
# HeaderValueOption: header 1 {key 1, value 2}, append 2 (BoolValue), append_action 3 (OVERWRITE_IF_EXISTS_OR_ADD = 2)
# google.protobuf.Struct: fields 1 {key 1, value 2}; Value: number_value 2, string_value 3, struct_value 5
_OVERWRITE: Final = field(2, b"") + integer(3, 2)  # append: an explicit BoolValue false is an empty message
_TO_UPSTREAM, _TO_CLIENT, _DENIED = 2, 6, 2
_OK: Final = field(1, integer(1, 0)) + b"\x1a"  # status {code: 0}, and the tag of ok_response
_VISIBLE: Final = bytes(range(0x20, 0x7F))
_ID: Final = "x-slm-decision-id"


class UnsafeHeaderError(Exception):
    """A header value that would be an injection. Never answered: the call gets the last resort."""


@lru_cache(maxsize=8192)
def _before_header(number: int, name: str, size: int) -> bytes:
    """All that stands before a header's value of `size` bytes; `_OVERWRITE` follows it."""
    pair = opening(1, text(1, name) + opening(2, b"", size), size)
    return opening(number, pair, size + len(_OVERWRITE))


@lru_cache(maxsize=8192)
def _before_next(name: str, size: int) -> bytes:
    """What ends a header to the client and stands before the next one's value."""
    return _OVERWRITE + _before_header(_TO_CLIENT, name, size)


@lru_cache(maxsize=8192)
def _before_member(name: str, size: int) -> bytes:
    """All that stands before a string of `size` bytes that is a member of a Struct."""
    return opening(1, text(1, name) + opening(2, opening(3, b"", size), size), size)


@lru_cache(maxsize=8192)
def _before_metadata(size: int, beside: int) -> bytes:
    """dynamic_metadata up to the `size` bytes of members of `slm`; `beside` bytes of other members follow them."""
    ours = opening(1, text(1, "slm") + opening(2, opening(5, b"", size), size), size)
    return opening(4, ours, size + beside)


_size = lru_cache(maxsize=8192)(varint)


def _check(values: bytes) -> None:
    """Refuse what is not printable ASCII: a CR or LF in a header's value would be a header of its own."""
    if values.translate(None, _VISIBLE):
        raise UnsafeHeaderError("a header's value is not printable ASCII")


def _header(number: int, name: str, value: str) -> bytes:
    payload = value.encode()
    _check(payload)
    return _before_header(number, name, len(payload)) + payload + _OVERWRITE


def _member(name: str, value: str) -> bytes:
    payload = value.encode()
    return _before_member(name, len(payload)) + payload


class _Caller:
    """What every allow says of one caller with one set of filled credential places; `pieces` by model and API."""

    __slots__ = ("_headers", "_members", "_pieces", "strip")

    def __init__(self, principal: Principal | None, strip: tuple[str, ...]) -> None:
        self.strip = strip
        values = _identity(principal)
        ours = {f"x-slm-{name}" for name in values} | {"x-slm-model", _ID}
        # Envoy removes after it has set, in any letter case: a name that we set must not be among the removals.
        gone = dict.fromkeys(name.lower() for name in (*FAMILY, *ALWAYS_REMOVED, *strip))
        headers = [_header(_TO_UPSTREAM, f"x-slm-{name}", value) for name, value in values.items()]
        self._headers = b"".join(headers) + b"".join(text(5, name) for name in gone if name not in ours)
        self._members = _members(values)
        self._pieces: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    def pieces(self, model: str, api: str) -> tuple[bytes, bytes]:
        """(fields of OkHttpResponse, members of `slm`)."""
        known = self._pieces.get((model, api))
        if known is None:
            header = _header(_TO_UPSTREAM, "x-slm-model", model) if model else text(5, "x-slm-model")
            known = self._pieces[model, api] = (self._headers + header, self._members + _asked(model, api))
        return known


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


def _members(values: dict[str, str]) -> bytes:
    return b"".join(_member(name.replace("-", "_"), value) for name, value in values.items() if name != "scopes")


def _asked(model: str, api: str) -> bytes:
    return (_member("model", model) if model else b"") + (_member("api", api) if api else b"")


def _caller(principal: Principal | None, strip: tuple[str, ...]) -> _Caller:
    if principal is None:
        return _Caller(None, strip)
    caller = principal.answer
    if type(caller) is not _Caller or (caller.strip is not strip and caller.strip != strip):
        caller = principal.answer = _Caller(principal, strip)
    return caller


@lru_cache(maxsize=4096)
def _limits(limits: tuple[tuple[str, int, str], ...]) -> bytes:
    """`request_limit` and `token_limit`, beside `slm`, for Envoy's own rate limit filters."""
    out = b""
    for name, size, unit in limits:
        number = field(1, text(1, "requests_per_unit") + field(2, double(2, float(size))))
        out += field(1, text(1, name) + field(2, field(5, number + _member("unit", unit))))
    return out


def encode(decision: Decision) -> bytes:
    """The answer to one call. UnsafeHeaderError: answer LAST_RESORT instead."""
    if decision.denial is not None:
        return _refuse(decision, decision.denial)
    if decision.reply is not None:
        return _serve(decision, decision.reply)
    ours, members = _caller(decision.principal, decision.strip_headers).pieces(decision.model, decision.api)
    identity = decision.id.encode()
    size = len(identity)
    # Frames and values alternate, so that one look at every second piece judges all values.
    parts = [_before_header(_TO_UPSTREAM, _ID, size), identity, _before_next(_ID, size), identity]
    for name, value in decision.headers:
        payload = value.encode()
        parts += _before_next(name, len(payload)), payload
    _check(b"".join(parts[1::2]))
    parts.append(_OVERWRITE)
    if decision.strip_query:
        parts.extend([text(8, name) for name in decision.strip_query])
    body = b"".join(parts)
    return b"".join((_OK, _size(len(ours) + len(body)), ours, body, _metadata(decision, identity, members)))


def _metadata(decision: Decision, identity: bytes, members: bytes) -> bytes:
    """dynamic_metadata: {slm: {…}}, the request and token limits beside it where there is an opinion. What is unknown is left out."""
    hold = decision.hold.encode()
    before_hold = _before_member("hold", len(hold)) if hold else b""
    before_id = _before_member("decision_id", len(identity))
    limits = _limits(decision.limits) if decision.limits else b""
    size = len(members) + len(before_id) + len(identity) + len(before_hold) + len(hold)
    return b"".join((_before_metadata(size, len(limits)), before_id, identity, before_hold, hold, members, limits))


def _denied(status: int, code: int, headers: Iterable[tuple[str, str]], body: bytes, metadata: bytes) -> bytes:
    """Status {code}, denied_response {status {code}, headers, body}, dynamic_metadata."""
    denied = field(1, integer(1, status)) + b"".join([_header(_DENIED, name, value) for name, value in headers]) + field(3, body)
    return field(1, integer(1, code)) + field(2, denied) + metadata


def _instead(decision: Decision, status: int, code: int, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """An answer that the client gets instead of the upstream's."""
    members = _members(_identity(decision.principal)) + _asked(decision.model, decision.api)
    all_headers = ((_ID, decision.id), ("content-type", "application/json"), *headers)
    return _denied(status, code, all_headers, body, _metadata(decision, decision.id.encode(), members))


def _refuse(decision: Decision, denial: Denial) -> bytes:
    status = denial.http_status
    headers: list[tuple[str, str]] = []
    if status == 401:
        headers.append(("www-authenticate", _challenge(denial)))
    if denial.retry_after is not None:
        headers.append(("retry-after", str(denial.retry_after)))
    if not denial.should_retry:
        headers.append(("x-should-retry", "false"))
    headers.extend(denial.headers)
    return _instead(decision, status, grpc_code(status), headers, refusal_body(decision.dialect, denial))


def _challenge(denial: Denial) -> str:
    """RFC 6750, 3: no error code where no credential was sent."""
    realm = 'Bearer realm="slm-authz"'
    return realm if denial.reason is Reason.NO_CREDENTIAL else f'{realm}, error="invalid_token"'


def _serve(decision: Decision, reply: bytes) -> bytes:
    """A denied response with status 200 and a body is served as it is: that is how we answer in the upstream's place."""
    return _instead(decision, 200, PERMISSION_DENIED, decision.headers, reply)


def _last_resort() -> bytes:
    denial = Denial(Reason.INTERNAL, "Something failed here; the call was not let through. Retry in a moment.", retry_after=1)
    headers = [("content-type", "application/json"), ("retry-after", "1")]
    return _denied(503, grpc_code(503), headers, refusal_body("openai", denial), b"")


LAST_RESORT: Final[bytes] = _last_resort()
"""The one answer without a decision id: constant, so that nothing can fail while giving it."""
