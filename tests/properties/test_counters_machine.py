"""Any interleaving of admit, settle, lapse, late entry, duplicate, refusal, crash and restart, against a model that is a list of calls.

The model knows no counters: what is used and held it sums up anew from all calls at every step.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from slm_authz.quota.counters import Grant
from slm_authz.quota.evidence import Evidence
from slm_authz.store.journal import FileJournal
from tests.conftest import LEASE, NOON, Bench

MINUTE, DAY = 60_000, 86_400_000
TOKENS_PER_DAY, REQUESTS_PER_MINUTE, SLOTS, BUDGET = 300, 12, 4, 500 * 10**9


@dataclass
class Call:
    """A call as the model sees it. state: pending | settled | lapsed | final | undone"""

    id: str
    client: str
    tokens: int
    tokens_in: int
    admitted: int
    lease_end: int
    hold: str
    state: str = "pending"
    charged: tuple[int, int] = (0, 0)
    events: list[str] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return (self.charged[0] + 2 * self.charged[1]) * 10**9


class Interleavings(RuleBasedStateMachine):
    """One tier with a token window, a request window, a tenant's budget and slots; two clients of one tenant."""

    calls = Bundle("calls")

    @initialize()
    def start(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "data"
        self.path.mkdir(mode=0o700)
        self.bench: Any = Bench(
            [
                {"tokens": TOKENS_PER_DAY, "per": "day"},
                {"requests": REQUESTS_PER_MINUTE, "per": "minute"},
                {"concurrent": SLOTS},
                {"cost": "500", "per": "month", "by": "tenant"},
            ],
            lambda: FileJournal(self.path / "journal", self.path / "counters.db", generation=1),
        )
        self.now = NOON
        self.model: list[Call] = []
        self.seen: dict[str, list[str]] = {}

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.counters.close(self.now)
            self.directory.cleanup()

    # -- what can happen

    @rule(target=calls, client=st.sampled_from(["one", "two"]), tokens=st.integers(1, 120))
    def admit(self, client: str, tokens: int) -> Call | None:
        admission = self.bench.admission(client, tokens=tokens, tenant="team")
        pending = admission.pending
        expected = self.fits(client, tokens, admission.amounts[2])
        result = self.bench.counters.admit([admission], self.now)[0]
        self.bench.counters.commit()
        assert isinstance(result, Grant) == expected
        if not isinstance(result, Grant):
            return None
        hold = self.bench.signer.sign(result.pending, result.quoted)
        call = Call(pending.id, client, tokens, pending.input_bound, self.now, self.now + LEASE, hold)
        self.model.append(call)
        return call

    @rule(call=calls, share=st.floats(0, 1), whole=st.booleans())
    def end(self, call: Call | None, share: float, *, whole: bool) -> None:
        """An end of the call arrives: the first one, a late one, or a duplicate."""
        if call is None:
            return
        out = int((call.tokens - call.tokens_in) * share)
        entry = Evidence(call.hold, status=200, details="via_upstream", reached=True, complete=whole, attempts=1)
        if whole:
            entry.input_tokens, entry.output_tokens = call.tokens_in, out
        result = self.bench.counters.settle([entry], self.now)[0].result
        charged = (call.tokens_in, out) if whole else (call.tokens_in, call.tokens - call.tokens_in)
        if call.state == "pending":
            assert result == "settled"
            call.state, call.charged = "settled", charged
        elif call.state == "lapsed":
            assert result == "corrected"
            call.state, call.charged = "final", charged
        else:
            assert result == "ignored"

    @rule(call=calls)
    def sign_of_life(self, call: Call | None) -> None:
        if call is None:
            return
        result = self.bench.counters.settle([Evidence(call.hold, kind="periodic")], self.now)[0].result
        assert result == ("renewed" if call.state == "pending" else "ignored")
        if call.state == "pending":
            call.lease_end = self.now + LEASE

    @rule(call=calls)
    def nobody_received_it(self, call: Call | None) -> None:
        if call is None:
            return
        done = self.bench.counters.give_back(call.id, b"cancelled", self.now)
        self.bench.counters.commit()
        assert done == (call.state == "pending")
        if done:
            call.state = "undone"

    @rule(millis=st.sampled_from([1, 20_000, MINUTE, LEASE - 1, LEASE, DAY // 3]))
    def time_passes(self, millis: int) -> None:
        self.now += millis
        self.bench.counters.lapse(self.now)
        for call in self.model:
            if call.state == "pending" and call.lease_end <= self.now:
                call.state, call.charged = "lapsed", (call.tokens_in, call.tokens - call.tokens_in)
            elif call.state == "lapsed" and call.lease_end < self.now - DAY:
                call.state = "final"

    @rule()
    def the_clock_goes_back(self) -> None:
        self.bench.counters.lapse(self.now - MINUTE)

    @rule()
    def snapshot(self) -> None:
        self.bench.counters.snapshot()

    @rule()
    def killed_and_restarted(self) -> None:
        self.bench.counters._journal.close()
        self.bench.reopen()

    @rule(count=st.integers(1, 3))
    def sinks_take_events(self, count: int) -> None:
        events = self.bench.counters.pending(count)
        for event in events:
            self.seen.setdefault(event.memo.decode(), []).append(event.event)
        if events:
            self.bench.counters.acknowledge(events[-1].seq)

    # -- what must hold

    def of_window(self, calls: list[Call], length: int) -> list[Call]:
        start = self.now - self.now % length
        return [call for call in calls if call.admitted >= start]

    def fits(self, client: str, tokens: int, cost: int) -> bool:
        mine = [call for call in self.model if call.client == client and call.state != "undone"]
        today = self.of_window(mine, DAY)
        used = sum(sum(call.charged) if call.state != "pending" else call.tokens for call in today)
        requests = len(self.of_window(mine, MINUTE))
        slots = sum(call.state == "pending" for call in mine)
        return used + tokens <= TOKENS_PER_DAY and requests < REQUESTS_PER_MINUTE and slots < SLOTS and self.spent() + cost <= BUDGET

    def spent(self) -> int:
        counted = [call for call in self.model if call.state != "undone"]
        return sum(call.cost if call.state != "pending" else (2 * call.tokens - call.tokens_in) * 10**9 for call in counted)

    @invariant()
    def no_overshoot(self) -> None:
        """For every counter used + held is what the calls sum up to, and never over its limit."""
        if not hasattr(self, "bench"):
            return
        for client in ("one", "two"):
            lines = self.bench.account(client, tenant="team").own
            for line, state in zip(lines, self.bench.counters.states([line.key for line in lines]), strict=True):
                if state is not None:
                    assert state[1] + state[2] <= line.limit.size
                    assert state[2] >= 0
        assert self.spent() <= BUDGET

    @invariant()
    def nothing_outlives_its_lease(self) -> None:
        if hasattr(self, "bench"):
            assert self.bench.counters.outstanding == sum(call.state == "pending" for call in self.model)

    @invariant()
    def one_event_per_decided_call(self) -> None:
        if not hasattr(self, "bench"):
            return
        waiting = [(event.memo.decode(), event.event) for event in self.bench.counters.pending(10_000)]
        for call in self.model:
            memo = f"memo {int(call.id, 16)}"
            events = {kind for name, kind in waiting if name == memo} | set(self.seen.get(memo, ()))
            decisions = [kind for name, kind in waiting if name == memo and kind == "decision"]
            assert len(decisions) <= 1
            if call.state == "pending":
                assert not events
            elif call.state != "undone":
                assert "decision" in events


Interleavings.TestCase.settings = settings(max_examples=40, stateful_step_count=40, suppress_health_check=list(HealthCheck))
TestInterleavings = Interleavings.TestCase
