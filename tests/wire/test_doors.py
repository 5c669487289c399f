"""One suite over both transports: a real gRPC client, a real port, and a corridor that is a fake."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2

from slm_authz.errors import DependencyError, PortTaken
from slm_authz.reason import Denial
from slm_authz.wire.check_response import LAST_RESORT
from slm_authz.wire.seam import CHECK
from slm_authz.wire.server import SLACK, Server
from tests.patience import eventually

MAX_BODY = 4096
ALS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
HEALTH = "/grpc.health.v1.Health/"
SECRET = "Bearer sk-secret"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
Transport = Literal["native", "grpcio"]


def call_of(path: str, size: int = 0) -> bytes:
    """A Check; `size` pads it to that many bytes."""
    message = external_auth_pb2.CheckRequest()
    message.attributes.request.http.method = "POST"
    message.attributes.request.http.path = path
    payload: bytes = message.SerializeToString()
    if size:
        message.attributes.request.http.raw_body = b" " * (size - len(payload) - 20)
        payload = message.SerializeToString()
        message.attributes.request.http.raw_body += b" " * (size - len(payload))
        payload = message.SerializeToString()
        assert len(payload) == size
    return payload


def log_of(*holds: str) -> bytes:
    message = als_pb2.StreamAccessLogsMessage()
    for hold in holds:
        common = message.http_logs.log_entry.add().common_properties
        common.access_log_type = accesslog_pb2.DownstreamEnd
        common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update({"slm": {"hold": hold}})
    payload: bytes = message.SerializeToString()
    return payload


def server_of(corridor: Any, target: str, transport: Transport) -> Server:
    return Server(corridor, target, max_body=MAX_BODY, clock=lambda: 1_700_049_600_000, ticks=lambda: 0, transport=transport)


class House:
    """A running server, its corridor and a client."""

    def __init__(self, corridor: Any, target: str, transport: Transport) -> None:
        self.corridor = corridor
        self.server = server_of(self.corridor, target, transport)
        self.server.start()
        self.channel = grpc.insecure_channel(self.server.address, options=(("grpc.use_local_subchannel_pool", 1),))
        self.check = self.channel.unary_unary(CHECK)

    def ask(self, path: str, timeout: float = 10, **more: Any) -> Any:
        return external_auth_pb2.CheckResponse.FromString(self.check(call_of(path, **more), timeout=timeout))

    def method(self, name: str, kind: str = "unary_unary") -> Any:
        return getattr(self.channel, kind)(name)

    def close(self) -> None:
        self.channel.close()
        self.server.stop()


@pytest.fixture(params=["native", "grpcio"])
def transport(request: pytest.FixtureRequest) -> Transport:
    if request.param == "native":
        pytest.importorskip("pygrpc_native")
    kind: Transport = request.param
    return kind


@pytest.fixture(params=["tcp", "unix"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path_factory.mktemp('d')}/g.sock"


@pytest.fixture
def house(corridor: Any, target: str, transport: Transport) -> Iterator[House]:
    made = House(corridor, target, transport)
    yield made
    made.close()


# -- answers


def test_allow_and_deny_are_answers_of_an_rpc_that_went_well(house: House) -> None:
    allowed = house.ask("/a")
    assert (allowed.status.code, allowed.WhichOneof("http_response")) == (0, "ok_response")
    denied = house.ask("/deny")
    assert (denied.status.code, denied.denied_response.status.code) == (8, 429)
    assert {o.header.key: o.header.value for o in denied.denied_response.headers}["retry-after"] == "7"


@pytest.mark.parametrize("payload", [b"", b"\xff\xff\xff", b"\x0a\x05"])
def test_what_cannot_be_read_is_refused(house: House, payload: bytes) -> None:
    answer = external_auth_pb2.CheckResponse.FromString(house.check(payload, timeout=10))
    assert (answer.status.code, answer.denied_response.status.code) == (3, 400)


def test_a_call_is_as_long_as_it_may_be(house: House) -> None:
    assert house.ask("/a", size=MAX_BODY + SLACK).status.code == 0
    for size in (MAX_BODY + SLACK + 1, 20 << 20):
        answer = house.ask("/a", size=size)
        assert (answer.status.code, answer.denied_response.status.code) == (3, 413)


def test_every_call_gets_its_own_answer(house: House) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: house.ask(f"/call-{n}"), range(200)))
    ids = [a.dynamic_metadata.fields["slm"].struct_value.fields["decision_id"].string_value for a in answers]
    assert ids == [f"call-{n}" for n in range(200)]


def test_trace_and_deadline_arrive(house: House) -> None:
    house.check(call_of("/a"), timeout=5, metadata=(("traceparent", "00-ab-cd-01"),))
    house.check(call_of("/a"))
    first, second = (arrival.request for arrival in house.corridor.arrivals)
    assert not isinstance(first, Denial)
    assert not isinstance(second, Denial)
    assert first.traceparent == "00-ab-cd-01"
    assert first.remaining is not None
    assert 4 < first.remaining <= 5.1
    assert (second.traceparent, second.remaining) == (None, None)


def test_our_failure_is_a_refusal(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/boom", "/boom", "/unwritable"):
        assert house.check(call_of(path), timeout=10) == LAST_RESORT
    assert house.ask("/a").status.code == 0
    assert house.corridor.faults == ["unwritable"], "what was held for an answer that could not be written is given back"
    assert SECRET not in caplog.text
    assert caplog.text.count("could not be decided: RuntimeError") == 1, "once a minute and kind"


@pytest.mark.parametrize("method", ["/envoy.service.auth.v3.Authorization/Other", "/a.B/C", "/grpc.health.v1.Health/List"])
def test_an_unknown_method_is_unimplemented(house: House, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        house.method(method)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# -- calls that wait


def test_a_settlement_lets_a_waiting_call_through(house: House) -> None:
    waiting = house.check.future(call_of("/park-1"), timeout=10)
    assert eventually(lambda: house.corridor.waiting)
    house.method(ALS, "stream_unary")(iter([log_of("h1", "h2"), b"\xff", log_of("free")]), timeout=10)
    assert external_auth_pb2.CheckResponse.FromString(waiting.result()).status.code == 0
    assert house.corridor.settled == ["h1", "h2", "free"]
    assert house.corridor.counted == [(1, "unreadable", "")]


def test_the_loop_itself_lets_a_waiting_call_through(house: House) -> None:
    waiting = house.check.future(call_of("/park-1"), timeout=10)
    assert eventually(lambda: house.corridor.waiting)
    house.corridor.freed = True
    assert external_auth_pb2.CheckResponse.FromString(waiting.result()).status.code == 0


def test_a_waiting_call_that_is_cancelled_is_taken_out(house: House) -> None:
    waiting = house.check.future(call_of("/park-1"), timeout=10)
    assert eventually(lambda: house.corridor.waiting)
    waiting.cancel()
    assert eventually(lambda: house.corridor.cancelled)
    assert house.corridor.waiting == 0


def test_a_waiting_call_whose_time_is_up_is_taken_out(house: House) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        house.check(call_of("/park-1"), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert eventually(lambda: house.corridor.cancelled)


# -- health


def test_health_follows_the_corridor(house: House) -> None:
    check = house.method(HEALTH + "Check")
    for name in ("", "envoy.service.auth.v3.Authorization", "envoy.service.accesslog.v3.AccessLogService"):
        request = b"\x0a" + bytes([len(name)]) + name.encode() if name else b""
        assert check(request, timeout=10) == SERVING
    house.corridor.ready = False
    assert check(b"", timeout=10) == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(b"\x0a\x03foo", timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_watch_sees_each_change_and_the_end(house: House) -> None:
    watch = house.method(HEALTH + "Watch", "unary_stream")(b"", timeout=20)
    assert next(watch) == SERVING
    house.corridor.ready = False
    assert next(watch) == NOT_SERVING
    house.corridor.ready = True
    assert next(watch) == SERVING
    house.server.health.drain()
    assert next(watch) == NOT_SERVING
    house.server.stop()
    assert list(watch) == []
    assert watch.code() is grpc.StatusCode.OK


def test_a_watch_of_an_unknown_service_says_so(house: House) -> None:
    watch = house.method(HEALTH + "Watch", "unary_stream")(b"\x0a\x03foo", timeout=20)
    assert next(watch) == b"\x08\x03"
    watch.cancel()


# -- the end


def test_draining_loses_no_call_and_ends_streams_in_order(house: House) -> None:
    log, late, outcomes = house.server.access_log, threading.Event(), list[object]()

    def messages() -> Iterator[bytes]:
        yield log_of("early")
        late.wait(20)
        yield log_of("free")
        while not log.finished:
            late.wait(0.02)

    def callers() -> None:
        while not log.finished:
            try:
                outcomes.append(house.ask("/a").status.code)
            except grpc.RpcError as error:
                outcomes.append(error.code())

    stream = house.method(ALS, "stream_unary").future(messages(), timeout=20)
    assert eventually(lambda: house.corridor.settled)
    waiting = house.check.future(call_of("/park-1"), timeout=20)
    assert eventually(lambda: house.corridor.waiting)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            pool.submit(callers)
        drained = pool.submit(house.server.drain, 0.3, 0.1)
        check = house.method(HEALTH + "Check")
        assert eventually(lambda: check(b"", timeout=10) == NOT_SERVING)
        assert house.ask("/a").status.code == 0, "calls are still taken"
        late.set()
        drained.result(20)
    assert external_auth_pb2.CheckResponse.FromString(waiting.result()).status.code == 0
    assert stream.result() == b"", "the stream returned; it was not cut"
    assert len(outcomes) > 10
    assert set(outcomes[:-3]) == {0}, "but for at most one call per caller after the end"
    with pytest.raises(grpc.RpcError):
        house.check(call_of("/a"), timeout=1)


def test_draining_waits_for_a_call_that_is_still_parked(house: House) -> None:
    waiting = house.check.future(call_of("/park-1"), timeout=20)
    assert eventually(lambda: house.corridor.waiting)
    freed = threading.Timer(0.2, lambda: setattr(house.corridor, "freed", True))
    freed.start()
    house.server.drain(0, 0)
    freed.join()
    assert external_auth_pb2.CheckResponse.FromString(waiting.result()).status.code == 0


def test_stopping_twice_or_unstarted_is_nothing(corridor: Any, target: str, transport: Transport) -> None:
    server_of(corridor, target, transport).stop()
    house = House(corridor, target, transport)
    house.close()
    house.close()


def test_nothing_is_left_behind(corridor: Any, target: str, transport: Transport) -> None:
    before = {thread.name for thread in threading.enumerate()}
    house = House(corridor, target, transport)
    house.ask("/a")
    house.close()
    assert not {t.name for t in threading.enumerate() if t.name.startswith("slm-authz")} - before
    if target.startswith("unix:"):
        path = Path(target.removeprefix("unix:"))
        assert [p.name for p in path.parent.iterdir()] == ["g.sock.lock"]


# -- the address


@pytest.mark.parametrize("second", ["native", "grpcio"])
def test_a_taken_address_is_not_taken_over(house: House, second: Transport) -> None:
    if second == "native":
        pytest.importorskip("pygrpc_native")
    for _ in range(2):
        with pytest.raises(PortTaken):
            server_of(house.corridor, house.server.address, second).start()
    assert house.ask("/a").status.code == 0


def test_an_address_that_is_not_ours_is_another_failure(corridor: Any, transport: Transport) -> None:
    with pytest.raises(DependencyError) as caught:
        server_of(corridor, "192.0.2.1:9001", transport).start()
    assert not isinstance(caught.value, PortTaken)


def test_a_unix_socket_admits_nobody_else(corridor: Any, transport: Transport, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("d") / "g.sock"
    house = House(corridor, f"unix:{path}", transport)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert house.ask("/a").status.code == 0
    house.close()
    assert not path.exists()


def test_a_port_of_zero_is_named(corridor: Any, transport: Transport) -> None:
    house = House(corridor, "127.0.0.1:0", transport)
    assert int(house.server.address.rpartition(":")[2]) > 0
    house.close()
