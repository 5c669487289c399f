"""Transport on pygrpc-native's batch front: HTTP/2 and gRPC in Rust outside the GIL, all waiting calls in one hand-over.

Unary Checks only; everything else on the port goes to the grpcio server behind it (`set_fallback`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from slm_authz.wire.seam import CHECK, Incoming


class NativeTransport:
    """`target` is `host:port` or `unix:PATH`, `fallback` the path of the grpcio server's Unix socket. OSError: cannot bind."""

    def __init__(self, target: str, fallback: str) -> None:
        with _patient_threads():
            self._front = NativeGrpcFront(target, [(CHECK, False)], io_threads=1, call_details=True)
        self._front.set_fallback(fallback)

    @property
    def port(self) -> int:
        """The bound port; 0 for Unix sockets."""
        return int(self._front.bound_port)

    def start(self) -> None:
        """Begin to take calls."""
        self._front.start()

    def receive(self, most: int, timeout_ms: int) -> list[Incoming] | None:
        """All waiting events."""
        events = self._front.recv_batch_details(most, timeout_ms)
        if events is None:
            return None
        batch = []
        for kind, call, _, payload, _, details in events:
            if kind != EVENT_CALL:
                batch.append(Incoming(call, None))
                continue
            metadata, _, remaining = details
            traceparent = None
            for name, value in metadata:
                if name == "traceparent":
                    traceparent = value
            batch.append(Incoming(call, payload, traceparent, remaining))
        return batch

    def respond(self, call: int, payload: bytes) -> bool:
        """Answer a call."""
        return bool(self._front.respond(call, payload))

    def close(self) -> None:
        """Close the port."""
        self._front.close()


@contextmanager
def _patient_threads() -> Iterator[None]:
    """Threads that begin in here do not interrupt a busy one when they wake (SCHED_BATCH, sched(7)), where the system knows that.

    On a core that the transport shares with the deciding thread it then reads several calls and writes several answers at a time.
    """
    patient = _set_policy(os.SCHED_OTHER, os.SCHED_BATCH) if sys.platform == "linux" else False
    try:
        yield
    finally:
        if patient:
            _set_policy(os.SCHED_BATCH, os.SCHED_OTHER)


def _set_policy(before: int, after: int) -> bool:
    """Change this thread's scheduling policy; False where it is another than `before`, or a sandbox forbids it."""
    try:
        if os.sched_getscheduler(0) != before:
            return False
        os.sched_setscheduler(0, after, os.sched_param(0))
    except OSError:
        return False
    return True
