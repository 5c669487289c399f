"""Outcome + CallFacts → AuditEvent: the public record. Pure.

Strings are capped and control characters escaped, so that a line stays a line and no value moves a cursor. A refusal charged nothing, and
that is known: 0 tokens, cost "0", `usage_source: none`. `time` is when the call was decided, on its correction too: the sum of its events
belongs to the windows of its admission.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from slm_authz.audit.event import AuditEvent, CallFacts, unpack
from slm_authz.quota.outcome import Outcome
from slm_authz.units import format_money

CAP: Final = 512
"""Characters of one string, after escaping."""
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KEY: Final = re.compile(r"slm_(?:live|test)_[0-9A-Za-z_]{8,}", re.ASCII)
"""A key, whole or cut, that somebody has put into a path."""
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


def trace_parent(traceparent: str | None) -> tuple[str, str, int] | None:
    """(trace id, span id, flags) of a traceparent (W3C Trace Context, 3.2); None where it is absent or invalid."""
    match = _PARENT.fullmatch(traceparent) if traceparent else None
    if match is None or match[2] == _NO_TRACE or match[3] == _NO_SPAN:
        return None
    if match[1] == "ff" or (match[1] == "00" and match[5] is not None):
        return None
    return match[2], match[3], int(match[4], 16)


def _text(value: str | None) -> str | None:
    if value is None:
        return None
    if not value.isprintable():
        # Cut first: escaping may make one character ten, and a hostile value is not worth the work on all of it.
        value = "".join([c if c.isprintable() else c.encode("unicode_escape").decode() for c in value[: CAP + 1]])
    return value if len(value) <= CAP else value[: CAP - 1] + "…"


@lru_cache(maxsize=1024)
def _names(*values: str | None) -> tuple[str | None, ...]:
    """What stands in thousands of events alike."""
    return tuple([_text(value) for value in values])


@lru_cache(maxsize=256)
def _path(value: str) -> str | None:
    # Rooms before this one hand over a bare path; a query string may carry a credential, so it is cut here whatever they do.
    return _text(_KEY.sub("slm_***", value.partition("?")[0].partition("#")[0])) or None


def time_of(millis: int) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    seconds, rest = divmod(millis, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """Thousands of events share one."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def finish(outcome: Outcome) -> tuple[AuditEvent, CallFacts]:
    """The event, and the facts that it was made of."""
    facts = unpack(outcome.memo)
    summary = outcome.event == "summary"
    latency = outcome.latency_us if outcome.latency_us is not None else facts.latency_us
    refused = facts.outcome != "allow"
    parent = trace_parent(facts.traceparent)
    client, tenant, tier, key_id, model, source, limit = _names(
        facts.client, facts.tenant, facts.tier, facts.key_id, facts.model, facts.source, facts.limit
    )
    event = AuditEvent(  # in the order of its fields: by name it would cost half as much again
        time_of(facts.time),
        outcome.event,
        outcome.count,
        None if summary else facts.decision_id,
        _text(facts.request_id) or None,
        parent[0] if parent is not None else None,
        facts.identity,
        client,
        tenant,
        tier,
        key_id,
        facts.api,
        model,
        _path(facts.path),
        source or None,
        facts.outcome,
        facts.reason,
        limit,
        facts.shadow,
        facts.status if facts.status is not None else outcome.status,
        None if summary else latency / 1000,
        outcome.attempts,
        0 if refused else outcome.input_tokens,
        0 if refused else outcome.output_tokens,
        outcome.source,
        _cost(outcome, refused=refused),
        facts.currency or None,
        facts.config or None,
    )
    return event, facts


def _cost(outcome: Outcome, *, refused: bool) -> str | None:
    if refused:
        return "0"
    return format_money(outcome.cost) if outcome.cost is not None else None
