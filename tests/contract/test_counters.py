"""What every backend of the counters must do, in small steps. The rules are those of the metering specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slm_authz.quota.counters import Admission, Grant, Refusal
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.shown import reason_of
from slm_authz.reason import Reason

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


def admit(bench: Any, admission: Admission, now: int) -> Grant | Refusal:
    result: Grant | Refusal = bench.counters.admit([admission], now)[0]
    bench.counters.commit()
    return result


def end(bench: Any, grant: Grant | Refusal, tokens: tuple[int, int] | None, **more: Any) -> Evidence:
    assert isinstance(grant, Grant)
    hold = bench.signer.sign(grant.pending, grant.quoted)
    whole: dict[str, Any] = {"status": 200, "details": "via_upstream", "reached": True, "complete": True, "attempts": 1}
    whole.update(more)
    return Evidence(hold, input_tokens=tokens[0] if tokens else None, output_tokens=tokens[1] if tokens else None, **whole)


def standing(bench: Any, index: int = 0) -> tuple[int, int]:
    line = (bench.account().own + bench.account().shared)[index]
    state = bench.counters.states([line.key])[0]
    return (state[1], state[2]) if state else (0, 0)


def test_a_call_holds_and_then_uses(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    grant = admit(b, b.admission(tokens=60), noon)
    assert standing(b) == (0, 60)
    settled = b.counters.settle([end(b, grant, (5, 7))], noon + 50)
    assert settled[0].result == "settled"
    assert standing(b) == (12, 0)


def test_a_refused_call_consumes_nothing(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 5, "per": "minute"}, {"tokens": 100, "per": "day"}])
    assert isinstance(admit(b, b.admission(tokens=60), noon), Grant)
    refused = admit(b, b.admission(tokens=60), noon)
    assert isinstance(refused, Refusal)
    assert refused.line.limit.name == "free.tokens.day.client"
    assert standing(b, 0) == (0, 1)
    assert standing(b, 1) == (0, 60)


def test_a_shared_limit_that_refuses_leaves_the_callers_own_untouched(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 5, "per": "minute"}], model_limits=[{"concurrent": 1}])
    assert isinstance(admit(b, b.admission(), noon), Grant)
    refused = admit(b, b.admission("other"), noon)
    assert isinstance(refused, Refusal)
    assert reason_of(refused) is Reason.MODEL_AT_CAPACITY
    other = b.account("other").own[0]
    assert b.counters.states([other.key])[0] in (None, [noon - noon % MINUTE, 0, 0])


def test_the_longest_wait_decides_then_file_order(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 1, "per": "minute"}, {"tokens": 10, "per": "day"}, {"requests": 1, "per": "day", "name": "daily"}])
    assert isinstance(admit(b, b.admission(tokens=10), noon), Grant)
    b.counters.settle([end(b, Grant(b.counters._ledger.pending[f"{1:032x}"], ["a", "b", "c"], None, None), (5, 5))], noon)
    refused = admit(b, b.admission(tokens=10), noon)
    assert isinstance(refused, Refusal)
    assert refused.line.limit.name == "free.tokens.day.client"
    assert refused.wait_ms == DAY // 2


def test_only_holds_in_the_way_means_a_short_wait(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    admit(b, b.admission(tokens=90), noon)
    refused = admit(b, b.admission(tokens=50), noon)
    assert isinstance(refused, Refusal)
    assert refused.settles
    assert refused.wait_ms == SECOND


def test_more_than_the_limit_ever_allows(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}, {"concurrent": 1}])
    refused = admit(b, b.admission(tokens=101), noon)
    assert isinstance(refused, Refusal)
    assert refused.wait_ms is None
    assert not refused.slots_only
    assert reason_of(refused) is Reason.EXCEEDS_LIMIT


def test_concurrency_alone_may_wait(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 10, "per": "minute"}, {"concurrent": 1}])
    first = admit(b, b.admission(), noon)
    refused = admit(b, b.admission(), noon)
    assert isinstance(refused, Refusal)
    assert refused.slots_only
    b.counters.settle([end(b, first, (1, 1))], noon + 1)
    assert isinstance(admit(b, b.admission(), noon + 2), Grant)


def test_a_duplicate_has_no_effect(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    entry = end(b, admit(b, b.admission(tokens=60), noon), (5, 7))
    results = b.counters.settle([entry, entry, entry], noon + 1)
    assert [one.result for one in results] == ["settled", "ignored", "ignored"]
    assert standing(b) == (12, 0)
    assert len(b.counters.pending(10)) == 1


@pytest.mark.parametrize(
    "forge",
    [
        lambda h: h[:-1] + ("0" if h[-1] != "0" else "1"),
        lambda h: h.replace("1;", "2;", 1),
        lambda _: "",
        lambda _: ";;;",
        lambda h: h + ";",
    ],
)
def test_a_forged_hold_has_no_effect(bench: Callable[..., Any], noon: int, forge: Callable[[str], str]) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    entry = end(b, admit(b, b.admission(tokens=60), noon), (5, 7))
    entry.hold = forge(entry.hold)
    assert b.counters.settle([entry], noon + 1)[0].result == "forged"
    assert standing(b) == (0, 60)


def test_a_lease_that_ends_charges_the_bound_and_frees_the_slot(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}, {"concurrent": 1}])
    admit(b, b.admission(tokens=60), noon)
    assert b.counters.lapse(noon + 15 * MINUTE - 1) == []
    assert len(b.counters.lapse(noon + 15 * MINUTE)) == 1
    assert standing(b, 0) == (60, 0)
    assert standing(b, 1) == (0, 0)
    assert b.counters.outstanding == 0
    event = b.counters.pending(1)[0]
    assert (event.status, event.source) == (None, "bound")


def test_a_late_entry_corrects_once(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    entry = end(b, admit(b, b.admission(tokens=60), noon), (5, 7))
    b.counters.lapse(noon + 15 * MINUTE)
    results = b.counters.settle([entry, entry], noon + 16 * MINUTE)
    assert [one.result for one in results] == ["corrected", "ignored"]
    assert standing(b) == (12, 0)
    decision, correction = b.counters.pending(10)
    assert correction.event == "correction"
    assert decision.input_tokens + correction.input_tokens == 5
    assert decision.output_tokens + correction.output_tokens == 7
    assert decision.cost + correction.cost == (5 + 14) * 10**9


def test_after_a_day_a_lapsed_call_is_final(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "month"}])
    entry = end(b, admit(b, b.admission(tokens=60), noon), (5, 7))
    b.counters.lapse(noon + 15 * MINUTE)
    b.counters.lapse(noon + DAY + 16 * MINUTE)
    assert b.counters.settle([entry], noon + DAY + 17 * MINUTE)[0].result == "ignored"
    assert standing(b) == (60, 0)


def test_a_sign_of_life_renews_the_lease(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"concurrent": 1}])
    grant = admit(b, b.admission(), noon)
    periodic = end(b, grant, None, kind="periodic")
    assert b.counters.settle([periodic], noon + 14 * MINUTE)[0].result == "renewed"
    assert b.counters.lapse(noon + 16 * MINUTE) == []
    assert len(b.counters.lapse(noon + 29 * MINUTE)) == 1


def test_a_call_belongs_to_the_window_of_its_admission(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 1, "per": "minute"}, {"tokens": 100, "per": "minute"}])
    grant = admit(b, b.admission(tokens=60), noon)
    assert isinstance(admit(b, b.admission(tokens=10), noon + MINUTE), Grant)
    b.counters.settle([end(b, grant, (50, 50))], noon + MINUTE + 1)
    assert standing(b, 1) == (0, 10)


def test_usage_above_the_hold_is_charged_and_flagged(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    settled = b.counters.settle([end(b, admit(b, b.admission(tokens=10), noon), (5, 50))], noon)
    assert settled[0].exceeded
    assert standing(b) == (55, 0)
    assert b.counters.distrusted == {"m"}


@pytest.mark.parametrize("late", [False, True])
def test_a_broken_bound_is_remembered_also_after_a_kill(bench: Callable[..., Any], noon: int, late: bool) -> None:
    b = bench([{"tokens": 100, "per": "day"}])
    entry = end(b, admit(b, b.admission(tokens=10), noon), (5, 50))
    if late:
        b.counters.lapse(noon + 15 * MINUTE)
    b.counters.settle([entry], noon + 15 * MINUTE)
    assert b.counters.distrusted == {"m"}
    if b.durable:
        assert b.reopen().distrusted == {"m"}


def test_giving_back_leaves_no_trace_but_one_event(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 5, "per": "minute"}, {"tokens": 100, "per": "day", "algorithm": "gcra", "burst": 100}, {"concurrent": 1}])
    grant = admit(b, b.admission(tokens=60), noon)
    assert isinstance(grant, Grant)
    assert b.counters.give_back(grant.pending.id, b"cancelled", noon)
    assert not b.counters.give_back(grant.pending.id, b"cancelled", noon)
    b.counters.commit()
    assert [standing(b, i)[1] for i in (0, 2)] == [0, 0]
    assert standing(b, 1)[0] == 0
    assert [event.memo for event in b.counters.pending(10)] == [b"cancelled"]


def test_time_never_goes_back(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 1, "per": "minute"}])
    assert isinstance(admit(b, b.admission(), noon + MINUTE), Grant)
    assert isinstance(admit(b, b.admission(), noon), Refusal)


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_was_ahead_for_a_moment_holds_no_lease_for_ever(bench: Callable[..., Any], noon: int, restart: bool) -> None:
    b = bench([{"concurrent": 1}])
    b.counters.lapse(noon + 30 * DAY)
    grant = admit(b, b.admission(), noon + 10)
    assert isinstance(grant, Grant)
    if restart and b.durable:
        b.counters.snapshot()
        b.reopen()
    assert b.counters.lapse(noon + 20) == []
    assert b.counters.lapse(noon + 10 * MINUTE) == []
    assert len(b.counters.lapse(noon + 18 * MINUTE)) == 1
    assert isinstance(admit(b, b.admission(), noon + 18 * MINUTE), Grant)


def test_times_that_are_a_little_apart_do_not_add_up(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 1, "per": "second"}])
    for _ in range(1000):
        b.counters.lapse(noon + 500)
        b.counters.lapse(noon)
    assert isinstance(admit(b, b.admission(), noon + 1), Grant)
    assert isinstance(admit(b, b.admission(), noon + 501), Refusal)


def test_acknowledged_events_are_gone(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 9, "per": "minute"}])
    b.counters.note([("decision", b"a", 1), ("decision", b"b", 1), ("summary", b"c", 7)], noon)
    b.counters.commit()
    first, second, third = b.counters.pending(10)
    assert (first.memo, second.memo, third.count) == (b"a", b"b", 7)
    b.counters.acknowledge(second.seq)
    assert [event.memo for event in b.counters.pending(10)] == [b"c"]


def test_gcra_spreads_requests(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"requests": 60, "per": "minute", "algorithm": "gcra", "burst": 2}])
    results = [admit(b, b.admission(), at) for at in (noon, noon, noon + 999, noon + 1000, noon + 1000)]
    assert [isinstance(one, Grant) for one in results] == [True, True, False, True, False]
    late = results[2]
    assert isinstance(late, Refusal)
    assert late.wait_ms == 1


def test_limits_of_tenants_are_shared_by_their_clients(bench: Callable[..., Any], noon: int) -> None:
    b = bench([{"cost": "100", "per": "month", "by": "tenant"}])
    assert isinstance(admit(b, b.admission("one", tokens=30, tenant="team"), noon), Grant)
    refused = admit(b, b.admission("two", tokens=30, tenant="team"), noon)
    assert isinstance(refused, Refusal)
    assert reason_of(refused) is Reason.BUDGET_EXCEEDED
    assert isinstance(admit(b, b.admission("two", tokens=30, tenant="else"), noon), Grant)
