"""What leaves the counters when a call is over: one `Outcome` per event, in the outbox until the audit sinks have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Outcome(msgspec.Struct, array_like=True, gc=False):
    """A finished event. `memo` is opaque here: the audit's facts of the decision, as it packed them.

    seq:    position in the outbox, ever increasing
    event:  `decision`, `correction` or `summary`
    ended:  Unix milliseconds of settlement, lapse or refusal
    status: HTTP status as the gateway reported it; None: not known (a refusal's stands in the memo)
    source: upstream | partial | estimate | bound | none
    cost:   nanos; None where the model has no price
    A correction carries differences (they may be negative): the ledger is the sum of decision and correction events.
    exceeded: actual use was above the bound that was held
    duration_ms: of the whole call; None where unknown
    count:  calls that a summary stands for, else 1
    latency_us: duration of the Check where the memo was packed before it ended; None: the memo's own figure
    """

    seq: int
    event: str
    memo: bytes
    ended: int
    status: int | None = None
    attempts: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    source: str = "none"
    cost: int | None = None
    exceeded: bool = False
    duration_ms: int | None = None
    count: int = 1
    latency_us: int | None = None


class Outbox(Protocol):
    """Where finished events wait for the sinks. Acknowledged events are gone; the others survive a crash."""

    def pending(self, limit: int) -> Sequence[Outcome]:
        """The oldest unacknowledged events, at most `limit`, in order of `seq`."""
        ...

    def acknowledge(self, seq: int) -> None:
        """Everything up to and including `seq` has been written by the sinks."""
        ...
