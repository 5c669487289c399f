"""Closed-loop load: N calls in flight, each replaced when it is answered. Enters: messages. Leaves: throughput, latency, CPU of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from statistics import median

import msgspec

from bench.http2 import Connection, header_block
from bench.requests import hold_of, log_message

CHECK = "/envoy.service.auth.v3.Authorization/Check"
LOGS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
ALLOW = (b"\x0a\x00", b"\x0a\x02\x08\x00", b"")
"""How an allow begins: `status {code: 0}` comes first, written out or left to its default."""
MOST_REFUSED = 0.001
BATCH = 16
"""Log entries in one message, as Envoy batches them under load."""


class Load(msgspec.Struct, frozen=True):
    """One run. Latencies in milliseconds; cpu: microseconds of the server per request; refused: answers that are no allow."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu: float
    refused: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class Settler:
    """Answers the holds of allows through an access log stream on the same connection."""

    def __init__(self, connection: Connection, *, patient: bool = False) -> None:
        self._connection = connection
        self._patient = patient
        self._stream = connection.begin(header_block(LOGS, None), None)
        self._holds: list[str] = []
        self.sent = 0

    def take(self, answer: bytes) -> None:
        hold = hold_of(answer)
        if hold is not None:
            self._holds.append(hold)
            if len(self._holds) >= BATCH and not self._patient:
                self.flush()

    def flush(self) -> None:
        for at in range(0, len(self._holds), BATCH):
            holds = self._holds[at : at + BATCH]
            self._connection.send(self._stream, log_message(holds))
            self.sent += len(holds)
        self._holds = []


def grpc(
    port: int,
    messages: Sequence[bytes],
    *,
    cpu: Callable[[], float],
    seconds: float = 3.0,
    count: int | None = None,
    in_flight: int = 64,
    settled: Callable[[int], bool] | None = None,
    settle_after: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Load:
    """Drive Checks for `seconds`, or until `count` are answered. With `settled` allows come back in the access log, and the
    CPU counts until `settled(how many)` says that all of them are accounted for. `settle_after`: they come back when the measurement is
    over, uncounted, so that the next one finds the server as this one did.
    """
    connection = Connection(port)
    settler = Settler(connection, patient=settle_after) if settled is not None else None
    block, supply = header_block(CHECK), cycle(messages)
    began: dict[int, float] = {}
    latencies: list[float] = []
    refused = 0
    running = True
    clock = time.perf_counter

    def ended(stream: int, answer: bytes) -> None:
        nonlocal refused
        start = began.pop(stream, None)
        if start is None:
            return
        latencies.append(clock() - start)
        if not answer.startswith(ALLOW[:2]):
            refused += 1
        elif settler is not None:
            settler.take(answer)
        if running:
            began[connection.begin(block, next(supply))] = clock()

    before, t0 = cpu(), clock()
    try:
        for _ in range(in_flight):
            began[connection.begin(block, next(supply))] = clock()
        until = t0 + seconds
        while (len(latencies) < count) if count is not None else (clock() < until):
            connection.turn(ended, 0.1)
            if progress is not None:
                progress(len(latencies))
        answered, took = len(latencies), clock() - t0
        used = (cpu() - before) / max(1, answered)
        running = False
        while began and clock() < t0 + took + 5:
            connection.turn(ended, 0.1)
        if settler is not None and settled is not None:
            settler.flush()
            limit = clock() + 60
            while not settled(settler.sent):
                if clock() > limit:
                    raise SystemExit(
                        f"{settler.sent} calls were reported in the access log, and a minute later not all of them are settled."
                    )
                connection.turn(ended, 0.05)
            _rest(cpu)
            if not settle_after:
                used = (cpu() - before) / max(1, len(latencies))
    finally:
        connection.close()
    return result(latencies, answered, took, used, refused)


def _rest(cpu: Callable[[], float]) -> None:
    """Wait until the server has nothing left to do: finished events leave the outbox after their settlement."""
    limit = time.monotonic() + 60
    busy = True
    while busy and time.monotonic() < limit:
        before = cpu()
        time.sleep(0.2)
        busy = cpu() - before > 0.01


def result(latencies: list[float], answered: int, took: float, used: float, refused: int) -> Load:
    """Figures of one run: `answered` within `took` seconds, `used` seconds of CPU per request.

    One that measured refusals measured something else, and ends the benchmark.
    """
    count = len(latencies)
    if count == 0 or refused > count * MOST_REFUSED:
        raise SystemExit(f"{refused} of {count} calls were refused: this run says nothing about calls that pass.")
    latencies.sort()
    return Load(answered, took, latencies[count // 2] * 1000, latencies[int(count * 0.99)] * 1000, used * 1e6, refused)


def middle(runs: Sequence[Load]) -> Load:
    """The median of each figure."""
    return Load(
        round(median(run.requests for run in runs)),
        median(run.seconds for run in runs),
        median(run.p50 for run in runs),
        median(run.p99 for run in runs),
        median(run.cpu for run in runs),
        sum(run.refused for run in runs),
    )
