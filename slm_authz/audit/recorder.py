"""Drains the outbox into the sinks. Enters: finished outcomes. Leaves: events in every sink, then the acknowledgement.

An event leaves the outbox when all sinks have it. A sink that fails is offered the batch again; while that lasts `available` is False.
With `on_failure: drop` the outbox is bounded: what is beyond it is dropped and counted, never silently.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Final

from slm_authz.audit.event import AuditEvent, CallFacts
from slm_authz.audit.finish import finish
from slm_authz.audit.sink import AuditSink
from slm_authz.quota.outcome import Outbox, Outcome

log = logging.getLogger(__name__)

BATCH: Final = 512
MAX_WAITING: Final = 100_000
"""Events that may wait for a failing sink before the oldest are dropped (`on_failure: drop`)."""
_IDLE_S: Final = 0.05
_RETRY_S: Final = 1.0

Spans = Callable[[Sequence[tuple[AuditEvent, CallFacts, Outcome]]], None]


class Recorder:
    """`written`: ids that a sink has already (after a crash); `spans`: best-effort export; `dropped`: told how many were lost."""

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[AuditSink],
        *,
        drop: bool,
        dropped: Callable[[int], None],
        written: set[str] | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._outbox = outbox
        self._sinks = list(sinks)
        self._have: list[int] = [0] * len(self._sinks)
        self._drop = drop
        self._dropped = dropped
        self._written = written or set()
        self._spans = spans
        self.available = True
        self._stop = Event()
        self._thread = Thread(target=self._run, name="slm-authz-audit", daemon=True)

    def start(self) -> None:
        """Drain in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Drain what is there, and close the sinks."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)
        while self.drain_once():
            pass
        for sink in self._sinks:
            sink.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self.drain_once():
                self._stop.wait(_IDLE_S if self.available else _RETRY_S)

    def drain_once(self) -> bool:
        """Move one batch; False where there was none, or a sink failed."""
        outcomes = self._outbox.pending(BATCH)
        if not outcomes:
            return False
        finished = []
        for outcome in outcomes:
            event, facts = finish(outcome)
            if self._written and f"{event.event} {event.decision_id}" in self._written:
                continue
            finished.append((event, facts, outcome))
        for index, sink in enumerate(self._sinks):
            due = [event for event, _, outcome in finished if outcome.seq > self._have[index]]
            if due and not self._offer(sink, due):
                self._bound()
                return False
            self._have[index] = outcomes[-1].seq
        if self._spans is not None and finished:
            self._spans(finished)
        self._outbox.acknowledge(outcomes[-1].seq)
        if not self.available:
            log.info("the audit sinks take events again")
        self.available = True
        return True

    def _offer(self, sink: AuditSink, events: Sequence[AuditEvent]) -> bool:
        try:
            sink.write(events)
        except Exception as error:  # noqa: BLE001 - a sink may be a plugin; its failure must not end the recorder
            if self.available:
                log.error("an audit sink failed, its events wait: %s", error)
            self.available = False
            return False
        return True

    def _bound(self) -> None:
        """Drop the oldest events beyond the bound."""
        if not self._drop:
            return
        waiting = self._outbox.pending(MAX_WAITING + BATCH)
        excess = len(waiting) - MAX_WAITING
        if excess > 0:
            self._outbox.acknowledge(waiting[excess - 1].seq)
            self._dropped(excess)
            log.error("%d audit events were dropped: no sink took them", excess)
