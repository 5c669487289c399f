"""The corridor as the doors drive it: batches of calls in, decisions out; log entries in, accounts settled.

Synchronous. `check` runs on one thread, `resume`, `settle` and `lapse` on any. What must wait (a concurrency slot, a deferred identity)
leaves the batch for a bounded place (`waiting`) and comes back through the same conclusion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from slm_authz.audit.event import pack as pack_facts
from slm_authz.audit.event import unpack
from slm_authz.audit.metrics import Metrics
from slm_authz.audit.summary import SummaryGate
from slm_authz.decision import Decision
from slm_authz.engine.conclude import allowed, opinions, refused
from slm_authz.engine.deferral import Deferrals
from slm_authz.engine.plan import TOO_LATE, Plan, memo, plan
from slm_authz.engine.rules import Rules
from slm_authz.engine.waiting import Waiting
from slm_authz.errors import StoreError
from slm_authz.quota import shown
from slm_authz.quota.bound import price_of
from slm_authz.quota.counters import Counters, Grant, Refusal, Settled
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Signer
from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival

log = logging.getLogger(__name__)

Answer = tuple[Arrival, Decision]
_SAY_EVERY_MS = 60_000
_INTERNAL = "Something failed here; the call was not let through. Retry, and tell the operator the decision id if it goes on."


class Keys(Protocol):
    """What the corridor needs of the key directory."""

    def refresh(self) -> None:
        """Read what other processes changed; once per batch."""
        ...


class Engine:
    """Decides and accounts. All collaborators are handed in; `ticks` is a monotonic clock in nanoseconds, `new_id` makes decision ids."""

    def __init__(
        self,
        rules: Rules,
        counters: Counters,
        keys: Keys,
        signer: Signer,
        metrics: Metrics,
        gate: SummaryGate,
        *,
        ticks: Callable[[], int],
        new_id: Callable[[int], str],
        jitter: Callable[[], float],
    ) -> None:
        self.rules = rules
        self.counters = counters
        self.started = False
        self.store_up: Callable[[], bool] = lambda: True
        self.audit_available: Callable[[], bool] = lambda: True
        self._keys = keys
        self._signer = signer
        self._metrics = metrics
        self._gate = gate
        self._ticks = ticks
        self._new_id = new_id
        self._jitter = jitter
        self._said: dict[str, int] = {}
        self._slots = Waiting()
        self._deferrals = Deferrals()

    @property
    def ready(self) -> bool:
        """Whether calls are decided: rules are in force, the doors are open, and the store answers."""
        return self.started and self.store_up()

    @property
    def waiting(self) -> int:
        """How many calls wait for a slot or for an identity provider."""
        return len(self._slots) + len(self._deferrals)

    # -- deciding

    def check(self, arrivals: Sequence[Arrival], now: int) -> list[Answer]:
        """Decide a batch. Calls that have to wait are missing from the answer and come back from `resume`."""
        answers = self.resume(now) if self.waiting else []
        rules = self.rules
        try:
            self._keys.refresh()
        except StoreError as error:
            log.warning("the key store cannot be read: %s", error)
        self._decide(self._plan(arrivals, rules, now), rules, now, answers, may_wait=rules.settle_wait_ms > 0)
        return answers

    def resume(self, now: int) -> list[Answer]:
        """Answers to calls that waited: their slot is free, their identity is known, or their time is up."""
        answers: list[Answer] = []
        rules = self.rules
        back = self._deferrals.finished()
        if back:
            self._decide(self._plan(back, rules, now), rules, now, answers, may_wait=True)
        with self._slots.lock:
            plans = self._slots.take()
            if plans:
                ticks = self._ticks()
                for planned in plans:
                    if planned.deadline and ticks >= planned.deadline:
                        planned.denial, planned.admission = TOO_LATE, None
                try:
                    self._decide(plans, rules, now, answers, may_wait=True)
                except Exception:
                    self._slots.put_back(plans)  # nobody may be left without an answer: they are tried again, until their time is up
                    raise
        return answers

    def _plan(self, arrivals: Sequence[Arrival], rules: Rules, now: int) -> list[Plan]:
        """All calls of a batch up to the counters; whether calls are decided at all is looked at once."""
        closed = self._closed(rules)
        if closed is not None:
            return [Plan(arrival, self._new_id(now), now, denial=closed) for arrival in arrivals]
        new_id, distrusted, ticks = self._new_id, self.counters.distrusted, self._ticks()
        planned = []
        for arrival in arrivals:
            decision_id = new_id(now)
            try:
                planned.append(plan(arrival, decision_id, rules, distrusted, now, ticks))
            except Exception:  # whatever fails in here is our failure: the call is refused, the next one is decided
                log.exception("a call could not be planned")
                planned.append(Plan(arrival, decision_id, now, denial=Denial(Reason.INTERNAL, _INTERNAL)))
        return planned

    def _closed(self, rules: Rules) -> Denial | None:
        """Why nothing is decided just now; None: it is."""
        if not self.started:
            return Denial(Reason.NOT_READY, "Not ready yet; retry in a moment.", retry_after=1)
        if rules.deny_without_audit and not self.audit_available():
            return Denial(
                Reason.AUDIT_UNAVAILABLE, "Calls cannot be recorded just now, so none is let through; retry later.", retry_after=1
            )
        return None

    def _decide(self, plans: list[Plan], rules: Rules, now: int, answers: list[Answer], *, may_wait: bool) -> None:
        """Admit what asks for admission, conclude all, make it durable, and add the answers."""
        admissions = [planned.admission for planned in plans if planned.admission is not None]
        results: Iterator[Grant | Refusal | None]
        try:
            results = iter(self.counters.admit(admissions, now))
        except StoreError as error:
            self._outage(plans, rules, now, answers, error)
            return
        except Exception:
            log.exception("a batch could not be admitted")
            results = iter([None] * len(admissions))  # whatever of it was taken is given back below
        decided: list[tuple[Plan, Decision]] = []
        notes: list[tuple[str, bytes, int]] = []
        for planned in plans:
            if planned.deferred is not None:
                self._defer(planned)
                continue
            result = next(results) if planned.admission is not None else None
            if planned.admission is not None and result is None:
                decision: Decision | None = self._fault(planned, rules, now, notes)
            else:
                try:
                    decision = self._conclude(planned, result, rules, now, notes, may_wait=may_wait)
                except Exception:  # one call's fault is not its neighbours'
                    log.exception("a call could not be concluded")
                    decision = self._fault(planned, rules, now, notes)
            if decision is not None:
                decided.append((planned, decision))
        try:
            if notes:
                self.counters.note(notes, now)
            self.counters.commit()
        except Exception as error:  # noqa: BLE001 - StoreError, or a fault of ours: without the row no answer may leave
            self._unkept(decided, rules, now, answers, error)
            return
        self._count_allows(decided)
        if not rules.usage:
            given = [_given(planned, rules) for planned, decision in decided if decision.denial is None and planned.immediate]
            if given:
                self._note(given, now)
        answers.extend((planned.arrival, decision) for planned, decision in decided)

    def _conclude(
        self, planned: Plan, result: Grant | Refusal | None, rules: Rules, now: int, notes: list[tuple[str, bytes, int]], *, may_wait: bool
    ) -> Decision | None:
        """The decision; None: the call waits for a slot."""
        latency = self._ticks() - planned.arrival.received
        if type(result) is Grant:
            planned.latency_us = result.pending.latency_us = latency // 1000
            return allowed(planned, result, self._signer)
        if isinstance(result, Refusal):
            if may_wait and result.slots_only and self._slots.park(planned, self._ticks(), rules.settle_wait_ms):
                return None
            permit = planned.permit
            price = price_of(permit.model.spec) if permit is not None and permit.model is not None else None
            planned.limits = opinions(result)
            planned.denial = shown.deny(result, planned.bound, price, rules.currency, self._jitter)
        denial = planned.denial
        if denial is None:  # answered by ourselves
            self._metrics.decided("allow", "ok", planned.model, "", latency / 1e9)
            facts = unpack(memo(planned, rules, None, latency // 1000))
            facts.status = 200
            notes.append(("decision", pack_facts(facts), 1))
            return allowed(planned, None, self._signer)
        return self._refuse(planned, denial, rules, now, notes, latency)

    def _refuse(self, planned: Plan, denial: Denial, rules: Rules, now: int, notes: list[tuple[str, bytes, int]], latency: int) -> Decision:
        outcome = "error" if denial.http_status >= 500 else "deny"
        self._metrics.decided(outcome, denial.reason.value, planned.model, denial.limit or "", latency / 1e9)
        # An unauthenticated flood must not become a flood of events: beyond the gate it is summed up.
        if planned.principal is not None or self._gate.admit(denial.reason.value, planned.address, now):
            notes.append(("decision", memo(planned, rules, denial, latency // 1000), 1))
        return refused(planned, denial)

    def _fault(self, planned: Plan, rules: Rules, now: int, notes: list[tuple[str, bytes, int]]) -> Decision:
        """Our failure: the call is refused, what it may hold is given back, and it is one event."""
        denial = Denial(Reason.INTERNAL, _INTERNAL)
        latency = self._ticks() - planned.arrival.received
        event = memo(planned, rules, denial, latency // 1000)
        if not self.counters.give_back(planned.id, event, now):
            notes.append(("decision", event, 1))
        self._metrics.decided("error", denial.reason.value, planned.model, "", latency / 1e9)
        return refused(planned, denial)

    # -- when the store fails

    def _outage(self, plans: list[Plan], rules: Rules, now: int, answers: list[Answer], error: StoreError) -> None:
        self._complain(now, "the counters cannot be reached: %s", error)
        notes: list[tuple[str, bytes, int]] = []
        for planned in plans:
            planned.denial = planned.denial or _store_down()
            latency = self._ticks() - planned.arrival.received
            answers.append((planned.arrival, self._refuse(planned, planned.denial, rules, now, notes, latency)))
        try:
            self._note(notes, now)
        except StoreError:
            log.error("%d refusals could not be recorded: the store that holds their events is the one that is down", len(notes))

    def _unkept(self, decided: list[tuple[Plan, Decision]], rules: Rules, now: int, answers: list[Answer], error: Exception) -> None:
        """The batch could not be made durable: what a limit's `on_outage: deny` covers is given back and refused."""
        self._complain(now, "decisions could not be made durable: %s", error)
        for planned, decision in decided:
            if planned.admission is not None and decision.denial is None and planned.admission.account.on_outage == "deny":
                denial = _store_down()
                event = memo(planned, rules, denial, 0)
                if not self.counters.give_back(planned.id, event, now):
                    self.counters.note([("decision", event, 1)], now)
                self._metrics.decided("error", denial.reason.value, planned.model, "", 0.0)
                answers.append((planned.arrival, refused(planned, denial)))
            else:
                self._count_allows([(planned, decision)])
                answers.append((planned.arrival, decision))

    def _count_allows(self, decided: list[tuple[Plan, Decision]]) -> None:
        """Once it is sure that they are given; refusals, and what we answer ourselves, are counted as they are concluded."""
        self._metrics.allowed(
            [
                (planned.model, planned.latency_us / 1e6)
                for planned, decision in decided
                if decision.denial is None and planned.admission is not None
            ]
        )

    def _complain(self, now: int, what: str, error: Exception) -> None:
        """Say it at its beginning and once a minute: an outage has thousands of batches."""
        if now - self._said.get(what, -_SAY_EVERY_MS) >= _SAY_EVERY_MS:
            self._said[what] = now
            log.error(what, error)

    # -- calls that nobody waits for

    def _defer(self, planned: Plan) -> None:
        deferred = planned.deferred
        if deferred is not None:
            self._deferrals.submit(planned.arrival, deferred)

    def cancel(self, call: int, now: int) -> None:
        """A call that waits here was cancelled: it takes nothing and is one event."""
        planned = self._slots.remove(call)
        if planned is not None:
            denial = Denial(Reason.CANCELLED, "The call was cancelled.")
            notes: list[tuple[str, bytes, int]] = []
            self._refuse(planned, denial, self.rules, now, notes, self._ticks() - planned.arrival.received)
            self._note(notes, now)
        else:
            self._deferrals.cancel(call)

    def undelivered(self, decision: Decision, now: int, *, fault: bool = False) -> None:
        """Nobody received this allow: everything is given back, and its one event says `cancelled`; `internal` where it was our fault."""
        if decision.denial is not None or decision.memo is None:
            return
        facts = unpack(decision.memo)
        facts.outcome, facts.reason = "error", (Reason.INTERNAL if fault else Reason.CANCELLED).value
        facts.status = 503
        if self.counters.give_back(decision.id, pack_facts(facts), now):
            self._commit()

    def _note(self, notes: list[tuple[str, bytes, int]], now: int) -> None:
        self.counters.note(notes, now)
        self._commit()

    def _commit(self) -> None:
        try:
            self.counters.commit()
        except StoreError as error:
            log.warning("an event waits in memory for the next snapshot: %s", error)

    # -- accounting

    def settle(self, entries: Sequence[Evidence], now: int) -> None:
        """Account for log entries."""
        try:
            settled = self.counters.settle(entries, now)
        except StoreError as error:
            log.warning("settlements wait in memory for the next snapshot: %s", error)
            return
        self._count(settled)

    def lapse(self, now: int, *, last: bool = False) -> None:
        """Charge what no entry came for, and write the summaries that are due; `last`: that of the running second as well."""
        try:
            self._count(self.counters.lapse(now))
        except StoreError as error:
            log.warning("lapses wait in memory for the next snapshot: %s", error)
        summaries = [("summary", pack_facts(facts), count) for facts, count in self._gate.due(now, last=last)]
        if summaries:
            self._note(summaries, now)

    def _count(self, settled: list[Settled]) -> None:
        for one in settled:
            if one.result in ("settled", "corrected"):
                self._metrics.settled(one.source, one.model, one.input_tokens, one.output_tokens, exceeded=one.exceeded)
            elif one.result in ("forged", "ignored"):
                self._metrics.unmatched(1)

    def unmatched(self, count: int, reason: str, details: str) -> None:
        """Log entries that settle nothing: counted, never accounted.

        Our own refusals hold nothing; of a call that we were not asked about (`no_hold`) the gateway's code detail says why.
        """
        self.counters.saw_log()
        if reason == "refused":
            return
        self._metrics.unmatched(count)
        if reason == "no_hold":
            self._metrics.ended(details, count)


def _given(planned: Plan, rules: Rules) -> tuple[str, bytes, int]:
    """The event of a call that settled as it was given (`usage_from: none`)."""
    return "decision", memo(planned, rules, None, planned.latency_us), 1


def _store_down() -> Denial:
    return Denial(Reason.STORE_UNAVAILABLE, "Limits cannot be counted just now; retry in a moment.", retry_after=1)
