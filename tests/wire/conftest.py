"""The one fake behind the doors: a corridor that decides by the path."""

from __future__ import annotations

from collections.abc import Sequence
from threading import current_thread

import pytest

from slm_authz.decision import Decision
from slm_authz.quota.evidence import Evidence
from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival
from slm_authz.wire.seam import Answers

SECRET = "Bearer sk-secret"


class FakeCorridor:
    """Decides by the path's first word. `/boom` is our own failure; `/park` waits until it is freed.

    What a settlement frees, only the thread that settled may resume: so it is seen that it does.
    """

    def __init__(self) -> None:
        self.ready = True
        self.parked: dict[int, Arrival] = {}
        self.freed = False
        self.freed_by = ""
        self.arrivals: list[Arrival] = []
        self.batches: list[int] = []
        self.cancelled: list[int] = []
        self.undelivered_ids: list[str] = []
        self.faults: list[str] = []
        self.settled: list[str] = []
        self.counted: list[tuple[int, str, str]] = []

    @property
    def waiting(self) -> int:
        return len(self.parked)

    def _decide(self, arrival: Arrival) -> tuple[Arrival, Decision]:
        request = arrival.request
        if isinstance(request, Denial):
            return arrival, Decision("d", request)
        denial = None
        if arrival.cancelled:
            denial = Denial(Reason.CANCELLED, "cancelled")
        elif request.target.startswith("/boom"):
            raise RuntimeError(SECRET)
        elif request.target.startswith("/deny"):
            denial = Denial(Reason.RATE_LIMITED, "slow down", retry_after=7)
        return arrival, Decision(request.target.strip("/"), denial, model="\n" if request.target == "/unwritable" else "m")

    def check(self, arrivals: Sequence[Arrival], now: int) -> Answers:
        self.arrivals.extend(arrivals)
        self.batches.append(len(arrivals))
        answers = list(self.resume(now))
        for arrival in arrivals:
            if not isinstance(arrival.request, Denial) and arrival.request.target.startswith("/park") and not arrival.cancelled:
                self.parked[arrival.call] = arrival
            else:
                answers.append(self._decide(arrival))
        return answers

    def resume(self, now: int) -> Answers:
        if not self.freed and self.freed_by != current_thread().name:
            return []
        parked, self.parked = self.parked, {}
        return [self._decide(arrival) for arrival in parked.values()]

    def cancel(self, call: int, now: int) -> None:
        if self.parked.pop(call, None) is not None:
            self.cancelled.append(call)

    def undelivered(self, decision: Decision, now: int, *, fault: bool = False) -> None:
        (self.faults if fault else self.undelivered_ids).append(decision.id)

    def settle(self, entries: Sequence[Evidence], now: int) -> None:
        self.settled.extend(entry.hold for entry in entries)
        if "free" in self.settled:
            self.freed_by = current_thread().name

    def unmatched(self, count: int, reason: str, details: str) -> None:
        self.counted.append((count, reason, details))


@pytest.fixture
def corridor() -> FakeCorridor:
    return FakeCorridor()
