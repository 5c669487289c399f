"""Keeps a flood of unauthenticated refusals from becoming a flood of events. Enters: reason, source. Leaves: yes, or a summary later.

Beyond ten a second per reason and source network, refusals are one event a second with their count. Every refused call is counted
exactly once, as an event or in a summary. Memory is bounded: an attacker who rotates networks is summed up under no network.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from slm_authz.audit.event import CallFacts

PER_SECOND: Final = 10
MAX_SOURCES: Final = 10_000
_Key = tuple[str, str]


class SummaryGate:
    """`network` maps an address to its source network; `facts` fills in currency and configuration."""

    def __init__(self, network: Callable[[str], str]) -> None:
        self._network = network
        self._lock = Lock()
        self._second = 0
        self._seen: dict[_Key, int] = {}
        self._due: dict[tuple[int, _Key], int] = {}

    def admit(self, reason: str, source: str, now: int) -> bool:
        """Whether this refusal is an event of its own. `now` is Unix milliseconds."""
        with self._lock:
            self._turn(now // 1000)
            key = (reason, self._network(source))
            if key not in self._seen and len(self._seen) >= MAX_SOURCES:
                key = (reason, "")
            count = self._seen[key] = self._seen.get(key, 0) + 1
            return count <= PER_SECOND

    def _turn(self, second: int) -> None:
        if second <= self._second:
            return
        for key, count in self._seen.items():
            if count > PER_SECOND:
                self._due[self._second, key] = count - PER_SECOND
        self._seen.clear()
        self._second = second

    def due(self, now: int) -> list[tuple[CallFacts, int]]:
        """Summaries of seconds that have ended: facts and the number of calls they stand for."""
        with self._lock:
            self._turn(now // 1000)
            due, self._due = self._due, {}
        return [(_facts(second, reason, source), count) for (second, (reason, source)), count in due.items()]


def _facts(second: int, reason: str, source: str) -> CallFacts:
    nothing = None
    return CallFacts(
        1, second * 1000, "", "", nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, "", "", source, "deny", reason,
        nothing, (), nothing, 0, "", "",
    )  # fmt: skip
