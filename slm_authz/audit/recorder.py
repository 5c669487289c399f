"""Drains the outbox into the sinks. Enters: finished outcomes. Leaves: events in every sink, then the acknowledgement.

An event leaves the outbox when all sinks have it. Each sink goes at its own pace: one that fails is offered its events again, with growing
pauses, and does not hold up the others; while that lasts `available` is False. With `on_failure: drop` the outbox is bounded: what a
failing sink leaves beyond the bound is dropped and counted, never silently.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from threading import Event, Thread
from typing import Final

import msgspec

from slm_authz.audit.event import AuditEvent, CallFacts
from slm_authz.audit.finish import finish
from slm_authz.audit.sink import AuditSink
from slm_authz.quota.outcome import Outbox, Outcome

log = logging.getLogger(__name__)

BATCH: Final = 512
MAX_WAITING: Final = 50_000
"""Events that may wait for a failing sink before the oldest are dropped (`on_failure: drop`)."""
_IDLE_S: Final = 0.05
_LAGGING_S: Final = 0.25
_FIRST_RETRY_S: Final = 0.25
_LAST_RETRY_S: Final = 5.0

Finished = tuple[AuditEvent, CallFacts, Outcome]
Take = Callable[[Sequence[Finished]], None]
_seq: Final = attrgetter("seq")


class _Lane:
    """One destination: how far it is, and when it is tried again. `best_effort`: what it refuses is not offered again."""

    def __init__(self, name: str, take: Take, *, best_effort: bool = False) -> None:
        self.name = name
        self.take = take
        self.best_effort = best_effort
        self.have = -1
        self.failures = 0
        self.retry_at = 0.0


class Recorder:
    """`dropped` is told how many events were lost; `spans` is a best-effort export; `ticks` is a monotonic clock in seconds.

    A sink must stand a repeated event (`AuditSink.write`); the file sink knows its own.
    """

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[AuditSink],
        *,
        drop: bool,
        dropped: Callable[[int], None],
        spans: Take | None = None,
        ticks: Callable[[], float] = time.monotonic,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._outbox = outbox
        self._sinks = list(sinks)
        self._lanes = [_Lane(type(sink).__name__, _events_to(sink)) for sink in self._sinks]
        if spans is not None:
            self._lanes.append(_Lane("spans", spans, best_effort=True))
        self._drop = drop
        self._dropped = dropped
        self._ticks = ticks
        self._max_waiting = max_waiting
        self._unreadable = self._lost = -1  # up to where events of either kind have been counted
        self._outbox_ok = True
        self._full = False  # more events may wait than the last look has taken
        self._stop = Event()
        self._wake = Event()
        self._thread = Thread(target=self._run, name="slm-authz-audit", daemon=True)

    @property
    def available(self) -> bool:
        """Whether the outbox answers and every sink takes events."""
        return self._outbox_ok and not self._lagging

    @property
    def _lagging(self) -> bool:
        return any(lane.failures for lane in self._lanes)

    # -- life

    def start(self) -> None:
        """Drain in the background."""
        self._thread.start()

    def wake(self) -> None:
        """Look at the outbox now."""
        self._wake.set()

    def stop(self) -> None:
        """Drain what is there, with one last try for a sink that fails, and close the sinks. What remains waits in the outbox."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
            if self._thread.is_alive():
                log.error("an audit sink does not return; its events stay in the store")
                return
        for lane in self._lanes:
            lane.retry_at = 0.0
        while self._guarded():
            pass
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:  # noqa: BLE001 - a sink may be a plugin; the others must be closed all the same
                log.error("an audit sink could not be closed: %s", error)

    def _run(self) -> None:
        while not self._stop.is_set():
            # Each batch costs a sink its sync to the disk: what trickles in is gathered for a moment.
            if not self._guarded() or not self._full:
                self._wake.wait(_IDLE_S if self.available else _LAGGING_S)
                self._wake.clear()

    def _guarded(self) -> bool:
        try:
            moved = self.drain_once()
        except Exception:
            # Without this thread events would pile up unseen: whatever fails, it is said, and tried again.
            if self._outbox_ok:
                log.exception("the audit outbox cannot be drained")
            self._outbox_ok = False
            return False
        self._outbox_ok = True
        return moved

    # -- work

    def drain_once(self) -> bool:
        """Offer every sink its next batch, and acknowledge what all have. False where nothing moved."""
        outcomes = self._outbox.pending(self._max_waiting + BATCH if self._lagging else BATCH)
        self._full = len(outcomes) >= BATCH
        if not outcomes:
            return False
        now = self._ticks()
        finished: dict[int, Finished | None] = {}
        moved = False
        for lane in self._lanes:
            at = bisect_right(outcomes, lane.have, key=_seq)
            batch = outcomes[at : at + BATCH]
            if batch and now >= lane.retry_at and self._offer(lane, self._finish(batch, finished), now):
                lane.have = batch[-1].seq
                moved = True
        if self._drop and self._lagging:
            moved |= self._bound(outcomes)
        done = min((lane.have for lane in self._lanes), default=outcomes[-1].seq)
        if done >= outcomes[0].seq:
            self._outbox.acknowledge(done)
        return moved or not self._lanes

    def _finish(self, batch: Sequence[Outcome], finished: dict[int, Finished | None]) -> list[Finished]:
        for outcome in batch:
            if outcome.seq not in finished:
                finished[outcome.seq] = self._read(outcome)
        return [one for outcome in batch if (one := finished[outcome.seq]) is not None]

    def _read(self, outcome: Outcome) -> Finished | None:
        try:
            return (*finish(outcome), outcome)
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            # Written by another release, or damaged: it would stand in everybody's way for ever.
            if outcome.seq > self._unreadable:
                self._unreadable = outcome.seq
                self._dropped(1)
                log.error("an audit event was dropped, it cannot be read: %s", error)
            return None

    def _offer(self, lane: _Lane, finished: Sequence[Finished], now: float) -> bool:
        """Whether the lane need not see these again."""
        try:
            if finished:
                lane.take(finished)
        except Exception as error:  # noqa: BLE001 - a sink may be a plugin; its failure must not end the recorder
            if lane.best_effort:
                log.warning("%s were lost: %s", lane.name, error)
                return True
            if not lane.failures:
                log.error("the audit sink %s failed, its events wait: %s", lane.name, error)
            lane.retry_at = now + min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** min(lane.failures, 10))
            lane.failures += 1
            return False
        if lane.failures:
            log.info("the audit sink %s takes events again", lane.name)
        lane.failures, lane.retry_at = 0, 0.0
        return True

    def _bound(self, outcomes: Sequence[Outcome]) -> bool:
        """Let the lanes that fail give up the oldest events beyond the bound; each such event is counted once."""
        excess = len(outcomes) - self._max_waiting
        if excess <= 0:
            return False
        last = outcomes[excess - 1].seq
        behind = [lane for lane in self._lanes if lane.failures and lane.have < last]
        if not behind:
            return False
        start = bisect_right(outcomes, max(self._lost, min(lane.have for lane in behind)), key=_seq)
        for lane in behind:
            lane.have = last
        self._lost = max(self._lost, last)
        lost = max(0, excess - start)
        self._dropped(lost)
        log.error("%d audit events were dropped: %s does not take them", lost, ", ".join(lane.name for lane in behind))
        return True


def _events_to(sink: AuditSink) -> Take:
    def take(finished: Sequence[Finished]) -> None:
        sink.write([event for event, _, _ in finished])

    return take
