"""The loop between a transport and the corridor, with a transport that is a list."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from slm_authz.reason import Reason
from slm_authz.wire.check_request import decode
from slm_authz.wire.check_response import LAST_RESORT
from slm_authz.wire.complaints import EVERY_NS, Complaints
from slm_authz.wire.pump import Pump
from slm_authz.wire.seam import Incoming

SECRET = "Bearer sk-secret"


def call_of(path: str) -> bytes:
    message = external_auth_pb2.CheckRequest()
    message.attributes.request.http.method = "POST"
    message.attributes.request.http.path = path
    payload: bytes = message.SerializeToString()
    return payload


class FakeTransport:
    def __init__(self) -> None:
        self.answers: dict[int, bytes] = {}
        self.gone: set[int] = set()
        self.broken = False

    def start(self) -> None: ...

    def receive(self, most: int, timeout_ms: int) -> list[Incoming] | None:
        return None

    def respond(self, call: int, payload: bytes) -> bool:
        if self.broken:
            raise OSError
        self.answers[call] = payload
        return call not in self.gone

    def close(self) -> None: ...


@pytest.fixture
def pump(corridor: Any) -> tuple[Pump, FakeTransport, Any]:
    transport = FakeTransport()
    made = Pump(transport, corridor, Complaints(lambda: 0), max_message=4096, clock=lambda: 0, ticks=lambda: 0)
    return made, transport, corridor


def test_a_batch_that_fails_is_answered_and_not_decided_twice(pump: tuple[Pump, FakeTransport, Any]) -> None:
    loop, transport, corridor = pump
    loop.step([Incoming(1, call_of("/a")), Incoming(2, call_of("/boom")), Incoming(3, call_of("/b"))])
    assert (transport.answers, corridor.batches) == ({1: LAST_RESORT, 2: LAST_RESORT, 3: LAST_RESORT}, [3])


def test_an_answer_that_cannot_be_written_is_a_fault_of_ours(
    pump: tuple[Pump, FakeTransport, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def choke(decision: Any) -> bytes:
        raise ValueError

    monkeypatch.setattr("slm_authz.wire.pump.encode", choke)
    loop, transport, corridor = pump
    loop.step([Incoming(1, call_of("/a"))])
    assert (transport.answers, corridor.faults, corridor.undelivered_ids) == ({1: LAST_RESORT}, ["a"], [])


def test_a_reader_that_fails_does_not_lose_the_batch(pump: tuple[Pump, FakeTransport, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def choke(payload: bytes, **more: Any) -> Any:
        if payload == b"poison":
            raise ValueError
        return decode(payload, **more)

    monkeypatch.setattr("slm_authz.wire.pump.decode", choke)
    loop, transport, corridor = pump
    loop.step([Incoming(1, b"poison"), Incoming(2, call_of("/a"))])
    assert [getattr(arrival.request, "reason", None) for arrival in corridor.arrivals] == [Reason.INTERNAL, None]
    assert external_auth_pb2.CheckResponse.FromString(transport.answers[2]).status.code == 0


def test_a_call_cancelled_in_its_own_batch_is_marked(pump: tuple[Pump, FakeTransport, Any]) -> None:
    loop, _, corridor = pump
    loop.step([Incoming(1, call_of("/a")), Incoming(1, None), Incoming(9, None)])
    assert [(a.call, a.cancelled) for a in corridor.arrivals] == [(1, True)]


@pytest.mark.parametrize("broken", [True, False])
def test_what_nobody_received_is_given_back(pump: tuple[Pump, FakeTransport, Any], *, broken: bool) -> None:
    loop, transport, corridor = pump
    transport.broken = broken
    transport.gone = {1}
    loop.step([Incoming(1, call_of("/a")), Incoming(2, call_of("/b"))])
    assert corridor.undelivered_ids == (["a", "b"] if broken else ["a"])


def test_the_loop_outlives_a_transport_that_fails(pump: tuple[Pump, FakeTransport, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, transport, _ = pump
    script: list[Any] = [OSError("once"), [Incoming(1, call_of("/a"))], ValueError("twice"), None]

    def receive(most: int, timeout_ms: int) -> list[Incoming] | None:
        step = script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step  # type: ignore[no-any-return]

    monkeypatch.setattr(transport, "receive", receive)
    loop.start()
    loop.join(5)
    assert (script, list(transport.answers)) == ([], [1])


def test_complaints_are_bounded_counted_and_silent_about_what_they_saw(caplog: pytest.LogCaptureFixture) -> None:
    now = 0
    complain = Complaints(lambda: now)
    for _ in range(5):
        complain("it failed", ValueError(SECRET))
    now = EVERY_NS
    complain("it failed", ValueError(SECRET))
    assert [record.getMessage().split("\n")[0] for record in caplog.records] == [
        "it failed: ValueError",
        "it failed: ValueError (and 4 times more since)",
    ]
    assert SECRET not in caplog.text


def test_it_rests_only_when_nothing_is_parked(pump: tuple[Pump, FakeTransport, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, transport, corridor = pump
    script: list[list[Incoming]] = [[Incoming(1, call_of("/park"))]]
    closed = False

    def receive(most: int, timeout_ms: int) -> list[Incoming] | None:
        return None if closed else script.pop() if script else []

    monkeypatch.setattr(transport, "receive", receive)
    loop.start()
    for _ in range(500):
        if corridor.waiting:
            break
        loop.join(0.01)
    assert not loop.rest(3)
    corridor.freed = True
    assert loop.rest(500)
    assert list(transport.answers) == [1]
    closed = True
    loop.join(5)
