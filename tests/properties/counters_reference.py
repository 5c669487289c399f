"""The metering specification as a second, naive program: no counters, only a list of calls, exact fractions, and days found by looking.

What is used and held is summed up anew from all calls whenever it is asked. Nothing of the project's arithmetic is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

SPAN = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
LATE = 86_400_000
CHUNK = {"openai.chat": 47, "openai.completions": 34, "openai.embeddings": 1}
"""Bytes of the shortest event that carries a token, per dialect: `data: {"choices":[{"delta":{"content":"x"}}]}` and so on."""

Identity = tuple[str, str, str, str, tuple[str, ...], tuple[str, ...]]
"""(kind, algorithm, period, subject kind, subject, models): neither tier, size, burst nor name."""


@lru_cache(maxsize=100_000)
def _begins(day: date, zone: str) -> int:
    """The first instant of a local day, in ms, found by walking there in quarters of an hour."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=15)
    while at.astimezone(ZoneInfo(zone)).date() < day:
        at += timedelta(minutes=15)
    return int(at.timestamp()) * 1000


def window(period: str, now: int, zone: str) -> tuple[int, int]:
    """[start, end) in ms."""
    if period in ("second", "minute", "hour"):
        start = now // SPAN[period] * SPAN[period]
        return start, start + SPAN[period]
    today = datetime.fromtimestamp(now // 1000, ZoneInfo(zone)).date()
    if period == "day":
        first, after = today, today + timedelta(days=1)
    elif period == "week":
        first = today - timedelta(days=today.isoweekday() - 1)
        after = first + timedelta(days=7)
    else:
        first = date(today.year, today.month, 1)
        after = date(today.year + today.month // 12, today.month % 12 + 1, 1)
    return _begins(first, zone), _begins(after, zone)


@dataclass(frozen=True)
class Rule:
    """One limit, as the file says it. place: position in the file."""

    name: str
    kind: str
    size: int
    period: str
    by: str
    models: tuple[str, ...]
    place: int
    gcra: bool = False
    burst: int = 0

    @property
    def shown(self) -> int:
        return self.burst if self.gcra else self.size

    def identity(self, caller: Caller, model: str) -> Identity:
        tenant = caller.tenant or caller.client
        client = (tenant, caller.client)
        subject = {
            "tenant": (tenant,),
            "client": client,
            "key": (caller.key,) if caller.key is not None else client,
            "model": (model,),
            "address": (caller.address,),
        }[self.by]
        algorithm = "slots" if self.kind == "concurrent" else "gcra" if self.gcra else "fixed"
        return self.kind, algorithm, self.period, self.by, subject, tuple(sorted(self.models))


@dataclass(frozen=True)
class Caller:
    client: str
    tenant: str | None
    key: str | None
    tier: str
    address: str


@dataclass
class Bucket:
    """A GCRA counter: what is owed, in units of what is limited, and since when that is known."""

    level: Fraction = Fraction(0)
    since: int = 0

    def at(self, now: int, rate: Fraction) -> Fraction:
        return max(Fraction(0), self.level - max(0, now - self.since) * rate)


@dataclass
class Call:
    """state: pending | settled | lapsed | final | undone"""

    id: str
    memo: bytes
    caller: Caller
    model: str
    api: str
    stream: bool
    strict: bool
    bound: tuple[int, int]
    prices: tuple[int, int, int] | None
    admitted: int
    lease_end: int
    taken: dict[Identity, tuple[int, int, Fraction]]
    """Counter → amount, start of the window (or 0), units per ms (GCRA)."""
    hold: str = ""
    state: str = "pending"
    lapsed_at: int = 0
    charged: tuple[int, int] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def cost(self, tokens: tuple[int, int]) -> int | None:
        if self.prices is None:
            return None
        dear_in, dear_out, per = self.prices
        return math.ceil(Fraction(tokens[0] * dear_in + tokens[1] * dear_out, per))

    def used(self, kind: str) -> int:
        """What the call counts for by now (its hold does not)."""
        if kind == "concurrent" or self.state == "undone" or self.charged is None:
            return 0
        if kind == "requests":
            return 1
        return sum(self.charged) if kind == "tokens" else self.cost(self.charged) or 0


@dataclass(frozen=True)
class Verdict:
    """rule: the deciding limit; wait: ms, None: never; held: only holds are in the way; slots: only concurrency is"""

    rule: Rule
    wait: int | None
    held: bool
    slots: bool


class Reference:
    """All calls there ever were, and the time that the store has seen."""

    def __init__(self, zone: str) -> None:
        self.zone = zone
        self.calls: list[Call] = []
        self.buckets: dict[Identity, Bucket] = {}
        self.time = 0
        self.distrusted: set[str] = set()

    # -- how counters stand

    def standing(self, identity: Identity) -> tuple[int, int]:
        """(used, held) of a window that is current, or of slots."""
        start = window(identity[2], self.time, self.zone)[0] if identity[1] == "fixed" else 0
        used = held = 0
        for call in self.calls:
            amount, begun, _ = call.taken.get(identity, (0, 0, Fraction(0)))
            if amount and begun == start:
                used += call.used(identity[0])
                held += amount if call.state == "pending" else 0
        return used, held

    def bucket(self, identity: Identity, rule: Rule) -> Fraction:
        return self.buckets.get(identity, Bucket()).at(self.time, Fraction(rule.size, SPAN[rule.period]))

    def remaining(self, rule: Rule, identity: Identity) -> tuple[int, int]:
        """(remaining, reset in ms)."""
        if rule.gcra:
            level = self.bucket(identity, rule)
            return max(0, rule.burst - math.ceil(level)), math.ceil(level * SPAN[rule.period] / rule.size)
        end = window(rule.period, self.time, self.zone)[1] - self.time if rule.period else 0
        return max(0, rule.size - sum(self.standing(identity))), end

    def tightest(self, kind: str, rules: Iterable[Rule], caller: Caller, model: str) -> tuple[int, int] | None:
        """(remaining, reset) of the tightest limit of a kind that a caller may see."""
        seen = [self.remaining(rule, rule.identity(caller, model)) for rule in rules if rule.kind == kind and rule.by != "model"]
        return min(seen, key=lambda one: (one[0], -one[1]), default=None)

    # -- admission

    def judge(self, rules: list[Rule], caller: Caller, model: str, amounts: dict[str, int]) -> Verdict | None:
        """Why a call is refused; None: it passes. The caller's own slot first, then those that it shares with others."""
        tightest: dict[Identity, Rule] = {}
        for rule in sorted(rules, key=lambda one: (one.shown, one.place)):  # of those that share a counter, the one to be told of
            tightest.setdefault(rule.identity(caller, model), rule)
        for shared in (False, True):
            failing = [
                verdict
                for rule in tightest.values()
                if (rule.by in ("model", "address")) == shared and amounts[rule.kind]
                if (verdict := self._fails(rule, rule.identity(caller, model), amounts[rule.kind])) is not None
            ]
            if failing:
                slots = all(one.rule.kind == "concurrent" and one.wait is not None for one in failing)
                longest = max(math.inf if one.wait is None else one.wait for one in failing)
                worst = [one for one in failing if (math.inf if one.wait is None else one.wait) == longest]
                first = min(worst, key=lambda one: one.rule.place)
                return Verdict(first.rule, first.wait, first.held, slots)
        return None

    def _fails(self, rule: Rule, identity: Identity, amount: int) -> Verdict | None:
        if rule.gcra:
            over = self.bucket(identity, rule) + amount - rule.burst
            if over <= 0:
                return None
            return Verdict(rule, None if amount > rule.burst else math.ceil(over * SPAN[rule.period] / rule.size), held=False, slots=False)
        used, held = self.standing(identity)
        if used + held + amount <= rule.size:
            return None
        if amount > rule.size:
            return Verdict(rule, None, held=False, slots=False)
        # Of requests a hold becomes use, whatever follows: waiting for a settlement helps nobody.
        if rule.kind == "concurrent" or (rule.kind != "requests" and used + amount <= rule.size):
            return Verdict(rule, 1000, held=True, slots=False)
        return Verdict(rule, window(rule.period, self.time, self.zone)[1] - self.time, held=False, slots=False)

    def take(self, call: Call, rules: list[Rule], amounts: dict[str, int]) -> None:
        """Hold everything, each counter once."""
        for rule in rules:
            identity, amount = rule.identity(call.caller, call.model), amounts[rule.kind]
            if not amount or identity in call.taken:
                continue
            start = window(rule.period, self.time, self.zone)[0] if identity[1] == "fixed" else 0
            rate = Fraction(rule.size, SPAN[rule.period]) if rule.gcra else Fraction(0)
            call.taken[identity] = amount, start, rate
            if rule.gcra:
                self.buckets[identity] = Bucket(self.bucket(identity, rule) + amount, self.time)
        self.calls.append(call)

    # -- ends

    def _repay(self, call: Call, before: dict[str, int], after: dict[str, int]) -> None:
        """GCRA: what turned out cheaper comes back as far as it has not drained anyway; what turned out dearer is owed."""
        for identity, (_, _, rate) in call.taken.items():
            if identity[1] != "gcra":
                continue
            bucket = self.buckets[identity]
            level = bucket.at(self.time, rate)
            delta = before[identity[0]] - after[identity[0]]
            if delta < 0:
                level -= delta
            else:
                level = max(Fraction(0), level - max(Fraction(0), delta - (self.time - call.admitted) * rate))
            self.buckets[identity] = Bucket(level, self.time)

    def _amounts(self, call: Call, tokens: tuple[int, int]) -> dict[str, int]:
        return {"requests": 1, "tokens": sum(tokens), "cost": call.cost(tokens) or 0}

    def settle(self, call: Call, tokens: tuple[int, int], source: str, status: int | None) -> None:
        self._repay(call, self._amounts(call, call.bound), self._amounts(call, tokens))
        call.state, call.charged = "settled", tokens
        call.events.append(_event("decision", call.memo, status, source, tokens, call.cost(tokens)))
        self._look(call, tokens)

    def lapse(self, call: Call) -> None:
        self._repay(call, self._amounts(call, call.bound), self._amounts(call, call.bound))
        call.state, call.charged, call.lapsed_at = "lapsed", call.bound, self.time
        call.events.append(_event("decision", call.memo, None, "bound", call.bound, call.cost(call.bound)))

    def correct(self, call: Call, tokens: tuple[int, int], source: str, status: int | None) -> None:
        self._repay(call, self._amounts(call, call.bound), self._amounts(call, tokens))
        call.state, call.charged = "final", tokens
        more = (tokens[0] - call.bound[0], tokens[1] - call.bound[1])
        cost = call.cost(tokens)
        cost = None if cost is None else cost - (call.cost(call.bound) or 0)
        call.events.append(_event("correction", call.memo, status, source, more, cost))
        self._look(call, tokens)

    def undo(self, call: Call, memo: bytes) -> None:
        self._repay(call, self._amounts(call, call.bound), {"requests": 0, "tokens": 0, "cost": 0})
        call.state = "undone"
        call.events.append({"event": "decision", "memo": memo})

    def _look(self, call: Call, tokens: tuple[int, int]) -> None:
        if call.strict and (tokens[0] > call.bound[0] or tokens[1] > call.bound[1]):
            self.distrusted.add(call.model)


def _event(event: str, memo: bytes, status: int | None, source: str, tokens: tuple[int, int], cost: int | None) -> dict[str, Any]:
    return {
        "event": event, "memo": memo, "status": status, "source": source, "input_tokens": tokens[0], "output_tokens": tokens[1], "cost": cost,
    }  # fmt: skip


def charge(call: Call, entry: Any) -> tuple[tuple[int, int], str]:
    """What the end of a call costs: the specification's table, row by row."""
    tokens_in, tokens_out = entry.input_tokens, entry.output_tokens
    valid = tokens_in is not None and tokens_in >= 0
    if call.api == "openai.embeddings":
        tokens_out = 0  # it reports none
    else:
        valid = valid and tokens_out is not None and tokens_out >= 0
    if not entry.reached:
        return (0, 0), "none"
    if entry.complete and valid:
        return (tokens_in, tokens_out), "upstream"
    if entry.details == "via_upstream" and entry.status >= 400 and not valid:
        return (0, 0), "none"
    if valid:
        return (tokens_in, tokens_out), "partial"
    if call.strict or not call.stream:
        return call.bound, "bound"
    return (call.bound[0], min(entry.bytes // CHUNK[call.api], call.bound[1])), "estimate"
