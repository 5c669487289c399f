"""Keeps a flood of unauthenticated refusals from becoming a flood of events. Enters: reason, source. Leaves: yes, or a summary later.

Beyond ten a second per reason and source network, refusals are one event a second with their count. Every refused call is counted
exactly once, as an event or in a summary. Memory is bounded: an attacker who rotates networks is summed up under no network.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from slm_authz.audit.event import CallFacts
from slm_authz.reason import STATUS, Reason

PER_SECOND: Final = 10
MAX_SOURCES: Final = 10_000
"""Networks that are told apart in one second, and summaries that may wait to be collected."""
_Key = tuple[str, str]


class SummaryGate:
    """`network` maps an address to its source network: "" where it has none. Safe to call from any thread."""

    def __init__(self, network: Callable[[str], str]) -> None:
        self._network = network
        self._lock = Lock()
        self._second = 0
        self._seen: dict[_Key, int] = {}
        self._due: dict[tuple[int, _Key], int] = {}

    def admit(self, reason: str, source: str, now: int) -> bool:
        """Whether this refusal is an event of its own. `now` is Unix milliseconds; a clock that goes back stays in its second."""
        key = (reason, self._network(source))
        with self._lock:
            self._turn(now // 1000)
            if key not in self._seen and len(self._seen) >= MAX_SOURCES:
                key = (reason, "")
            count = self._seen[key] = self._seen.get(key, 0) + 1
            return count <= PER_SECOND

    def _turn(self, second: int) -> None:
        if second <= self._second:
            return
        for key, count in self._seen.items():
            if count > PER_SECOND:
                self._keep(key, count - PER_SECOND)
        self._seen.clear()
        self._second = second

    def _keep(self, key: _Key, count: int) -> None:
        place = (self._second, key)
        if len(self._due) >= MAX_SOURCES:
            # Nobody collects: what comes now is added up under no network, in the first second that waits.
            place = (next(iter(self._due))[0], (key[0], ""))
        self._due[place] = self._due.get(place, 0) + count

    def due(self, now: int, *, last: bool = False) -> list[tuple[CallFacts, int]]:
        """Summaries of seconds that have ended: facts and the number of calls they stand for. `last`: of the running second too."""
        with self._lock:
            self._turn(max(now // 1000, self._second) + last)
            due, self._due = self._due, {}
        return [(_facts(second, reason, source), count) for (second, (reason, source)), count in due.items()]


def _facts(second: int, reason: str, source: str) -> CallFacts:
    status = STATUS[Reason(reason)]
    return CallFacts(
        version=1,
        time=second * 1000,
        decision_id="",
        request_id="",
        traceparent=None,
        identity=None,
        client=None,
        tenant=None,
        tier=None,
        key_id=None,
        api=None,
        model=None,
        method="",
        path="",
        source=source,
        outcome="error" if status >= 500 else "deny",
        reason=reason,
        limit=None,
        shadow=(),
        status=status,
        latency_us=0,
        currency="",
        config="",
    )
