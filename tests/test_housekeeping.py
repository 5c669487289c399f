"""One round at a time: the unwired access log is noticed and explained, and idle counters are swept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from slm_authz.errors import StoreError
from slm_authz.housekeeping import UNWIRED, Housekeeper
from slm_authz.reason import Reason
from tests.engine.house import House

CONFIG = """
version: 1
identity: [{api_key: {}}]
models: {m: {context: 1000, default_output_tokens: 10, max_output_tokens: 100, price: free}}
tiers: {free: {models: [m], limits: [{requests: 100, per: minute}, {requests: 10, per: day, algorithm: gcra, burst: 5}, {concurrent: 5}]}}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}).encode()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Any]:
    one = House(tmp_path, CONFIG)
    yield one
    one.close()


def rounds(keeper: Housekeeper, count: int) -> None:
    for _ in range(count):
        keeper.tick()


def test_an_unwired_access_log_is_noticed_and_forgiven(house: Any) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    decision = house.ask(house.request(BODY, key=house.key("acme")))
    rounds(keeper, 10)
    assert keeper.unwired is None
    house.now += 31_000
    rounds(keeper, 10)
    assert getattr(keeper, "unwired") == UNWIRED  # noqa: B009 - mypy would take it for None still
    assert "envoy-config" in UNWIRED
    house.end(decision)
    rounds(keeper, 10)
    assert keeper.unwired is None


def test_any_entry_shows_that_the_log_is_wired(house: Any) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    house.ask(house.request(BODY, key=house.key("acme")))
    house.now += 31_000
    house.engine.lapse(house.now)
    house.engine.unmatched(1, "no_hold", "ext_authz_denied")
    rounds(keeper, 10)
    assert keeper.unwired is None


def test_lapses_do_not_hide_that_nobody_reports(house: Any) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    house.ask(house.request(BODY, key=house.key("acme")))
    house.now += 1_000_000
    rounds(keeper, 10)
    assert house.counters.outstanding == 0
    assert keeper.unwired == UNWIRED
    house.end(house.ask(house.request(BODY, key=house.key("acme"))), kind="periodic")
    rounds(keeper, 10)
    assert keeper.unwired is None


def told_of_tiers(house: Any, keeper: Housekeeper, seconds: int = 1) -> str | None:
    """What is said a second later."""
    rounds(keeper, seconds * 10)
    return keeper.homeless


def test_a_tier_that_is_gone_while_keys_name_it(house: Any, caplog: pytest.LogCaptureFixture) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    house.key("acme")
    house.key("brief", tier="gone", expires_in=1000)
    spent = house.life.create(house.now, client="spent", tier="spent")[0]
    house.life.revoke([spent.id], house.now)
    house.life.create(house.now, client="off", tier="off")
    house.life.disable(house.life.every(client="off")[0].id)
    said = told_of_tiers(house, keeper)
    assert said is not None
    assert "(gone, off)" in said
    assert [record.message for record in caplog.records] == [said]
    assert house.ask(house.request(BODY, key=house.key("brief"))).denial.reason == Reason.CLIENT_BLOCKED
    house.now += 1000  # what has expired has no need of a tier
    assert "(off)" in (told_of_tiers(house, keeper, 60) or "")
    house.life.update(house.life.every(client="off")[0].id, {"tier": "free"})
    assert told_of_tiers(house, keeper) is None
    house.life.update(house.life.every(client="brief")[0].id, {"expires_at": None})
    assert "(gone)" in (told_of_tiers(house, keeper) or ""), "a key can become usable again"


def test_all_keys_are_read_only_when_something_has_changed(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    reading = Mock(return_value=[])
    monkeypatch.setattr(house, "homeless", reading)
    house.key("acme")
    rounds(keeper, 1200)
    assert reading.call_count == 1
    house.key("another")
    rounds(keeper, 100)
    assert reading.call_count == 2
    house.engine.rules = msgspec.structs.replace(house.engine.rules, digest="another")
    rounds(keeper, 100)
    assert reading.call_count == 3


def test_a_record_that_cannot_be_read_hides_no_other_tier(house: Any) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    house.key("broken", tier="bad")
    house.key("brief", tier="gone")
    house.store._writer.execute("UPDATE keys SET details = x'c1' WHERE tier = 'bad'")
    assert "(bad, gone)" in (told_of_tiers(house, keeper) or "")


def test_a_key_store_that_does_not_answer_is_asked_again(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    house.key("brief", tier="gone")
    with monkeypatch.context() as patched:
        patched.setattr(house, "homeless", Mock(side_effect=StoreError("down")))
        assert told_of_tiers(house, keeper) is None
    assert "(gone)" in (told_of_tiers(house, keeper) or "")


def test_idle_counters_are_swept(house: Any) -> None:
    keeper = Housekeeper(house, lambda: house.now)
    decision = house.ask(house.request(BODY, key=house.key("acme")))
    assert len(house.counters.keys()) == 3
    rounds(keeper, 600)
    assert len(house.counters.keys()) == 3
    house.end(decision)
    house.now += 60_000
    rounds(keeper, 600)
    (left,) = house.counters.keys()
    assert left.split("\t")[1] == "gcra"
    house.now += 86_400_000
    rounds(keeper, 600)
    assert house.counters.keys() == []
