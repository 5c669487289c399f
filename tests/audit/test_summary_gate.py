"""Floods of refusals without identity: each call counted exactly once, in bounded memory."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.audit import summary
from slm_authz.audit.summary import PER_SECOND, SummaryGate
from slm_authz.reason import Reason
from slm_authz.request.address import network

CALLS = st.lists(
    st.tuples(
        st.sampled_from([Reason.UNKNOWN_KEY.value, Reason.NO_CREDENTIAL.value, Reason.NOT_READY.value]),
        st.sampled_from(["192.0.2.1", "192.0.2.200", "198.51.100.1", "2001:db8::1", "2001:db8::ffff", "2001:db8:1::1", "", "nonsense"]),
        st.integers(-200, 900),
        st.integers(1, 25),
    ),
    max_size=60,
)


def test_ten_a_second_are_events_the_rest_is_one_summary() -> None:
    gate = SummaryGate(network)
    admitted = [gate.admit("unknown_key", f"192.0.2.{last}", 5_000 + last) for last in range(100)]
    assert admitted == [True] * PER_SECOND + [False] * 90
    assert gate.due(5_999) == []
    ((facts, count),) = gate.due(6_000)
    assert (count, facts.source, facts.reason, facts.time, facts.status, facts.outcome) == (
        90,
        "192.0.2.0/24",
        "unknown_key",
        5_000,
        401,
        "deny",
    )
    assert gate.due(7_000) == []


def test_reasons_and_networks_are_apart() -> None:
    gate = SummaryGate(network)
    for reason in ("unknown_key", "no_credential"):
        for source in ("192.0.2.1", "192.0.3.1", "2001:db8::1", "2001:db8:0:1::1"):
            assert all(gate.admit(reason, source, 1_000) for _ in range(PER_SECOND))
    assert gate.due(9_000) == []


def test_the_running_second_is_told_at_the_end() -> None:
    gate = SummaryGate(network)
    for _ in range(15):
        gate.admit("unknown_key", "192.0.2.1", 5_000)
    ((_, count),) = gate.due(5_500, last=True)
    assert count == 5


def test_our_own_failures_are_errors_in_the_summary_too() -> None:
    gate = SummaryGate(network)
    for _ in range(11):
        gate.admit("not_ready", "", 0)
    ((facts, _),) = gate.due(1_000)
    assert (facts.outcome, facts.status, facts.source) == ("error", 503, "")


@settings(max_examples=150)
@given(CALLS, st.integers(1, 4), st.booleans())
def test_every_refused_call_is_an_event_or_counted_in_one_summary(calls: list[tuple[str, str, int, int]], bound: int, lazy: bool) -> None:
    """With few networks told apart, with a clock that jumps, collected often or at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "MAX_SOURCES", bound)
        gate = SummaryGate(network)
        now, told, summed = 1_700_000_000_000, Counter[str](), Counter[str]()
        asked = Counter[str]()
        for reason, source, step, times in calls:
            now += step
            asked[reason] += times
            told[reason] += sum(gate.admit(reason, source, now) for _ in range(times))
            assert len(gate._seen) <= bound + 3
            assert len(gate._due) <= bound + 3
            if not lazy:
                for facts, count in gate.due(now):
                    summed[facts.reason] += count
        for facts, count in gate.due(now, last=True):
            summed[facts.reason] += count
    assert told + summed == asked


def test_an_attacker_who_rotates_networks_does_not_fill_the_memory() -> None:
    gate = SummaryGate(network)
    for number in range(30_000):
        gate.admit("unknown_key", f"10.{number >> 8 & 255}.{number & 255}.1", 1_000)
    assert len(gate._seen) <= summary.MAX_SOURCES + 1
    ((facts, count),) = gate.due(2_000)
    assert facts.source == ""
    assert count == 30_000 - summary.MAX_SOURCES - PER_SECOND
