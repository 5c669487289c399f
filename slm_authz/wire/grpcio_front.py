"""Transport on grpcio alone, where pygrpc-native is missing: handlers enqueue their bytes on the event loop and wait for the answer."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Any

import grpc

from slm_authz.wire.seam import CHECK, Incoming


class GrpcioTransport:
    """The same seam as the batch front. `handler` belongs to the grpc.aio server that serves everything on the port.

    `ticks` is a monotonic clock in nanoseconds: a call's time goes on while it is queued.
    """

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self._queue: deque[tuple[Incoming, int]] = deque()
        self._ready = Condition()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._calls = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def handler(self) -> grpc.GenericRpcHandler:
        """The Check method, bytes in and out."""
        service, _, method = CHECK[1:].partition("/")
        return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(self._check)})

    async def _check(self, payload: bytes, context: Any) -> bytes:
        self._loop = asyncio.get_running_loop()
        call = next(self._calls)
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answers[call] = answer
        traceparent = None
        for name, value in context.invocation_metadata() or ():
            if name == "traceparent":
                traceparent = value
        self._put(Incoming(call, payload, traceparent, context.time_remaining()))
        try:
            return await answer
        except asyncio.CancelledError:  # the caller has gone, or its deadline has passed
            self._put(Incoming(call, None))
            raise
        finally:
            self._answers.pop(call, None)

    def _put(self, incoming: Incoming) -> None:
        with self._ready:
            self._queue.append((incoming, self._ticks()))
            self._ready.notify()

    def start(self) -> None:
        """The server that owns the handler starts it."""

    def receive(self, most: int, timeout_ms: int) -> list[Incoming] | None:
        """All waiting events."""
        with self._ready:
            if not self._queue and not self._closed:
                self._ready.wait(timeout_ms / 1000)
            batch = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            if not batch and self._closed:
                return None
        now = self._ticks()
        for incoming, queued in batch:
            if incoming.remaining is not None:
                incoming.remaining = max(0.0, incoming.remaining - (now - queued) / 1e9)
        return [incoming for incoming, _ in batch]

    def respond(self, call: int, payload: bytes) -> bool:
        """Answer a call on the loop that waits for it."""
        answer, loop = self._answers.get(call), self._loop
        if answer is None or loop is None or answer.done():
            return False
        try:
            loop.call_soon_threadsafe(_resolve, answer, payload)
        except RuntimeError:  # the loop is closed: nobody waits
            return False
        return True

    def close(self) -> None:
        """Wake the receiver for the last time."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()


def _resolve(answer: asyncio.Future[bytes], payload: bytes) -> None:
    if not answer.done():
        answer.set_result(payload)
