"""The threads of a running service at once: one decides, one settles and answers those that waited, one keeps house, one records."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from random import Random
from threading import Event, Thread
from typing import Any

import pytest

from slm_authz.housekeeping import Housekeeper
from slm_authz.quota.evidence import Evidence
from slm_authz.request import Arrival
from tests.engine.house import House

CONFIG = """
version: 1
identity: [{api_key: {}}]
models:
  m: {context: 1000, default_output_tokens: 10, max_output_tokens: 100, tokens_per_byte: 1, price: {input: "0.001", output: "0.002", per: 7},
      limits: [{concurrent: 40}]}
tiers:
  one: {models: [m], limits: [{concurrent: 1}, {tokens: 100000000, per: day}]}
  many:
    models: [m]
    limits: [{requests: 100000, per: day}, {tokens: 100000000, per: month}, {tokens: 90000, per: day, algorithm: gcra, burst: 90000},
             {cost: "100000", per: week, by: tenant}, {concurrent: 30}]
metering: {bound: strict, settle_wait: 10s}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 26}], "max_tokens": 10}).encode()
CALLS = 1_500


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Any]:
    one = House(tmp_path, CONFIG)
    yield one
    one.close()


@pytest.fixture
def hurried() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Traffic:
    """What the four threads share. Every call gets an answer, and every allowed one an end (some two, some a sign of life first)."""

    def __init__(self, house: Any) -> None:
        self.house = house
        self.keys = [house.key("sequential", tier="one"), *(house.key(f"c{n}", tier="many", tenant="t") for n in range(3))]
        self.ends: SimpleQueue[Any] = SimpleQueue()
        self.answered: Counter[int] = Counter()
        self.allowed: set[str] = set()
        self.undone: set[str] = set()
        self.decided: set[str] = set()
        self.events: list[Any] = []
        self.over = Event()
        self.failures: list[BaseException] = []

    def deliver(self, answers: Any) -> None:
        for arrival, decision in answers:
            self.answered[arrival.call] += 1
            self.decided.add(decision.id)
            if decision.denial is None:
                if arrival.call % 50 == 7:
                    self.undone.add(decision.id)
                    self.house.engine.undelivered(decision, self.house.now)
                else:
                    self.allowed.add(decision.id)
                self.ends.put(decision)  # even for what was given back: an entry that settles nothing

    def decide(self) -> None:
        random, engine = Random(1), self.house.engine
        call = 0
        while call < CALLS:
            size = random.randint(1, 8)
            batch = [Arrival(call + n, self.house.request(BODY, key=random.choice(self.keys))) for n in range(size)]
            call += size
            self.deliver(engine.check(batch, self.house.now))
        while engine.waiting or sum(self.answered.values()) < call:
            self.deliver(engine.resume(self.house.now))
        self.calls = call
        self.ends.put(None)

    def settle(self) -> None:
        random, engine = Random(2), self.house.engine
        while (decision := self.ends.get()) is not None:
            whole: dict[str, Any] = {"status": 200, "details": "via_upstream", "reached": True, "complete": True, "attempts": 1}
            entry = Evidence(decision.hold, input_tokens=random.randint(1, 40), output_tokens=random.randint(0, 10), **whole)
            entries = [entry] * random.randint(1, 2)
            if random.random() < 0.2:
                entries.insert(0, Evidence(decision.hold, "periodic"))
            engine.settle(entries, self.house.now)
            if engine.waiting:
                self.deliver(engine.resume(self.house.now))

    def keep(self) -> None:
        keeper = Housekeeper(self.house, lambda: self.house.now)
        while not self.over.is_set():
            self.house.now += 1
            keeper._rounds = 599 if keeper._rounds % 3 else keeper._rounds
            keeper.tick()

    def record(self) -> None:
        outbox = self.house.counters
        while True:
            last = self.over.is_set()
            events = outbox.pending(64)
            self.events += events
            if events:
                outbox.acknowledge(events[-1].seq)
            elif last:
                return

    def run(self) -> None:
        def guarded(work: Callable[[], None]) -> Callable[[], None]:
            def body() -> None:
                try:
                    work()
                except BaseException as error:
                    self.failures.append(error)
                    self.ends.put(None)
                    raise

            return body

        work = [Thread(target=guarded(one), daemon=True) for one in (self.decide, self.settle)]
        beside = [Thread(target=guarded(one), daemon=True) for one in (self.keep, self.record)]
        for thread in (*work, *beside):
            thread.start()
        for thread in work:
            thread.join(60)
        self.over.set()
        for thread in beside:
            thread.join(60)
        assert not any(thread.is_alive() for thread in (*work, *beside))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # `failures` tells
def test_all_threads_at_once(house: Any, hurried: None) -> None:
    traffic = Traffic(house)
    traffic.run()
    assert not traffic.failures
    assert set(traffic.answered.values()) == {1}
    assert len(traffic.answered) == traffic.calls
    ids = Counter(json_id(event) for event in traffic.events)
    assert set(ids) == traffic.decided
    assert set(ids.values()) == {1}
    assert house.counters.outstanding == 0
    assert house.counters.healthy
    settled = [event for event in traffic.events if event.source == "upstream"]
    assert len(settled) == len(traffic.allowed)
    # Every counter is the sum of its events, and a process that starts now finds the same.
    check(house, settled)
    before = {key: house.counters.states([key])[0] for key in house.counters.keys()}  # noqa: SIM118 - its own method
    house.journal.close()
    house.journal, house.counters = reopened(house)
    after = {key: house.counters.states([key])[0] for key in house.counters.keys()}  # noqa: SIM118
    assert {key: state for key, state in before.items() if key.split("\t")[1] != "gcra" and any(state)} == {
        key: state for key, state in after.items() if key.split("\t")[1] != "gcra" and any(state)
    }
    assert house.counters.outstanding == 0


def json_id(event: Any) -> str:
    from slm_authz.audit.event import unpack

    return unpack(event.memo).decision_id


def check(house: Any, settled: list[Any]) -> None:
    by_kind: Counter[tuple[str, str]] = Counter()
    for key in house.counters.keys():  # noqa: SIM118
        kind, algorithm = key.split("\t")[:2]
        (state,) = house.counters.states([key])
        if algorithm != "gcra":
            assert state[2] == 0, key
            by_kind[kind, key.split("\t")[2]] += state[1]
    assert by_kind["tokens", "month"] + by_kind["tokens", "day"] == sum(one.input_tokens + one.output_tokens for one in settled)
    assert by_kind["cost", "week"] == sum(one.cost for one in settled) - sum(one.cost for one in settled if _client(one) == "sequential")
    assert by_kind["requests", "day"] == sum(_client(one) != "sequential" for one in settled)


def _client(event: Any) -> str | None:
    from slm_authz.audit.event import unpack

    return unpack(event.memo).client


def reopened(house: Any) -> tuple[Any, Any]:
    from slm_authz.quota.window import Calendar
    from slm_authz.store.journal import FileJournal
    from slm_authz.store.memory import MemoryCounters

    directory = Path(house.loaded.path).parent
    journal = FileJournal(directory / "journal", directory / "counters.db")
    return journal, MemoryCounters(house.signer, Calendar(), 900_000, journal)
