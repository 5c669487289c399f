"""Calls at the edges of metering: no access log, no time left, no entry ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_authz.housekeeping import Housekeeper
from slm_authz.request import Arrival
from tests.engine.house import House

CONFIG = """
version: 1
identity: [{api_key: {}}]
models: {m: {context: 1000, default_output_tokens: 10, max_output_tokens: 100, tokens_per_byte: 1, price: free}}
tiers: {t: {models: [m], limits: [%s]}}
metering: {%s}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 26}], "max_tokens": 10}).encode()
Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Any] = []

    def house(limits: str, metering: str = "", **more: Any) -> Any:
        made.append(House(tmp_path, CONFIG % (limits, metering), **more))
        return made[-1]

    yield house
    for one in made:
        one.close()


def ask(house: Any, **more: Any) -> Any:
    return house.ask(house.request(BODY, key=house.key("acme"), **more))


# -- usage_from: none


def test_without_an_access_log_the_event_still_knows_how_long_the_check_took(make: Make) -> None:
    house = make("{requests: 5, per: day}", "usage_from: none")
    arrival = Arrival(1, house.request(BODY, key=house.key("acme")), received=house.ticks)
    house.ticks += 7_000_000
    ((_, decision),) = house.engine.check([arrival], house.now)
    assert decision.denial is None
    (event,) = house.events()
    assert (event.status, event.usage_source, event.latency_ms) == (None, "none", 7.0)
    assert house.counters.outstanding == 0


# -- too little time


@pytest.mark.parametrize("waited", [85, 99, 150])
def test_a_call_that_waited_too_long_for_its_deadline_takes_nothing(make: Make, waited: int) -> None:
    house = make("{concurrent: 1}", "settle_wait: 250ms")
    first = ask(house)
    assert ask(house, remaining=0.1) is None
    house.end(first)
    house.ticks += waited * 1_000_000
    ((_, late),) = house.engine.resume(house.now)
    assert late.denial is not None
    assert house.counters.outstanding == 0


# -- an access log that is not wired


def rounds(keeper: Housekeeper, count: int = 10) -> None:
    for _ in range(count):
        keeper.tick()


def test_an_unwired_log_is_noticed_although_leases_are_short(make: Make) -> None:
    house = make("{requests: 1000, per: day}", "lease: 10s", lease_ms=10_000)
    keeper = Housekeeper(house, lambda: house.now)
    for _ in range(60):
        ask(house)
        house.now += 1000
        rounds(keeper)
    assert keeper.unwired is not None


def test_an_unwired_log_stays_unwired_when_the_leases_have_ended(make: Make) -> None:
    house = make("{requests: 1000, per: day}")
    keeper = Housekeeper(house, lambda: house.now)
    ask(house)
    house.now += 31_000
    rounds(keeper)
    house.now += 900_000
    rounds(keeper)
    assert keeper.unwired is not None


# -- what is shown


def test_a_bound_is_exceeded_by_more_than_what_was_held(make: Make) -> None:
    """An estimate of the input that is a little too low is covered by the hold: nothing is above it."""
    house = make("{tokens: 5000, per: day}")
    decision = ask(house)
    pending = house.counters._ledger.pending[decision.id]
    house.end(decision, (pending.input_bound + 1, 1))
    assert house.metrics.exceeded == {}


def test_a_call_that_lapsed_and_was_corrected_is_counted_by_what_it_used(make: Make) -> None:
    house = make("{tokens: 5000, per: day}")
    decision = ask(house)
    house.now += 900_000
    house.engine.lapse(house.now)
    house.end(decision, (5, 5))
    assert sum(house.metrics.tokens.values()) <= sum(max(event.input_tokens, 0) + max(event.output_tokens, 0) for event in house.events())


def test_settlements_are_counted_although_the_journal_is_down(make: Make) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    house = make("{tokens: 5000, per: day}")
    decision = ask(house)
    append, house.journal._log.append = house.journal._log.append, full
    house.end(decision, (5, 5))
    house.journal._log.append = append
    house.counters.snapshot()
    assert house.metrics.settlements == {"upstream": 1}


def test_the_largest_cap_that_fits_fits_every_limit(make: Make) -> None:
    house = make("{tokens: 125, per: day}, {tokens: 110, per: hour}")
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 26}], "max_tokens": 100}).encode()
    refused = house.ask(house.request(body, key=house.key("acme")))
    cap = int(refused.denial.message.rpartition("max_tokens to ")[2].split()[0])
    body = body.replace(b'"max_tokens": 100', b'"max_tokens": %d' % cap)
    assert house.ask(house.request(body, key=house.key("acme"))).denial is None
