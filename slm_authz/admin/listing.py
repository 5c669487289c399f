"""A long list, a page at a time. Enters: a query and a position. Leaves: rows, and the position of the next page.

A list that somebody reads on is not begun anew for every page: its rest waits for a while, as it was when it began. Where it does not wait any
more, the rows before the position are made again and passed over, which is slow and as true. For one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain, islice
from typing import Final, Generic, TypeVar

PAGE: Final = 1000
WAITING: Final = 4
"""Lists that wait at the same time; the one that has waited longest gives way."""
PATIENCE_S: Final = 30.0
"""How long the rest of a list waits: its figures are of when it began."""

Query = TypeVar("Query", bound=Hashable)
Row = TypeVar("Row")


class Listing(Generic[Query, Row]):
    """Pages of what `rows` yields for a query. `clock` is monotonic, in seconds."""

    def __init__(self, rows: Callable[[Query], Iterable[Row]], clock: Callable[[], float]) -> None:
        self._rows = rows
        self._clock = clock
        self._waiting: dict[tuple[Query, int], tuple[float, Iterator[Row]]] = {}

    def forget(self) -> None:
        """Let go of what has waited too long: a list of many callers remembers them all."""
        now = self._clock()
        self._waiting = {place: one for place, one in self._waiting.items() if now - one[0] < PATIENCE_S}

    def page(self, query: Query, start: int) -> tuple[list[Row], int | None]:
        """At most `PAGE` rows from `start` on, and where the next page begins; None: there is none."""
        now = self._clock()
        self.forget()
        _, rest = self._waiting.pop((query, start), (now, None))
        if rest is None:
            rest = islice(self._rows(query), start, None)
        page = list(islice(rest, PAGE))
        following = next(rest, None)
        if following is None:
            return page, None
        while len(self._waiting) >= WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[query, start + PAGE] = now, chain((following,), rest)
        return page, start + PAGE
