"""GCRA on integers against exact fractions, and its promise: in any span t, at most burst + rate·t."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from slm_authz.quota import gcra

sizes = st.integers(1, 10_000)
periods = st.sampled_from([1_000, 60_000, 3_600_000, 86_400_000, 604_800_000])


@given(
    limit=sizes,
    burst=st.integers(1, 500),
    period=periods,
    steps=st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 50)), max_size=40),
)
def test_against_fractions(limit: int, burst: int, period: int, steps: list[tuple[int, int]]) -> None:
    debt, level = 0, Fraction(0)
    for elapsed, amount in steps:
        debt = gcra.drained(debt, elapsed, limit)
        level = max(Fraction(0), level - Fraction(elapsed * limit, period))
        assert Fraction(debt, period) == level
        fits = level + amount <= burst
        assert gcra.admits(debt, amount, burst, period) == fits
        if fits:
            debt += amount * period
            level += amount


@given(limit=sizes, burst=st.integers(1, 500), period=periods, amount=st.integers(1, 500), debt=st.integers(0, 10**9))
def test_the_wait_is_the_shortest_that_helps(limit: int, burst: int, period: int, amount: int, debt: int) -> None:
    if amount > burst:
        return
    debt = min(debt, burst * period)
    wait = gcra.wait_ms(debt, amount, burst, limit, period)
    assert gcra.admits(gcra.drained(debt, wait, limit), amount, burst, period)
    assert wait == 0 or not gcra.admits(gcra.drained(debt, wait - 1, limit), amount, burst, period)


@given(
    limit=sizes,
    burst=st.integers(1, 200),
    period=periods,
    calls=st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 100), st.floats(0, 1), st.integers(0, 20_000)), max_size=30),
)
def test_giving_back_never_breaks_the_bound(limit: int, burst: int, period: int, calls: list[tuple[int, int, float, int]]) -> None:
    """What was really used, in any span that ends now, is at most burst + rate·span."""
    now, debt, last = 0, 0, 0
    admitted: list[tuple[int, int]] = []
    endings: list[tuple[int, int, int, int]] = []
    for gap, amount, share, length in calls:
        now += gap
        for ending in sorted(end for end in endings if end[0] <= now):
            end, at, held, actual = ending
            debt, last = gcra.drained(debt, end - last, limit), max(last, end)
            debt = gcra.give_back(debt, held - actual, end - at, limit, period)
            endings.remove(ending)
        debt, last = gcra.drained(debt, now - last, limit), now
        if gcra.admits(debt, amount, burst, period):
            debt += amount * period
            actual = int(amount * share)
            admitted.append((now, actual))
            endings.append((now + length, now, amount, actual))
    for start, _ in admitted:
        used = sum(actual for at, actual in admitted if start <= at <= now)
        assert used * period <= burst * period + (now - start) * limit
