"""Where fixed windows begin and end. Enters: a period and a time. Leaves: half-open intervals in Unix milliseconds.

Seconds, minutes and hours are aligned to the epoch; days, ISO weeks and months are calendar periods in one time zone, so a day
may have 23 or 25 hours. Forbidden: asking a clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

PERIOD_MS: Final[dict[str, int]] = {
    "second": 1_000,
    "minute": 60_000,
    "hour": 3_600_000,
    "day": 86_400_000,
    "week": 604_800_000,
}
"""Nominal lengths, as GCRA uses them. A month has none."""

_EPOCH_ALIGNED: Final = ("second", "minute", "hour")

Window = tuple[int, int]
"""[start, end) in Unix milliseconds."""


class Calendar:
    """Windows of one time zone; remembers the current ones, since nearly every call falls into them."""

    def __init__(self, time_zone: str = "UTC") -> None:
        self._zone = ZoneInfo(time_zone)
        self._current: dict[str, Window] = {}

    def window(self, period: str, now: int) -> Window:
        """The window of `period` that holds `now`."""
        known = self._current.get(period)
        if known is not None and known[0] <= now < known[1]:
            return known
        window = self._find(period, now)
        self._current[period] = window
        return window

    def _find(self, period: str, now: int) -> Window:
        if period in _EPOCH_ALIGNED:
            length = PERIOD_MS[period]
            start = now - now % length
            return start, start + length
        day = datetime.fromtimestamp(now / 1000, self._zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        if period == "week":
            first = day - timedelta(days=day.weekday())
            return self._millis(first), self._millis(first + timedelta(days=7))
        if period == "month":
            first = day.replace(day=1)
            return self._millis(first), self._millis((first + timedelta(days=32)).replace(day=1))
        return self._millis(day), self._millis(day + timedelta(days=1))

    def _millis(self, local: datetime) -> int:
        # Local midnights are wall-clock arithmetic: `fold` and the offset are looked up anew for each of them.
        return int(local.replace(tzinfo=self._zone, fold=0).timestamp()) * 1000
