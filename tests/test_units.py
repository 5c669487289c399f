from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.units import MAX_COUNT, format_duration, format_money, parse_duration, parse_money, parse_size

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=5), st.lists(st.integers(), max_size=2)
)


@pytest.mark.parametrize(
    ("text", "millis"),
    [("250ms", 250), ("90s", 90_000), ("1h30m", 5_400_000), ("30d", 2_592_000_000), ("2w", 1_209_600_000), (30, 30_000), ("0s", 0), (0, 0)],
)
def test_durations_are_milliseconds(text: str | int, millis: int) -> None:
    assert parse_duration(text) == millis


@pytest.mark.parametrize(
    "text", ["", "30", "30 d", "-1s", "1.5h", "1y", "s", "d30", "30d ", "30D", "٣s", True, -1, None, 1.5, [], "9" * 13 + "s"]
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("4MiB", 4 << 20), ("1kB", 1000), ("1KiB", 1024), (17, 17), ("17", 17), ("17B", 17), ("2GB", 2 * 10**9)]
)
def test_sizes_are_bytes(text: str | int, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "4 MiB", "4mib", "-1", "1.5MiB", True, None, 1.5, [], -4, "MiB", "٤MiB"])
def test_what_is_no_size_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0.05", 50_000_000),
        ("1", 10**9),
        (3, 3 * 10**9),
        ("0.000000001", 1),
        ("1.500000000000", 1_500_000_000),
        (Decimal("0.2"), 200_000_000),
    ],
)
def test_money_is_nanos(text: Any, nanos: int) -> None:
    assert parse_money(text) == nanos


@pytest.mark.parametrize(
    "text", ["", "0.0000000001", "-1", "1e9", "1e999999999", "nan", "inf", "1,50", "€1", 0.05, True, None, [], "٣", "1 ", ".5", "9" * 16]
)
def test_what_is_no_exact_amount_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="money"):
        parse_money(text)


@given(st.integers(min_value=0, max_value=MAX_COUNT))
def test_durations_read_back(millis: int) -> None:
    assert parse_duration(format_duration(millis)) == millis


@given(st.integers(min_value=0, max_value=MAX_COUNT))
def test_money_reads_back(nanos: int) -> None:
    assert parse_money(format_money(nanos)) == nanos
    assert format_money(-nanos) in ("0", "-" + format_money(nanos))


@given(ANYTHING)
def test_anything_else_is_a_value_error(value: Any) -> None:
    for parse in (parse_duration, parse_size, parse_money):
        with contextlib.suppress(ValueError):
            assert parse(value) >= 0
