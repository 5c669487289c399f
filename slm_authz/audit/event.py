"""What happened, as a value: `CallFacts` is what is known when a call is decided, `AuditEvent` the finished, public record.

CallFacts travels through the store as opaque bytes (`CallFacts.pack`), so that neither quota nor store knows what an audit
event looks like. Forbidden here: a credential, a prompt, a query string, anything that is not in the contract's list.
"""

from __future__ import annotations

from typing import Final

import msgspec


class CallFacts(msgspec.Struct, array_like=True, gc=False):
    """All that is known at the decision. Appending fields is compatible; never reorder.

    time: Unix milliseconds; traceparent: the span's parent; latency_us: duration of the Check; status: of a refusal, else None
    outcome: allow | deny | error
    """

    version: int
    time: int
    decision_id: str
    request_id: str
    traceparent: str | None
    identity: str | None
    client: str | None
    tenant: str | None
    tier: str | None
    key_id: str | None
    api: str | None
    model: str | None
    method: str
    path: str
    source: str
    outcome: str
    reason: str
    limit: str | None
    shadow: tuple[str, ...]
    status: int | None
    latency_us: int
    currency: str
    config: str


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(CallFacts)
pack = _ENCODER.encode
unpack = _DECODER.decode


class AuditEvent(msgspec.Struct, frozen=True):
    """One line of the audit trail; names, order and meaning as in the product contract ("Stable JSON").

    time: RFC 3339 in UTC; cost: decimal string; latency_ms: milliseconds with three decimals; unknown is None.
    """

    time: str
    event: str
    count: int
    decision_id: str | None
    request_id: str | None
    trace_id: str | None
    identity: str | None
    client: str | None
    tenant: str | None
    tier: str | None
    key_id: str | None
    api: str | None
    model: str | None
    path: str | None
    source: str | None
    outcome: str
    reason: str
    limit: str | None
    shadow: tuple[str, ...]
    status: int | None
    latency_ms: float | None
    attempts: int | None
    input_tokens: int | None
    output_tokens: int | None
    usage_source: str
    cost: str | None
    currency: str | None
    config: str | None
