"""Windows: aligned to the epoch up to the hour, calendar periods in a time zone above it."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.quota.window import Calendar

PERIODS = ["second", "minute", "hour", "day", "week", "month"]


def millis(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize(
    ("zone", "period", "now", "start", "end"),
    [
        ("UTC", "second", "2026-03-01T10:20:30.999", "2026-03-01T10:20:30", "2026-03-01T10:20:31"),
        ("UTC", "minute", "2026-03-01T10:20:30", "2026-03-01T10:20:00", "2026-03-01T10:21:00"),
        ("UTC", "day", "2026-03-01T10:20:30", "2026-03-01T00:00:00", "2026-03-02T00:00:00"),
        ("UTC", "week", "2026-03-01T10:20:30", "2026-02-23T00:00:00", "2026-03-02T00:00:00"),
        ("UTC", "month", "2024-02-29T10:20:30", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("UTC", "month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("Europe/Berlin", "day", "2026-03-29T12:00:00", "2026-03-29T00:00:00", "2026-03-30T00:00:00"),
        ("Europe/Berlin", "month", "2026-03-29T12:00:00", "2026-03-01T00:00:00", "2026-04-01T00:00:00"),
        ("America/St_Johns", "week", "2026-11-01T12:00:00", "2026-10-26T00:00:00", "2026-11-02T00:00:00"),
    ],
)
def test_windows(zone: str, period: str, now: str, start: str, end: str) -> None:
    assert Calendar(zone).window(period, millis(now, zone)) == (millis(start, zone), millis(end, zone))


def test_a_day_of_the_clock_change_has_23_or_25_hours() -> None:
    berlin = Calendar("Europe/Berlin")
    spring = berlin.window("day", millis("2026-03-29T12:00:00", "Europe/Berlin"))
    autumn = berlin.window("day", millis("2026-10-25T12:00:00", "Europe/Berlin"))
    assert [(end - start) // 3_600_000 for start, end in (spring, autumn)] == [23, 25]


@given(
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "America/Santiago"]),
    period=st.sampled_from(PERIODS),
    now=st.integers(millis("2005-01-01T00:00:00"), millis("2037-01-01T00:00:00")),
)
def test_windows_tile_time(zone: str, period: str, now: int) -> None:
    calendar = Calendar(zone)
    start, end = calendar.window(period, now)
    assert start <= now < end
    assert calendar.window(period, start) == (start, end)
    assert calendar.window(period, end - 1) == (start, end)
    assert Calendar(zone).window(period, end)[0] == end
    assert datetime.fromtimestamp(start / 1000, UTC)
