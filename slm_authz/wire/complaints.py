"""What went wrong inside a door, for the log: once a minute per kind, counted in between, without the exception's own words.

An exception's message may quote what it choked on (a header, a prompt); where it happened says enough to find it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from traceback import format_tb
from typing import Final

log = logging.getLogger(__name__)

EVERY_NS: Final = 60 * 10**9


class Complaints:
    """`ticks` is a monotonic clock in nanoseconds. May be called from any thread; a count may then be one short."""

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self._said: dict[tuple[str, type[BaseException]], tuple[int, int]] = {}

    def __call__(self, what: str, error: BaseException) -> None:
        """Log a failure, or count it where its kind was logged a moment ago."""
        kind, now = (what, type(error)), self._ticks()
        last, unsaid = self._said.get(kind, (now - EVERY_NS, 0))
        if now - last < EVERY_NS:
            self._said[kind] = last, unsaid + 1
            return
        self._said[kind] = now, 0
        more = f" (and {unsaid} times more since)" if unsaid else ""
        log.error("%s: %s%s\n%s", what, type(error).__name__, more, "".join(format_tb(error.__traceback__)))
