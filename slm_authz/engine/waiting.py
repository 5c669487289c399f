"""A bounded place for calls that only a concurrency slot keeps out: the settlement of the caller's last call is on its way.

The access log is batched, so a sequential client's next call arrives before the log entry of its last one. First come, first served.
"""

from __future__ import annotations

from threading import RLock
from typing import Final

from slm_authz.engine.plan import Plan, last_moment
from slm_authz.request import RequestContext

CAPACITY: Final = 1024
"""More calls than this do not wait: they are refused at once."""


class Waiting:
    """Calls in order of arrival. `lock` is held while they are tried again, so that one call is not answered twice."""

    def __init__(self) -> None:
        self.lock = RLock()
        self._parked: dict[int, Plan] = {}

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, planned: Plan, ticks: int, wait_ms: int) -> bool:
        """Keep a call; False where there is no room, or its time (its own, or its deadline's) is up."""
        with self.lock:
            if not planned.wait_until:
                planned.wait_until = _until(planned, ticks, wait_ms)
            if ticks >= planned.wait_until or len(self._parked) >= CAPACITY:
                return False
            self._parked[planned.arrival.call] = planned
            return True

    def take(self) -> list[Plan]:
        """All waiting calls, oldest first, to be tried again; the place is empty until they are parked anew."""
        parked, self._parked = self._parked, {}
        return list(parked.values())

    def put_back(self, plans: list[Plan]) -> None:
        """Calls that could not be tried wait on; those that are parked already keep their place."""
        self._parked = {**{planned.arrival.call: planned for planned in plans}, **self._parked}

    def remove(self, call: int) -> Plan | None:
        """Take out a call that was cancelled."""
        with self.lock:
            return self._parked.pop(call, None)


def _until(planned: Plan, ticks: int, wait_ms: int) -> int:
    """When to give up, in ticks: after `wait_ms`, but while there is time left to take a slot."""
    until = ticks + wait_ms * 1_000_000
    arrival = planned.arrival
    if isinstance(arrival.request, RequestContext) and arrival.request.remaining is not None:
        planned.deadline = last_moment(arrival.received, arrival.request.remaining)
        until = min(until, planned.deadline)
    return until
