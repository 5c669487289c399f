"""The embedded counters' state, and the effect of every operation on it: live and in replay the same functions.

Forbidden here: deciding anything, time that is not handed in, files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from slm_authz.quota import rules
from slm_authz.quota.counters import Amounts
from slm_authz.quota.hold import Pending, Take
from slm_authz.quota.limit import ALGORITHMS, GCRA, SEPARATOR, SLOTS
from slm_authz.quota.outcome import Outcome
from slm_authz.quota.settlement import at_bound

Operation = tuple[Any, ...]
"""("a", Pending) admit · ("s", id, actual, now, Outcome | None) settle · ("r", id, lease_end) renew · ("l", id, now, Outcome) lapse ·
("c", Pending, actual, now, Outcome) correct · ("g", id, now, Outcome | None) give back · ("n", Outcome) note"""

JITTER_MS = 1000
"""Threads bring times that are a little apart: that is no clock that went back."""
MAX_LAPSED = 50_000
"""Lapsed records kept for a late entry. While no access log arrives every call lapses: memory must stay bounded."""


class Ledger:
    """All state of the embedded counters, with what changed since the last snapshot."""

    def __init__(self) -> None:
        self.floor = 0
        self._gone_back: tuple[int, int] | None = None  # the clock, and the store's time, when the clock had gone back
        self.seq = 0
        self.acknowledged = 0
        self.counters: dict[str, rules.State] = {}
        self.pending: dict[str, Pending] = {}
        self.lapsed: dict[str, Pending] = {}
        self.outbox: deque[Outcome] = deque()
        self.distrusted: set[str] = set()
        self.dirty: set[str] = set()
        self.dirty_pending: set[str] = set()
        self.dirty_lapsed: set[str] = set()

    def advance(self, now: int) -> int:
        """The store's time: it never goes back, so neither does a window; nor does it stand still, so a lease ends.

        Where the clock has gone back (or was ahead for a moment), the store's time runs on at nine tenths of its speed until both agree.
        """
        if now >= self.floor:
            self._gone_back = None
            self.floor = now
        elif self.floor - now > JITTER_MS:
            if self._gone_back is None or now < self._gone_back[0]:
                self._gone_back = (now, self.floor)
            clock, floor = self._gone_back
            self.floor = max(self.floor, floor + (now - clock) * 9 // 10)
        return self.floor

    def state(self, key: str) -> rules.State:
        """The counter of that name, made if need be."""
        state = self.counters.get(key)
        if state is None:
            state = self.counters[key] = [0, 0, 0]
        return state

    def drop(self, key: str) -> None:
        """Forget a counter."""
        if self.counters.pop(key, None) is not None:
            self.dirty.add(key)

    def add(self, pending: Pending) -> None:
        """Keep a record whose takes have already been made."""
        self.pending[pending.id] = pending
        self.dirty_pending.add(pending.id)

    def renew(self, pending: Pending, lease_end: int) -> None:
        """A sign of life: the lease begins anew, and the record goes to the end of the queue."""
        del self.pending[pending.id]
        pending.lease_end = lease_end
        self.pending[pending.id] = pending
        self.dirty_pending.add(pending.id)

    def ended(self, now: int, *, mixed: bool) -> list[Pending]:
        """Records whose lease has ended. In order of lease end, unless leases of different length are about (`mixed`)."""
        if mixed:
            return [pending for pending in self.pending.values() if pending.lease_end <= now]
        ended = []
        for pending in self.pending.values():
            if pending.lease_end > now:
                break
            ended.append(pending)
        return ended

    def _remove(self, decision_id: str) -> Pending | None:
        pending = self.pending.pop(decision_id, None)
        if pending is not None:
            self.dirty_pending.add(decision_id)
        return pending

    def settle(self, pending: Pending, actual: Amounts, now: int) -> None:
        """Remove the record; per counter held −= amount, used += actual."""
        self._remove(pending.id)
        for take in pending.takes:
            rules.settle(self.state(take.key), take, actual[take.kind], pending.admitted, now)
            self.dirty.add(take.key)

    def lapse(self, pending: Pending, now: int) -> None:
        """The record's hold becomes used at the bound, its slot is freed, and it waits among the lapsed."""
        due = at_bound(pending)
        self.settle(pending, (1, due.tokens, pending.cost(due.input_tokens, due.output_tokens) or 0, 0), now)
        pending.lease_end = max(pending.lease_end, now)  # from here on: since when it waits for a late entry
        self.lapsed[pending.id] = pending
        self.dirty_lapsed.add(pending.id)
        while len(self.lapsed) > MAX_LAPSED:
            self._forget(next(iter(self.lapsed)))

    def forget_lapsed(self, before: int) -> None:
        """Lapsed records whose lease ended before then are final."""
        while self.lapsed and (first := next(iter(self.lapsed.values()))).lease_end < before:
            self._forget(first.id)

    def _forget(self, decision_id: str) -> None:
        del self.lapsed[decision_id]
        self.dirty_lapsed.add(decision_id)

    def correct(self, lapsed: Pending, actual: Amounts, now: int) -> None:
        """A late entry replaces the bound by the truth, once."""
        due = at_bound(lapsed)
        charged = (1, due.tokens, lapsed.cost(due.input_tokens, due.output_tokens) or 0, 0)
        for take in lapsed.takes:
            if take.algorithm != SLOTS:
                rules.correct(self.state(take.key), take, actual[take.kind], charged[take.kind], lapsed.admitted, now)
                self.dirty.add(take.key)
        self.lapsed.pop(lapsed.id, None)
        self.dirty_lapsed.add(lapsed.id)

    def publish(self, outcome: Outcome) -> None:
        """Put a finished event into the outbox, under the next number."""
        self.seq += 1
        outcome.seq = self.seq
        self.outbox.append(outcome)

    def judge(self, pending: Pending, outcome: Outcome) -> None:
        """A call that used more than its strict bound: from now on nobody believes its model's bounds."""
        if outcome.exceeded and pending.strict:
            self.distrusted.add(pending.model)

    def republish(self, outcome: Outcome) -> None:
        """Put an event back under the number it had."""
        if outcome.seq > self.seq:
            self.seq = outcome.seq
            self.outbox.append(outcome)

    def replay(self, operations: Sequence[Operation]) -> None:
        """Apply one row of the journal."""
        for operation in operations:
            kind = operation[0]
            if kind == "a":
                self._replay_admission(operation[1])
            elif kind == "n":
                self.republish(operation[1])
            elif kind == "c":
                self.advance(operation[3])
                self.correct(operation[1], operation[2], operation[3])
                self.judge(operation[1], operation[4])
                self.republish(operation[4])
            else:
                self._replay_end(operation)

    def recall(self, operations: Sequence[Operation]) -> None:
        """Apply one row of the journal to the pending records alone: the snapshot that was loaded is younger than it in all else."""
        for operation in operations:
            kind = operation[0]
            if kind == "a":
                self.add(operation[1])
            elif kind == "r":
                pending = self.pending.get(operation[1])
                if pending is not None:
                    self.renew(pending, operation[2])
            elif kind in ("s", "l", "g"):
                self._remove(operation[1])

    def forget_pending(self, kept: AbstractSet[str]) -> None:
        """Forget all pending records but these; what they hold is counted anew by `recount`."""
        for decision_id in [one for one in self.pending if one not in kept]:
            self._remove(decision_id)

    def recount(self) -> None:
        """What is held anew, from the records alone: where some are lost, nobody would ever give back what they held."""
        for key, state in self.counters.items():
            if key.split(SEPARATOR, 2)[1] != ALGORITHMS[GCRA]:
                state[2] = 0
                self.dirty.add(key)
        for pending in self.pending.values():
            for take in pending.takes:
                if take.algorithm != GCRA:
                    self._hold(take, self.floor)

    def _replay_admission(self, pending: Pending) -> None:
        now = self.advance(pending.admitted)
        for take in pending.takes:
            self._hold(take, now)
        self.add(pending)

    def _hold(self, take: Take, now: int) -> None:
        rules.hold(self.state(take.key), take, now)
        self.dirty.add(take.key)

    def _replay_end(self, operation: Operation) -> None:
        kind, pending = operation[0], self.pending.get(operation[1])
        if pending is None:
            return
        if kind == "r":
            self.renew(pending, operation[2])
        elif kind == "s":
            self.settle(pending, operation[2], self.advance(operation[3]))
            if operation[4] is not None:
                self.judge(pending, operation[4])
                self.republish(operation[4])
        elif kind == "l":
            self.lapse(pending, self.advance(operation[2]))
            self.republish(operation[3])
        elif kind == "g":
            self.settle(pending, (0, 0, 0, 0), self.advance(operation[2]))
            if operation[3] is not None:
                self.republish(operation[3])
