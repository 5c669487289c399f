"""CUPBOARD: counters, pending records and outbox in memory, with an optional journal behind them. Implements `quota.counters.Counters`.

Enters: admissions and log entries. Leaves: grants, refusals, finished outcomes. One short lock is shared by admit and settle.
Every change is also an operation for the journal, and a replay of the operations yields the same state: both call `quota.rules`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from threading import RLock

from slm_authz.errors import StoreError
from slm_authz.quota import rules
from slm_authz.quota.counters import Admission, Amounts, Grant, Refusal, Settled
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending, Signer, Take
from slm_authz.quota.limit import FIXED, GCRA, REQUESTS, TOKENS
from slm_authz.quota.outcome import Outcome
from slm_authz.quota.settlement import NOTHING, Charge, at_bound, charge
from slm_authz.quota.window import Calendar
from slm_authz.store.journal import Journal, NoJournal
from slm_authz.store.ledger import Ledger, Operation
from slm_authz.store.standing import Drawn, refusal, tighter

LATE_MS = 86_400_000
"""How long a lapsed record waits for its genuine end."""


class MemoryCounters:
    """The embedded counters. `lease_ms` and `calendar` may be replaced when a configuration is reloaded.

    unheard_since: the first admission since which no log entry of any kind has arrived; None: one has
    """

    def __init__(self, signer: Signer, calendar: Calendar, lease_ms: int, journal: Journal | None = None) -> None:
        self.calendar = calendar
        self._lease_ms = lease_ms
        self._signer = signer
        self._lock = RLock()
        self._journal = journal or NoJournal()
        self._ledger: Ledger = self._journal.recover()
        self._operations: list[Operation] = []
        # Records of the process before may have leases of any length.
        self._mixed_until = max((one.lease_end for one in self._ledger.pending.values()), default=0)
        self.distrusted = self._ledger.distrusted
        self.unheard_since: int | None = None

    # -- admission

    def admit(self, batch: Sequence[Admission], now: int) -> list[Grant | Refusal]:
        """Check and take all limits of each call: its own first, those that it shares with others second."""
        with self._lock:
            now = self._ledger.advance(now)
            return [self._admit(admission, now) for admission in batch]

    def _admit(self, admission: Admission, now: int) -> Grant | Refusal:
        # The hottest loop of the product: straight-line, one dictionary look-up per counter.
        account, amounts = admission.account, admission.amounts
        counters, window = self._ledger.counters, self.calendar.window
        drawn: list[Drawn] = []
        for group in (account.own, account.shared):
            failed = False
            for line in group:
                kind, algorithm, key = line.kind, line.algorithm, line.key
                amount = amounts[kind]
                if not amount:
                    continue
                limit = line.limit
                state = counters.get(key)
                if state is None:
                    state = counters[key] = [0, 0, 0]
                if algorithm == FIXED:
                    start, end = window(limit.period, now)
                    if state[0] != start:
                        start = rules.roll(state, start)
                    if state[1] + state[2] + amount > limit.size:
                        failed = True
                    drawn.append((line, state, Take(key, FIXED, kind, start, amount), end - now))
                elif algorithm == GCRA:
                    if state[2] != limit.size:
                        self._ledger.dirty.add(key)  # its rate has changed: a refusal changes it too
                    debt = rules.drain(state, now, limit.size)
                    if debt + amount * limit.period_ms > limit.burst * limit.period_ms:
                        failed = True
                    drawn.append((line, state, Take(key, GCRA, kind, 0, amount, limit.size, limit.period_ms), 0))
                else:
                    if state[2] + amount > limit.size:
                        failed = True
                    drawn.append((line, state, Take(key, algorithm, kind, 0, amount), 0))
            if failed:
                return refusal(drawn)
        return self._grant(admission, drawn, now)

    def _grant(self, admission: Admission, drawn: list[Drawn], now: int) -> Grant:
        pending = admission.pending
        pending.admitted = now
        dirty = self._ledger.dirty
        requests = tokens = None
        quoted, takes = [], []
        for line, state, take, reset in drawn:
            if line.algorithm == GCRA:
                state[1] += take.amount * take.period_ms
            else:
                state[2] += take.amount
            dirty.add(line.key)
            quoted.append(line.quoted)
            takes.append(take)
            kind = line.kind
            if kind == REQUESTS:
                requests = tighter(requests, line.limit, state, reset)
            elif kind == TOKENS:
                tokens = tighter(tokens, line.limit, state, reset)
        pending.takes = tuple(takes)
        if admission.immediate:
            self._settle_immediately(pending, now)
        else:
            pending.lease_end = now + self._lease_ms
            self._ledger.add(pending)
            if self.unheard_since is None:
                self.unheard_since = now
            self._operations.append(("a", pending))
        return Grant(pending, quoted, requests, tokens)

    def _settle_immediately(self, pending: Pending, now: int) -> None:
        """As the call is given, without an event: whoever answers knows more of it, and notes it."""
        actual: Amounts = (1, 0, 0, 0)
        self._ledger.add(pending)
        self._ledger.settle(pending, actual, now)
        self._operations.extend((("a", pending), ("s", pending.id, actual, now, None)))

    # -- the end of a call

    def settle(self, entries: Sequence[Evidence], now: int) -> list[Settled]:
        """Settle, renew or correct by log entries; an entry without a record has no effect."""
        with self._lock:
            now = self._ledger.advance(now)
            self.unheard_since = None
            settled = [self._settle(entry, now) for entry in entries]
            self._try_commit()
            return settled

    def _settle(self, entry: Evidence, now: int) -> Settled:
        decision_id = self._signer.verify(entry.hold)
        if decision_id is None:
            return Settled("forged")
        pending = self._ledger.pending.get(decision_id)
        if pending is None:
            return self._correct(decision_id, entry, now) if entry.kind == "end" else Settled("ignored")
        if entry.kind != "end":
            self._ledger.renew(pending, now + self._lease_ms)
            self._operations.append(("r", decision_id, pending.lease_end))
            return Settled("renewed")
        due = charge(pending, entry)
        self._finish(pending, self._actual(pending, due), self._outcome(pending, due, entry, now), now)
        return _settled("settled", pending, due)

    def _actual(self, pending: Pending, due: Charge) -> Amounts:
        return (1, due.tokens, _cost(pending, due) or 0, 0)

    def _outcome(self, pending: Pending, due: Charge, entry: Evidence | None, now: int) -> Outcome:
        return Outcome(
            seq=0,
            event="decision",
            memo=pending.memo,
            ended=now,
            status=entry.status or None if entry is not None else None,
            attempts=entry.attempts if entry is not None else None,
            input_tokens=due.input_tokens,
            output_tokens=due.output_tokens,
            source=due.source,
            cost=_cost(pending, due),
            exceeded=due.exceeded,
            duration_ms=entry.duration_ms if entry is not None else None,
            latency_us=pending.latency_us,
        )

    def _finish(self, pending: Pending, actual: Amounts, outcome: Outcome, now: int) -> None:
        self._ledger.settle(pending, actual, now)
        self._ledger.judge(pending, outcome)
        self._ledger.publish(outcome)
        self._operations.append(("s", pending.id, actual, now, outcome))

    def _correct(self, decision_id: str, entry: Evidence, now: int) -> Settled:
        lapsed = self._ledger.lapsed.get(decision_id)
        if lapsed is None:
            return Settled("ignored")
        due, charged = charge(lapsed, entry), at_bound(lapsed)
        actual = self._actual(lapsed, due)
        outcome = self._outcome(lapsed, due, entry, now)
        outcome.event = "correction"
        outcome.input_tokens = due.input_tokens - charged.input_tokens
        outcome.output_tokens = due.output_tokens - charged.output_tokens
        if outcome.cost is not None:
            outcome.cost -= lapsed.cost(charged.input_tokens, charged.output_tokens) or 0
        self._ledger.correct(lapsed, actual, now)
        self._ledger.judge(lapsed, outcome)
        self._ledger.publish(outcome)
        self._operations.append(("c", lapsed, actual, now, outcome))
        return _settled("corrected", lapsed, due, charged)

    def lapse(self, now: int) -> list[Settled]:
        """Charge every record whose lease has ended at its bound; it waits for a late entry among the lapsed."""
        with self._lock:
            now = self._ledger.advance(now)
            ended = self._ledger.ended(now, mixed=now < self._mixed_until)
            settled = []
            for pending in ended:
                due = at_bound(pending)
                outcome = self._outcome(pending, due, None, now)
                self._ledger.lapse(pending, now)
                self._ledger.publish(outcome)
                self._operations.append(("l", pending.id, now, outcome))
                settled.append(_settled("settled", pending, due))
            self._ledger.forget_lapsed(now - LATE_MS)
            if settled:
                self._try_commit()
            return settled

    def give_back(self, decision_id: str, memo: bytes | None, now: int) -> bool:
        """Undo an admission whose answer nobody received: nothing stays taken."""
        with self._lock:
            now = self._ledger.advance(now)
            pending = self._ledger.pending.get(decision_id)
            if pending is None:
                return False
            nothing: Amounts = (0, 0, 0, 0)
            self._ledger.settle(pending, nothing, now)
            outcome = None
            if memo is not None:
                outcome = Outcome(0, "decision", memo, now, latency_us=pending.latency_us)
                self._ledger.publish(outcome)
            self._operations.append(("g", decision_id, now, outcome))
            return True

    # -- outbox and durability

    def note(self, memos: Sequence[tuple[str, bytes, int]], now: int) -> None:
        """Put finished events (event, memo, count) into the outbox."""
        with self._lock:
            for event, memo, count in memos:
                outcome = Outcome(0, event, memo, now, count=count)
                self._ledger.publish(outcome)
                self._operations.append(("n", outcome))

    def commit(self) -> None:
        """Write the operations since the last commit as one row of the journal."""
        with self._lock:
            operations, self._operations = self._operations, []
            if operations:
                self._journal.append(operations)
            elif not self._journal.healthy:  # another thread's commit may have taken this one's operations along, and failed
                raise StoreError("The counters' journal is not writable.")

    def _try_commit(self) -> None:
        """What has happened has happened, also where it cannot be written now: it is in the state that the next snapshot takes."""
        with suppress(StoreError):  # `healthy` tells
            self.commit()

    def pending(self, limit: int) -> Sequence[Outcome]:
        """The oldest unacknowledged events."""
        with self._lock:
            return list(islice(self._ledger.outbox, limit))

    def acknowledge(self, seq: int) -> None:
        """Forget events up to and including `seq`."""
        with self._lock:
            outbox: deque[Outcome] = self._ledger.outbox
            while outbox and outbox[0].seq <= seq:
                outbox.popleft()
            self._ledger.acknowledged = max(self._ledger.acknowledged, seq)

    def snapshot(self, *, whole: bool = False) -> None:
        """Write what changed since the last snapshot; of pending records only what is not young, unless `whole`. StoreError: all stays due."""
        with self._lock:
            # What a failing journal refused is in the state that is captured, so nothing is lost by going on.
            with suppress(StoreError):
                self.commit()
            self._journal.capture(self._ledger, whole=whole)
        self._journal.write()

    def close(self, now: int) -> None:
        """Snapshot one last time, what the journal refused included, and release the files."""
        with self._lock:
            self._ledger.advance(now)
        try:
            self.snapshot(whole=True)
        finally:
            self._journal.close()

    # -- looking

    @property
    def outstanding(self) -> int:
        """Number of pending records."""
        return len(self._ledger.pending)

    @property
    def outbox_size(self) -> int:
        """Number of events that wait for the sinks."""
        return len(self._ledger.outbox)

    @property
    def healthy(self) -> bool:
        """Whether the last write to the journal succeeded."""
        return self._journal.healthy

    def saw_log(self) -> None:
        """A log entry of any kind has arrived."""
        self.unheard_since = None

    def set_lease(self, lease_ms: int, now: int) -> None:
        """Leases given from now on are this long; those given before keep theirs."""
        with self._lock:
            if lease_ms != self._lease_ms:
                self._mixed_until = max(self._mixed_until, self._ledger.advance(now) + self._lease_ms)
                self._lease_ms = lease_ms

    def states(self, keys: Iterable[str]) -> list[rules.State | None]:
        """Copies of counters, None where one does not exist."""
        with self._lock:
            found = (self._ledger.counters.get(key) for key in keys)
            return [list(state) if state is not None else None for state in found]

    def keys(self) -> list[str]:
        """Names of all counters."""
        with self._lock:
            return list(self._ledger.counters)

    def sweep(self, idle: Callable[[str, rules.State], bool]) -> int:
        """Drop counters that say nothing any more; returns how many."""
        dropped = 0
        for key in self.keys():
            with self._lock:
                state = self._ledger.counters.get(key)
                if state is not None and idle(key, state):
                    self._ledger.drop(key)
                    dropped += 1
        return dropped


def _cost(pending: Pending, due: Charge) -> int | None:
    """No more than a journal can hold, however absurd the figures are."""
    cost = pending.cost(due.input_tokens, due.output_tokens)
    return None if cost is None else min(rules.TOP, cost)


def _settled(result: str, pending: Pending, due: Charge, before: Charge = NOTHING) -> Settled:
    """`before`: what had been charged already."""
    tokens_in, tokens_out = due.input_tokens - before.input_tokens, due.output_tokens - before.output_tokens
    return Settled(result, due.source, pending.model, tokens_in, tokens_out, due.exceeded)
