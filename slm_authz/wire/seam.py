"""The one seam of the doors: a transport hands over batches and takes answers; a corridor decides. Every transport is driven alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from slm_authz.decision import Decision
from slm_authz.quota.evidence import Evidence
from slm_authz.request import Arrival

Answers = Sequence[tuple[Arrival, Decision]]
CHECK: str = "/envoy.service.auth.v3.Authorization/Check"


class Incoming(msgspec.Struct, gc=False):
    """One event of a transport. payload None: the call was cancelled.

    traceparent: from the RPC's metadata; remaining: seconds until the deadline when it was received, None without one
    """

    call: int
    payload: bytes | None
    traceparent: str | None = None
    remaining: float | None = None


class Transport(Protocol):
    """Receives unary Checks as bytes. `respond` may be called from any thread.

    There is no way to fail a call: a gRPC error counts as "error" in Envoy, and a fail-open configuration lets those through.
    """

    def start(self) -> None:
        """Begin to take calls."""
        ...

    def receive(self, most: int, timeout_ms: int) -> list[Incoming] | None:
        """All events that are waiting, at most `most`; an empty list after the timeout; None when closed."""
        ...

    def respond(self, call: int, payload: bytes) -> bool:
        """Answer a call; False where nobody waits for it any more."""
        ...

    def close(self) -> None:
        """Take no more calls."""
        ...


class Corridor(Protocol):
    """What the doors need of the engine."""

    @property
    def ready(self) -> bool:
        """Whether calls are decided."""
        ...

    @property
    def waiting(self) -> int:
        """How many calls wait inside."""
        ...

    def check(self, arrivals: Sequence[Arrival], now: int) -> Answers:
        """Decide a batch, after those that have waited; calls that (still) wait are missing and come back later or from `resume`."""
        ...

    def resume(self, now: int) -> Answers:
        """Answers to calls that waited."""
        ...

    def cancel(self, call: int, now: int) -> None:
        """A call that may wait inside was cancelled."""
        ...

    def undelivered(self, decision: Decision, now: int, *, fault: bool = False) -> None:
        """Nobody received this answer; `fault`: because it could not be written."""
        ...

    def settle(self, entries: Sequence[Evidence], now: int) -> None:
        """Account for log entries."""
        ...

    def unmatched(self, count: int, reason: str, details: str) -> None:
        """Log entries that settle nothing."""
        ...
