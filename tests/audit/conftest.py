"""Facts, outcomes and an outbox, as the engine and the counters make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from slm_authz.audit.event import AuditEvent, CallFacts, pack
from slm_authz.audit.finish import finish
from slm_authz.quota.outcome import Outcome

NOON = 1_700_049_600_123
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def facts_of(serial: int = 1, **changes: Any) -> CallFacts:
    """An allow, with members replaced."""
    members: dict[str, Any] = {
        "version": 1, "time": NOON, "decision_id": f"{serial:032x}", "request_id": f"r-{serial}", "traceparent": PARENT, "identity": "api_key",
        "client": "acme", "tenant": None, "tier": "free", "key_id": "0123456789AB", "api": "openai.chat", "model": "phi-4-mini",
        "method": "POST", "path": "/v1/chat/completions", "source": "192.0.2.7", "outcome": "allow", "reason": "ok", "limit": None,
        "shadow": (), "status": None, "latency_us": 1234, "currency": "USD", "config": "abc",
    }  # fmt: skip
    return CallFacts(**{**members, **changes})


def outcome_of(seq: int, facts: CallFacts | None = None, **changes: Any) -> Outcome:
    """The settled end of a call."""
    members: dict[str, Any] = {
        "event": "decision", "memo": pack(facts or facts_of(seq)), "ended": NOON + 1000, "status": 200, "attempts": 1, "input_tokens": 10,
        "output_tokens": 5, "source": "upstream", "cost": 1_500_000,
    }  # fmt: skip
    return Outcome(seq, **{**members, **changes})


def event_of(serial: int, **changes: Any) -> AuditEvent:
    return finish(outcome_of(serial, facts_of(serial, **changes)))[0]


class Box:
    """An outbox that forgets only what was acknowledged."""

    def __init__(self, outcomes: Sequence[Outcome] = ()) -> None:
        self.waiting = list(outcomes)

    def pending(self, limit: int) -> Sequence[Outcome]:
        return self.waiting[:limit]

    def acknowledge(self, seq: int) -> None:
        self.waiting = [outcome for outcome in self.waiting if outcome.seq > seq]

    def add(self, *serials: int) -> None:
        self.waiting.extend(outcome_of(serial) for serial in serials)


class Sink:
    """Keeps what it took; raises while `broken`."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.broken = False
        self.offers = 0
        self.closed = False

    @property
    def serials(self) -> list[int]:
        return [int(event.decision_id or "0", 16) for event in self.events]

    def write(self, events: Sequence[AuditEvent]) -> None:
        self.offers += 1
        if self.broken:
            raise OSError(28, "No space left on device")
        self.events.extend(events)

    def close(self) -> None:
        self.closed = True


class Made:
    """What the tests of this room make things with (tests are no package, so this travels as a fixture)."""

    noon = NOON
    parent = PARENT
    facts = staticmethod(facts_of)
    outcome = staticmethod(outcome_of)
    event = staticmethod(event_of)
    Box = Box
    Sink = Sink


@pytest.fixture(scope="session")
def made() -> type[Made]:
    return Made


@pytest.fixture
def clock() -> Callable[[], int]:
    return lambda: NOON
