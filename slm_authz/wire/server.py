"""The gRPC port. Checks come through the batch front, the rest through grpcio behind the same port; grpcio alone where it must.

Streams run on one event loop in one thread, never in a thread pool: ten open log streams would fill it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, Final, Literal, TypeVar

import grpc

from slm_authz.errors import PortTaken
from slm_authz.quota.evidence import Evidence
from slm_authz.wire import access_log, health
from slm_authz.wire.pump import Pump
from slm_authz.wire.seam import CHECK, Corridor, Transport
from slm_authz.wire.socket_guard import SocketGuard

log = logging.getLogger(__name__)

SLACK: Final = 1 << 20
"""What a message may hold beyond the largest body: headers, certificates, metadata."""

T = TypeVar("T")


def native_available() -> bool:
    """Whether pygrpc-native is installed."""
    try:
        import pygrpc_native  # noqa: F401
    except ImportError:
        return False
    return True


class Server:
    """One port. `target` is `host:port` (port 0: any) or `unix:/absolute/path`."""

    def __init__(
        self,
        corridor: Corridor,
        target: str,
        *,
        max_body: int,
        clock: Callable[[], int],
        ticks: Callable[[], int],
        transport: Literal["auto", "native", "grpcio"] = "auto",
    ) -> None:
        self._corridor = corridor
        self._target = target
        self._clock = clock
        self._max_message = max_body + SLACK
        self._guard = SocketGuard(Path(target.removeprefix("unix:"))) if target.startswith("unix:") else None
        self._native = native_available() if transport == "auto" else transport == "native"
        self._private = tempfile.mkdtemp(prefix="slm-authz-")
        self.health = health.Health(lambda: corridor.ready, frozenset((CHECK[1:].partition("/")[0], access_log.SERVICE)))
        self.access_log = access_log.AccessLog(self._settle, corridor.unmatched)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="slm-authz-streams", daemon=True)
        self._transport: Transport
        self._pump: Pump
        self._streams: Any = None
        self.address = target
        self._ticks = ticks

    # -- life

    def start(self) -> None:
        """Bind and serve. PortTaken."""
        self._thread.start()
        try:
            if self._native:
                self._start_native()
            else:
                self._start_grpcio()
        except BaseException:
            self._release()
            raise
        if self._guard is not None:
            self._guard.protect()
        self._pump = Pump(self._transport, self._corridor, max_message=self._max_message, clock=self._clock, ticks=self._ticks)
        self._transport.start()
        self._pump.start()

    def _start_native(self) -> None:
        from slm_authz.wire.native import NativeTransport

        behind = f"{self._private}/streams.sock"
        self._run(self._serve_streams(f"unix:{behind}", []))
        transport = NativeTransport(self._target, behind)
        self._transport = transport
        self._name(transport.port)

    def _start_grpcio(self) -> None:
        from slm_authz.wire.grpcio_front import GrpcioTransport

        transport = GrpcioTransport()
        self._transport = transport
        self._name(self._run(self._serve_streams(self._target, [transport.handler()])))

    def _name(self, port: int) -> None:
        if self._guard is None:
            self.address = f"{self._target.rpartition(':')[0]}:{port}"

    async def _serve_streams(self, target: str, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        # grpcio binds a taken port silently unless so_reuseport is off.
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", max(self._max_message * 2, 16 << 20)),
            ("grpc.max_metadata_size", 16384),
        ]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self.access_log.handler(), self.health.handler(), *handlers))
        try:
            port = server.add_insecure_port(target)
        except RuntimeError as error:
            raise PortTaken(f"Cannot listen on {target}: {error}.", "Stop the other process, or change listen.grpc.") from error
        await server.start()
        self._streams = server
        return int(port)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _settle(self, entries: Sequence[Evidence]) -> None:
        now = self._clock()
        self._corridor.settle(entries, now)
        if self._corridor.waiting:
            self._pump.deliver(self._corridor.resume(now))

    def drain(self, delay_s: float, flush_s: float) -> None:
        """NOT_SERVING; calls are still taken for `delay_s`; then one more flush interval of the access log, and the end."""
        self.health.drain()
        sleep(delay_s)
        for _ in range(500):
            if self._pump.idle:
                break
            sleep(0.01)
        sleep(flush_s)
        self.stop()

    def stop(self) -> None:
        """Close at once."""
        self._transport.close()
        self._pump.join(5)
        self._run(self._streams.stop(1.0))
        self._release()

    def _release(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        shutil.rmtree(self._private, ignore_errors=True)
        if self._guard is not None:
            self._guard.release()
