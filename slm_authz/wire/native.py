"""Transport on pygrpc-native's batch front: HTTP/2 and gRPC in Rust outside the GIL, all waiting calls in one hand-over.

Unary Checks only; everything else on the port goes to the grpcio server behind it (`set_fallback`).
"""

from __future__ import annotations

from pygrpc_native import EVENT_CALL, NativeGrpcFront

from slm_authz.wire.seam import CHECK, Incoming


class NativeTransport:
    """`target` is `host:port` or `unix:PATH`, `fallback` the path of the grpcio server's Unix socket. OSError: cannot bind."""

    def __init__(self, target: str, fallback: str) -> None:
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
