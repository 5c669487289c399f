"""Pages of a long list: every row once, without beginning anew, and right also where the rest of a list waits no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slm_authz.admin.listing import PAGE, PATIENCE_S, WAITING, Listing


class Rows:
    """`size` rows for each query; how many were made."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.made = 0
        self.now = 100.0
        self.listing = Listing(self, lambda: self.now)

    def __call__(self, query: str) -> Iterator[str]:
        for number in range(self.size):
            self.made += 1
            yield f"{query}{number}"

    def follow(self, query: str, start: int | None = 0) -> list[str]:
        """All pages from there on."""
        found: list[str] = []
        while start is not None:
            page, start = self.listing.page(query, start)
            assert len(page) == PAGE if start is not None else len(page) <= PAGE
            found += page
        return found


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 3 * PAGE + 7])
def test_every_row_is_there_once_and_made_once(size: int) -> None:
    rows = Rows(size)
    assert rows.follow("q") == [f"q{number}" for number in range(size)]
    assert rows.made == size


def test_a_page_that_is_asked_for_again_is_the_same() -> None:
    size = 3 * PAGE
    rows = Rows(size)
    first, after = rows.listing.page("q", 0)
    assert after is not None
    second = rows.listing.page("q", after)
    assert rows.listing.page("q", after) == second
    assert rows.listing.page("q", 0) == (first, PAGE)
    assert rows.follow("q", 2 * PAGE) == [f"q{number}" for number in range(2 * PAGE, size)]
    assert rows.follow("q", 10 * PAGE) == []


def test_lists_of_different_queries_are_not_mixed() -> None:
    rows = Rows(2 * PAGE)
    for query in ("a", "b"):
        rows.listing.page(query, 0)
    assert {query: rows.follow(query, PAGE)[0] for query in ("a", "b", "c")} == {query: f"{query}{PAGE}" for query in ("a", "b", "c")}


def test_few_lists_wait_and_not_for_long() -> None:
    rows = Rows(2 * PAGE)
    queries = [f"{number}-" for number in range(WAITING + 1)]
    for query in queries:
        rows.listing.page(query, 0)
    made = rows.made
    assert rows.follow(queries[1], PAGE)[-1] == f"{queries[1]}{2 * PAGE - 1}"
    assert rows.made == made + PAGE - 1, "its rest has waited"
    assert rows.follow(queries[0], PAGE)[-1] == f"{queries[0]}{2 * PAGE - 1}"
    assert rows.made == made + PAGE - 1 + 2 * PAGE, "it had to give way, and was made anew"
    rows.now += PATIENCE_S
    made = rows.made
    rows.follow(queries[-1], PAGE)
    assert rows.made == made + 2 * PAGE, "its figures would be old"


def test_what_has_waited_too_long_is_let_go_of() -> None:
    rows = Rows(2 * PAGE)
    rows.listing.page("q", 0)
    rows.now += PATIENCE_S - 1
    rows.listing.forget()
    assert len(rows.listing._waiting) == 1
    rows.now += 1
    rows.listing.forget()
    assert not rows.listing._waiting


def test_a_list_that_fails_in_the_middle_is_made_anew() -> None:
    class Failing(Rows):
        def __call__(self, query: str) -> Iterator[str]:
            for row in super().__call__(query):
                if row == f"q{PAGE + 5}" and self.made < 2 * PAGE:
                    raise OSError("disk")
                yield row

    rows = Failing(2 * PAGE)
    _, after = rows.listing.page("q", 0)
    assert after == PAGE
    with pytest.raises(OSError, match="disk"):
        rows.listing.page("q", PAGE)
    assert rows.follow("q", PAGE) == [f"q{number}" for number in range(PAGE, 2 * PAGE)]
