"""The embedded counters against the naive reading of their specification (`counters_reference`), whatever happens in whatever order.

Several callers, tiers, models, kinds, algorithms, periods and subjects; reloads; disks that fail; processes that die at any statement.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule

from slm_authz.errors import StoreError
from slm_authz.housekeeping import Housekeeper
from slm_authz.identity.principal import Principal
from slm_authz.llm.ask import Ask, Prompt
from slm_authz.policy.table import Permit, Table
from slm_authz.quota.account import QuotaTable
from slm_authz.quota.bound import Bound
from slm_authz.quota.counters import Admission, Grant, Refusal, View
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending, Signer
from slm_authz.quota.shown import deny
from slm_authz.quota.window import Calendar
from slm_authz.reason import Reason
from slm_authz.store.journal import GENERATION, FileJournal
from slm_authz.store.memory import MemoryCounters
from tests.conftest import settings_of
from tests.properties.counters_reference import LATE, SPAN, Call, Caller, Reference, Rule, charge, window

ZONES = ["UTC", "Europe/Berlin", "America/Havana", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu"]
BEGINNINGS = [
    1_700_049_600_000,  # an ordinary noon
    1_709_164_795_000,  # five seconds before the leap day 2024-02-29, UTC
    1_709_251_195_000,  # before March 2024
    1_767_225_595_000,  # before 2026, in the middle of a week
    1_774_742_395_000,  # before the 23 hours of 2026-03-29 in Berlin
    1_793_019_600_000,  # in the 25 hours of 2026-10-25 in Berlin
    1_772_944_200_000,  # around Havana's change on 2026-03-08, at midnight
]
MODELS = {
    "small": {"aliases": ["s1"], "price": {"input": "0.000000007", "output": "0.000000011", "per": 3}, "max_output_tokens": 900},
    "large": {"aliases": ["l1x"], "price": "free", "max_output_tokens": 900},
}
CALLERS = [
    Caller("one", "team", "k1", "free", "10.0.0.1"),
    Caller("two", "team", "k2", "free", "10.0.0.1"),
    Caller("one", "team", "k3", "paid", "10.0.0.2"),
    Caller("one", None, None, "free", ""),
    Caller("a;b=c:d%2F/e", "t;1=2:3", "k4", "paid", "10.0.0.2"),
]
PRICES = {"small": (7, 11, 3), "large": None}
STEPS = st.sampled_from(
    [
        ("BEGIN", False), ("INTO meta", False), ("INTO counters", False), ("INTO pending", False), ("FROM pending", False),
        ("INTO lapsed", False), ("INTO outbox", False), ("COMMIT", False), ("COMMIT", True), ("COMMIT", True), ("checkpoint", False),
        ("log.begin", False), ("log.begin", True), ("log.sync", False), ("log.drop", False), ("log.drop", True),
    ]
)  # fmt: skip
"""Where a snapshot is interrupted: words of a statement or a step of the log, and whether that has been done by then."""
LEASES = [60_000, 900_000, 5_000_000]
_RATES = {
    ("requests", "second"): 2,
    ("requests", "minute"): 30,
    ("tokens", "hour"): 7_001,
    ("tokens", "week"): 90_001,
    ("cost", "day"): 90_001,
}


def _sizes(kind: str) -> st.SearchStrategy[int]:
    return st.integers(2, 9) if kind in ("requests", "concurrent") else st.integers(100, 3_000)


@st.composite
def limits(draw: Any, *, of_model: bool) -> list[dict[str, Any]]:
    """Some limits, no two of one identity. The rate of GCRA belongs to its identity: what drains is then independent of who asks."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for _ in range(draw(st.integers(0 if of_model else 1, 3 if of_model else 5))):
        kind = draw(st.sampled_from(["requests", "tokens", "tokens", "cost", "concurrent"]))
        limit: dict[str, Any] = {}
        size = draw(_sizes(kind))
        gcra = kind != "concurrent" and draw(st.integers(0, 2)) == 0
        if gcra:
            period, rate = draw(st.sampled_from([(period, rate) for (of, period), rate in _RATES.items() if of == kind]))
            limit |= {"per": period, "algorithm": "gcra", "burst": size}
            size = rate
        elif kind != "concurrent":
            limit["per"] = draw(st.sampled_from(["second", "minute", "hour", "day", "week", "month"]))
        limit[kind] = f"{size / 10**9:.9f}" if kind == "cost" else size
        if draw(st.booleans()):
            limit["by"] = draw(st.sampled_from(["key", "client", "tenant", "address"]))
        if not of_model and draw(st.integers(0, 3)) == 0:
            limit["models"] = draw(st.sampled_from([["small"], ["s1"], ["s*"], ["l?x", "large"], ["*"]]))
        found.setdefault((kind, gcra, limit.get("per"), limit.get("by"), str(limit.get("models"))), limit)
    by_default = "model" if of_model else "client"
    return [limit for key, limit in found.items() if key[3] != by_default or (*key[:3], None, key[4]) not in found]


def _means(patterns: list[str], model: str) -> bool:
    spellings = {"small": {"small", "s1", "s*", "*"}, "large": {"large", "l1x", "l?x", "*"}}
    return not spellings[model].isdisjoint(patterns)


class _Watched:
    """A connection that does something before (or after) a certain statement."""

    def __init__(self, real: Any, step: Callable[[], None], words: str, *, late: bool) -> None:
        self._real, self._step, self._words, self._late = real, step, words, late

    def _do(self, call: Callable[..., Any], *arguments: Any) -> Any:
        meant = self._words in arguments[0]
        if meant and not self._late:
            self._step()
        result = call(*arguments)
        if meant and self._late:
            self._step()
        return result

    def execute(self, *arguments: Any) -> Any:
        return self._do(self._real.execute, *arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self._do(self._real.executemany, *arguments)

    def rollback(self) -> None:
        self._real.rollback()

    def close(self) -> None:
        self._real.close()


class CountersAgainstReference(RuleBasedStateMachine):
    calls = Bundle("calls")

    @initialize(
        zone=st.sampled_from(ZONES),
        now=st.sampled_from(BEGINNINGS),
        free=limits(of_model=False),
        paid=limits(of_model=False),
        small=limits(of_model=True),
        large=limits(of_model=True),
        lease=st.sampled_from(LEASES),
        young=st.sampled_from((1, 2, GENERATION)),
    )
    def start(self, zone: str, now: int, free: Any, paid: Any, small: Any, large: Any, lease: int, young: int) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.generation = 0
        self.zone, self.at, self.lease, self.young = zone, now, lease, young
        self.tiers, self.models = {"free": free, "paid": paid}, {"small": small, "large": large}
        self.signer = Signer(b"s" * 32)
        self.model = Reference(zone)
        self.serial = 0
        self.written: dict[tuple[str, bytes], Any] = {}
        self.load()
        self.counters: MemoryCounters
        self.place().mkdir(mode=0o700)
        self.open()

    def place(self) -> Path:
        return Path(self.directory.name) / str(self.generation)

    def open(self) -> None:
        journal = FileJournal(self.place() / "journal", self.place() / "counters.db", self.young)
        self.counters = MemoryCounters(self.signer, Calendar(self.zone), self.lease, journal)
        # Moments at which nothing was taken may be forgotten; the store's time is never before what it has accounted for.
        floor = self.counters._ledger.floor
        assert max((call.admitted for call in self.model.calls), default=0) <= floor <= self.model.time
        self.model.time = floor

    @property
    def journal(self) -> Any:
        return self.counters._journal

    def teardown(self) -> None:
        if hasattr(self, "counters"):
            self.journal.close()
            self.directory.cleanup()

    def load(self) -> None:
        """Compile the configuration, on both sides."""
        models = {name: {**about, "context": 1000, "limits": self.models[name]} for name, about in MODELS.items()}
        tiers = {name: {"models": ["*"], "limits": found} for name, found in self.tiers.items()}
        document = settings_of(models=models, tiers=tiers, time_zone=self.zone)
        self.table, self.policy = QuotaTable(document), Table.build(document)
        place = 0
        self.limits_of: dict[tuple[str, str], list[Rule]] = {}
        ruled: dict[str, list[Rule]] = {}
        for scope, found in (*self.models.items(), *self.tiers.items()):  # models stand first in the file
            ruled[scope] = []
            for limit in found:
                ruled[scope].append(_rule(scope, limit, place, of_model=scope in self.models))
                place += 1
        for tier in self.tiers:
            for name in self.models:
                narrowed = [one for one in ruled[tier] if not one.models or _means(list(one.models), name)]
                self.limits_of[tier, name] = [*narrowed, *ruled[name]]

    def tick(self, now: int) -> int:
        """The time is the store's: it never goes back, and is never behind the clock."""
        found = self.counters._ledger.advance(now)
        assert found >= max(now, self.model.time)
        self.model.time = found
        return found

    def keep(self) -> bool:
        """Make it durable; False where the disk does not take it."""
        try:
            self.counters.commit()
        except StoreError:
            assert not self.counters.healthy
            return False
        return True

    # -- what can happen

    @rule(
        target=calls,
        who=st.lists(st.tuples(st.sampled_from(CALLERS), st.sampled_from(sorted(MODELS))), min_size=1, max_size=6),
        api=st.sampled_from(["openai.chat", "openai.completions", "openai.embeddings"]),
        tokens=st.tuples(st.integers(0, 60), st.integers(0, 200)),
        stream=st.booleans(),
        strict=st.booleans(),
        immediate=st.sampled_from([False] * 7 + [True]),
        back=st.sampled_from([0, 0, 0, 1, 40_000]),
    )
    def admit(
        self, who: Any, api: str, tokens: tuple[int, int], back: int, *, stream: bool, strict: bool, immediate: bool
    ) -> MultipleResults[Call]:
        if api == "openai.embeddings":
            tokens = (tokens[0], 0)
        admissions = [self.ask(caller, model, api, tokens, stream=stream, strict=strict, immediate=immediate) for caller, model in who]
        self.tick(self.at - back)
        results = self.counters.admit([admission for admission, _ in admissions], self.at - back)
        granted = []
        for (admission, call), result in zip(admissions, results, strict=True):
            amounts = dict(zip(("requests", "tokens", "cost", "concurrent"), admission.amounts, strict=True))
            rules = self.limits_of[call.caller.tier, call.model]
            verdict = self.model.judge(rules, call.caller, call.model, amounts)
            if isinstance(result, Refusal):
                assert verdict is not None
                self.refused(result, verdict, admission, call, rules, amounts)
                continue
            assert verdict is None
            assert isinstance(result, Grant)
            granted.append(call)
            call.admitted, call.lease_end = self.model.time, self.model.time + self.lease
            self.model.take(call, rules, amounts)
            self.viewed(result, call, rules, amounts)
            call.hold = self.signer.sign(result.pending, result.quoted)
            if immediate:
                call.state, call.charged = "settled", (0, 0)  # its event is the corridor's to note
            else:
                assert (result.pending.admitted, result.pending.lease_end) == (call.admitted, call.lease_end)
        if not self.keep() and not immediate:  # what the corridor does then
            for call in granted:
                self.tick(self.at)
                assert self.counters.give_back(call.id, call.memo + b" unkept", self.at)
                self.model.undo(call, call.memo + b" unkept")
            self.keep()
        return multiple(*granted)

    def ask(self, caller: Caller, model: str, api: str, tokens: tuple[int, int], *, stream: bool, strict: bool, immediate: bool) -> Any:
        self.serial += 1
        memo = f"memo {self.serial}".encode()
        prices = PRICES[model]
        call = Call(f"{self.serial:032x}", memo, caller, model, api, stream, strict, tokens, prices, 0, 0, {})
        pending = Pending(call.id, 0, 0, (), model, api, stream, strict, True, *tokens, *(prices or (0, 0, 0)), memo)
        principal = Principal("api_key", caller.client, caller.tier, tenant=caller.tenant, key_id=caller.key)
        permit = self.policy.permit(Ask(api, model, prompts=(Prompt(1),)), principal)
        assert isinstance(permit, Permit)
        amounts = (1, 0, 0, 0) if immediate else (1, sum(tokens), call.cost(tokens) or 0, 1)
        return Admission(pending, self.table.account(principal, permit, caller.address), amounts, immediate), call

    def refused(self, result: Refusal, verdict: Any, admission: Admission, call: Call, rules: list[Rule], amounts: dict[str, int]) -> None:
        limit = result.line.limit
        found = (limit.name, result.wait_ms, result.settles)
        assert found == (verdict.rule.name, verdict.wait, verdict.held), (found, verdict)
        assert result.slots_only == verdict.slots
        for jitter in (0.0, 0.999):
            said = deny(result, Bound(10, 1, *call.bound, None), None, "USD", lambda jitter=jitter: jitter)  # type: ignore[misc]
            assert (said.reason, said.retry_after) == _answer(verdict, jitter)
            assert said.should_retry is (said.retry_after is not None and said.retry_after <= 60)
            if limit.by == "model" and verdict.wait is not None:
                assert said.message == f"The model is at capacity (limit {limit.name}). Retry in {said.retry_after} s."
        held_back = [one for one in rules if one.by in ("model", "address")] if verdict.rule.by not in ("model", "address") else []
        seen = [one for one in rules if amounts[one.kind] and one not in held_back]
        self.same_view(result.requests, "requests", seen, call)
        self.same_view(result.tokens, "tokens", seen, call)

    def viewed(self, grant: Grant, call: Call, rules: list[Rule], amounts: dict[str, int]) -> None:
        seen = [one for one in rules if amounts[one.kind]]
        self.same_view(grant.requests, "requests", seen, call)
        self.same_view(grant.tokens, "tokens", seen, call)

    def same_view(self, view: View | None, kind: str, rules: list[Rule], call: Call) -> None:
        expected = self.model.tightest(kind, rules, call.caller, call.model)
        assert (None if view is None else (view.remaining, view.reset_ms)) == expected, (view, expected)

    @rule(
        call=calls,
        figures=st.tuples(st.sampled_from([None, -1, 0, 1, 30, 61]), st.sampled_from([None, -1, 0, 1, 100, 201])),
        whole=st.booleans(),
        reached=st.sampled_from([True, True, True, False]),
        status=st.sampled_from([0, 200, 200, 404, 503]),
        details=st.sampled_from(["via_upstream", "via_upstream", "upstream_reset_before_response_started{x}", "response_timeout"]),
        size=st.sampled_from([0, 46, 5_000, 10**9]),
        repeat=st.integers(1, 2),
        forge=st.sampled_from([None] * 9 + [-1, 4, 60]),
    )
    def end(
        self, call: Call, figures: Any, status: int, details: str, size: int, repeat: int, forge: int | None, *, whole: bool, reached: bool
    ) -> None:
        """The end of a call arrives: its first, a late one, a duplicate, or one that somebody made up."""
        complete = whole and details == "via_upstream"
        hold = call.hold
        if forge is not None:
            swapped = "1" if hold[forge] != "1" else "2"
            hold = hold[:forge] + swapped + (hold[forge + 1 :] if forge >= 0 else "")
        entry = Evidence(hold, "end", status, details, not complete, (), reached, complete, size, figures[0], figures[1], 1, 5)
        self.tick(self.at)
        expected = ["forged" if forge is not None else self.ended(call, entry) for _ in range(repeat)]
        settled = self.settle([entry] * repeat)
        assert settled is None or [one.result for one in settled] == expected

    def ended(self, call: Call, entry: Evidence) -> str:
        tokens, source = charge(call, entry)
        if call.state == "pending":
            self.model.settle(call, tokens, source, entry.status or None)
            return "settled"
        if call.state == "lapsed":
            if self.model.time > call.lease_end + LATE and call.id not in self.counters._ledger.lapsed:
                call.state = "final"  # as soon as a housekeeper has looked
                return "ignored"
            self.model.correct(call, tokens, source, entry.status or None)
            return "corrected"
        return "ignored"

    def settle(self, entries: list[Evidence]) -> list[Any] | None:
        try:
            return self.counters.settle(entries, self.at)
        except StoreError:
            assert not self.counters.healthy
            return None

    @rule(call=calls, back=st.sampled_from([0, 0, 90_000]))
    def sign_of_life(self, call: Call, back: int) -> None:
        self.tick(self.at - back)
        expected = "ignored"
        if call.state == "pending":
            expected, call.lease_end = "renewed", self.model.time + self.lease
        try:
            (settled,) = self.counters.settle([Evidence(call.hold, "periodic")], self.at - back)
        except StoreError:
            assert not self.counters.healthy
        else:
            assert settled.result == expected

    @rule(call=calls)
    def nobody_received_it(self, call: Call) -> None:
        self.tick(self.at)
        done = self.counters.give_back(call.id, call.memo + b" cancelled", self.at)
        assert done == (call.state == "pending")
        if done:
            self.model.undo(call, call.memo + b" cancelled")
        self.keep()

    @rule(millis=st.sampled_from([1, 7, 999, 20_000, 60_000, 70_000, 900_000, 3_600_000, 5 * 3_600_000, SPAN["day"], 9 * SPAN["day"]]))
    def time_passes(self, millis: int) -> None:
        self.at += millis

    @rule(back=st.sampled_from([0, 0, 3_000, 5_000_000]))
    def leases_end(self, back: int) -> None:
        now = self.tick(self.at - back)
        ended = [call for call in self.model.calls if call.state == "pending" and call.lease_end <= now]
        for call in ended:
            self.model.lapse(call)
        try:
            assert len(self.counters.lapse(self.at - back)) == len(ended)
        except StoreError:
            assert not self.counters.healthy

    @rule()
    def idle_counters_go(self) -> None:
        self.leases_end(0)
        keeper = Housekeeper(SimpleNamespace(counters=self.counters), lambda: self.at)
        self.counters.sweep(lambda key, state: keeper._idle(key, state, self.at))

    @rule(tier=st.sampled_from(["free", "paid", "small", "large"]), data=st.data(), lease=st.sampled_from(LEASES))
    def reload(self, tier: str, data: Any, lease: int) -> None:
        """Sizes, bursts and the lease change; identities stay."""
        changed = []
        for limit in (self.models if tier in self.models else self.tiers)[tier]:
            kind = next(kind for kind in ("requests", "tokens", "cost", "concurrent") if kind in limit)
            size = data.draw(_sizes(kind))
            if "burst" in limit:
                changed.append({**limit, "burst": size})
            else:
                changed.append({**limit, kind: f"{size / 10**9:.9f}" if kind == "cost" else size})
        (self.models if tier in self.models else self.tiers)[tier] = changed
        self.load()
        self.lease = lease
        self.counters.set_lease(lease, self.at)
        self.model.time = self.counters._ledger.floor

    @rule(times=st.integers(1, 4), whole=st.booleans())
    def snapshot(self, times: int, *, whole: bool) -> None:
        for _ in range(times):
            self.counters.snapshot(whole=whole)
            assert self.counters.healthy

    @precondition(lambda self: hasattr(self, "counters") and self.counters.healthy)
    @rule(graceful=st.booleans(), lease=st.sampled_from(LEASES))
    def restarted(self, lease: int, *, graceful: bool) -> None:
        if graceful:
            self.tick(self.at)
            self.counters.close(self.at)
        else:
            self.journal.close()
        self.lease = lease
        self.open()

    @precondition(lambda self: hasattr(self, "counters") and self.counters.healthy)
    @rule(at=STEPS)
    def killed_in_a_snapshot(self, at: tuple[str, bool]) -> None:
        """The files as they lie on the disk at some statement of a snapshot are what the next process finds."""
        self.generation += 1
        self.at_step(at[0], self.copy, late=at[1])
        self.copy()
        self.journal.close()
        self.open()

    def copy(self) -> None:
        if self.place().exists():  # the first of two such statements
            return
        old = Path(self.directory.name) / str(self.generation - 1)
        self.place().mkdir(mode=0o700)
        for file in old.iterdir():
            if not file.name.endswith("-shm"):
                shutil.copy(file, self.place() / file.name)

    def at_step(self, words: str, what: Callable[[], None], *, late: bool) -> None:
        journal = self.journal
        real, name = journal._snapshots, words.removeprefix("log.")
        journal._snapshots = _Watched(real, what, words, late=late)
        step = getattr(journal._log, name, None)

        def watched(*arguments: Any) -> None:
            if not late:
                what()
            step(*arguments)  # type: ignore[misc]  # only where there is one
            if late:
                what()

        if words != name:
            setattr(journal._log, name, watched)
        try:
            self.counters.snapshot()
        finally:
            journal._snapshots = real
            vars(journal._log).pop(name, None)

    @rule(at=STEPS)
    def a_snapshot_fails(self, at: tuple[str, bool]) -> None:
        """At any statement; a COMMIT may have happened although it reports a failure."""

        def fail() -> None:
            if at[0].startswith("log."):
                raise OSError(28, "No space left on device")
            raise sqlite3.OperationalError("database or disk is full")

        try:
            self.at_step(at[0], fail, late=at[1])
        except StoreError:
            assert not self.counters.healthy

    @rule(call=calls, figures=st.tuples(st.integers(0, 70), st.integers(0, 220)))
    def answered(self, call: Call, figures: tuple[int, int]) -> None:
        """What most calls come to: a whole answer, with its usage."""
        entry = Evidence(call.hold, "end", 200, "via_upstream", False, (), True, True, 100, figures[0], figures[1], 1, 5)
        self.tick(self.at)
        expected = self.ended(call, entry)
        settled = self.settle([entry])
        assert settled is None or [one.result for one in settled] == [expected]

    @rule()
    def the_journal_is_full(self) -> None:
        """The next batch is refused; what a snapshot makes whole goes on."""

        def fail(*_: Any) -> Any:
            raise OSError(28, "No space left on device")

        self.journal._log.append = fail
        try:
            self.serial += 1
            self.counters.note([("summary", f"note {self.serial}".encode(), 1)], self.at)
            assert not self.keep()
        finally:
            del self.journal._log.append

    @rule(count=st.integers(1, 4), lost=st.booleans())
    def sinks_take_events(self, count: int, *, lost: bool) -> None:
        """`lost`: written, but the acknowledgement never came: they are offered again, and are the same then."""
        events = self.counters.pending(count)
        for event in events:
            assert self.written.setdefault((event.event, event.memo), _shown(event)) == _shown(event)
        if events and not lost:
            self.counters.acknowledge(events[-1].seq)

    # -- what must hold

    @invariant()
    def counters_are_the_sum_of_calls(self) -> None:
        if not hasattr(self, "counters"):
            return
        for tier, name in self.limits_of:
            for caller in CALLERS:
                if caller.tier != tier:
                    continue
                principal = Principal("api_key", caller.client, tier, tenant=caller.tenant, key_id=caller.key)
                permit = self.policy.permit(Ask("openai.chat", name, prompts=(Prompt(1),)), principal)
                assert isinstance(permit, Permit)
                account = self.table.account(principal, permit, caller.address)
                rules = {one.name: one for one in self.limits_of[tier, name]}
                for line in (*account.own, *account.shared):
                    self.same(line, rules[line.limit.name], rules[line.limit.name].identity(caller, name))

    def same(self, line: Any, one: Rule, identity: Any) -> None:
        (state,) = self.counters.states([line.key])
        if one.gcra:
            debt = 0 if state is None else max(0, state[1] - max(0, self.model.time - state[0]) * one.size)
            owed = self.model.bucket(identity, one) * SPAN[one.period]
            assert debt == owed, (one, state)
            return
        start = window(one.period, self.model.time, self.zone)[0] if one.period else 0
        found = (0, 0) if state is None or state[0] < start else (state[1], state[2])
        assert found == self.model.standing(identity), one

    @invariant()
    def records_are_the_calls_that_run(self) -> None:
        if hasattr(self, "counters"):
            found = {one.id: (one.admitted, one.lease_end, one.memo) for one in self.counters._ledger.pending.values()}
            assert found == {c.id: (c.admitted, c.lease_end, c.memo) for c in self.model.calls if c.state == "pending"}
            assert self.counters.distrusted == self.model.distrusted

    @invariant()
    def every_event_once(self) -> None:
        if not hasattr(self, "counters"):
            return
        waiting: dict[tuple[str, bytes], Any] = {}
        for event in self.counters.pending(100_000):
            if event.event != "summary":
                assert (event.event, event.memo) not in waiting
                waiting[event.event, event.memo] = _shown(event)
        both = {**self.written, **waiting}
        expected = {(one["event"], one["memo"]): one for call in self.model.calls for one in call.events}
        assert {key for key in both if key[0] != "summary"} == set(expected)
        for key, one in expected.items():
            assert {name: both[key][name] for name in one} == one
            assert key not in self.written or self.written[key] == both[key]


def _shown(event: Any) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(event).items() if name != "seq"} | {"source": event.source}


def _answer(verdict: Any, jitter: float) -> tuple[Reason, int | None]:
    """(reason, retry-after) in the specification's words."""
    one: Rule = verdict.rule
    if verdict.wait is None:
        return Reason.EXCEEDS_LIMIT, None
    wait = max(1, -(-verdict.wait // 1000))
    if one.by == "model" or verdict.held:
        wait += round(jitter)
    if one.by == "model":
        return Reason.MODEL_AT_CAPACITY, wait
    if one.kind == "concurrent":
        return Reason.TOO_MANY_CONCURRENT, wait
    if one.kind == "cost":
        return Reason.BUDGET_EXCEEDED, wait
    return (Reason.RATE_LIMITED if one.period in ("second", "minute", "hour") else Reason.QUOTA_EXCEEDED), wait


def _rule(scope: str, limit: dict[str, Any], place: int, *, of_model: bool) -> Rule:
    kind = next(kind for kind in ("requests", "tokens", "cost", "concurrent") if kind in limit)
    size = round(float(limit[kind]) * 10**9) if kind == "cost" else limit[kind]
    period, gcra = limit.get("per", ""), "burst" in limit
    by = limit.get("by", "model" if of_model else "client")
    models = (scope,) if of_model else tuple(sorted(limit.get("models", ())))
    name = ".".join([scope, kind, *([period] if period else []), by, *(["gcra"] if gcra else [])])
    if not of_model and models:
        name += f".{'+'.join(models)}"
    return Rule(name, kind, size, period, by, models, place, gcra, limit.get("burst", 0))


CountersAgainstReference.TestCase.settings = settings(max_examples=120, stateful_step_count=40, suppress_health_check=list(HealthCheck))
TestCountersAgainstReference = CountersAgainstReference.TestCase
