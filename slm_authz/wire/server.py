"""The gRPC port. Checks come through the batch front, the rest through grpcio behind the same port; grpcio alone where it must.

Enters: a corridor, an address. Forbidden: any decision; a gRPC error as the answer to a Check.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Final, Literal

from slm_authz.errors import DependencyError, PortTaken
from slm_authz.quota.evidence import Evidence
from slm_authz.wire import access_log, health
from slm_authz.wire.complaints import Complaints
from slm_authz.wire.pump import Pump
from slm_authz.wire.seam import CHECK, Corridor, Transport
from slm_authz.wire.socket_guard import SocketGuard
from slm_authz.wire.streams import StreamServer

_PRIVATE: Final = "slm-authz-grpc-"
_STREAMS: Final = "streams.sock"
SLACK: Final = 1 << 20
"""What a message may hold beyond the largest body: headers, certificates, metadata."""


def native_available() -> bool:
    """Whether pygrpc-native is installed, and loads on this machine."""
    try:
        import pygrpc_native  # noqa: F401
    except ImportError:
        return False
    return True


class Server:
    """One port. `target` is `host:port` (port 0: any) or `unix:/absolute/path`; `address` what was bound.

    `clock` gives Unix milliseconds, `ticks` monotonic nanoseconds. `transport` `auto` takes the batch front where it is installed.
    """

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
        self.address = target
        self._corridor = corridor
        self._clock = clock
        self._ticks = ticks
        self._max_message = max_body + SLACK
        self._native = native_available() if transport == "auto" else transport == "native"
        self._complain = Complaints(ticks)
        self.health = health.Health(lambda: corridor.ready and self.deciding, frozenset((CHECK[1:].partition("/")[0], access_log.SERVICE)))
        self.access_log = access_log.AccessLog(self._settle, corridor.unmatched, self._complain)
        self._guard: SocketGuard | None = None
        self._private = ""
        self._streams: StreamServer | None = None
        self._transport: Transport | None = None
        self._pump: Pump

    @property
    def deciding(self) -> bool:
        """Whether the thread that decides is alive."""
        return self._transport is not None and self._pump.alive

    # -- life

    def start(self) -> None:
        """Bind and serve. PortTaken; DependencyError for an address that cannot be had otherwise."""
        target = self.address
        if target.startswith("unix:"):
            self._guard = SocketGuard(Path(target.removeprefix("unix:")))
            target = f"unix:{self._guard.binding}"
        try:
            _sweep(Path(tempfile.gettempdir()))
            self._private = tempfile.mkdtemp(prefix=_PRIVATE)  # 0700
            self._streams = StreamServer()
            port = self._bind(target, self._streams)
            if self._guard is not None:
                self._guard.publish()
        except BaseException as error:
            self._release()
            if isinstance(error, (OSError, RuntimeError)):
                raise _cannot_listen(self.address, error) from error
            raise
        if self._guard is None:
            self.address = f"{target.rpartition(':')[0]}:{port}"
        self._pump.start()

    def _bind(self, target: str, streams: StreamServer) -> int:
        handlers = (self.access_log.handler(), self.health.handler())
        if self._native:
            from slm_authz.wire.native import NativeTransport

            behind = f"{self._private}/{_STREAMS}"
            front = NativeTransport(target, behind)
            self._drive(front)
            streams.serve(f"unix:{behind}", handlers)
            front.start()
            return front.port
        from slm_authz.wire.grpcio_front import GrpcioTransport

        transport = GrpcioTransport(self._ticks)
        self._drive(transport)
        return streams.serve(target, (transport.handler(), *handlers))

    def _drive(self, transport: Transport) -> None:
        self._transport = transport
        self._pump = Pump(transport, self._corridor, self._complain, max_message=self._max_message, clock=self._clock, ticks=self._ticks)

    def _settle(self, entries: Sequence[Evidence]) -> None:
        """Account, and answer the calls that waited for just that."""
        now = self._clock()
        self._corridor.settle(entries, now)
        if self._corridor.waiting:
            self._pump.deliver(self._corridor.resume(now))

    def drain(self, delay_s: float, flush_s: float) -> None:
        """NOT_SERVING; calls are taken for `delay_s` more, and all are answered; then one more flush of the access log, and the end."""
        self.health.drain()
        sleep(delay_s)
        if self._transport is not None:
            self._pump.rest(500)
        sleep(flush_s)
        self.stop()

    def stop(self) -> None:
        """End the streams, answer what has arrived, close. A second time, or before `start`: nothing."""
        if self._transport is not None and self._streams is not None:
            self._streams.end(self._finish)
            self._pump.rest(100)
            self._transport.close()
            self._pump.join(5)
            self._release()

    def _finish(self) -> None:
        self.health.finish()
        self.access_log.finish()

    def _release(self) -> None:
        """Let go of everything that `start` took, however far it came."""
        if self._transport is not None:
            self._transport.close()
        if self._streams is not None:
            self._streams.stop()
        self._streams = self._transport = None
        shutil.rmtree(self._private, ignore_errors=True)
        if self._guard is not None:
            self._guard.release()
            self._guard = None


def _sweep(directory: Path) -> None:
    """Remove what killed services of this user have left: a private directory with a socket that nobody answers on."""
    for path in directory.glob(f"{_PRIVATE}*/{_STREAMS}"):
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            if path.parent.stat().st_uid != os.geteuid():
                continue
            probe.settimeout(1)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                shutil.rmtree(path.parent, ignore_errors=True)


def _cannot_listen(target: str, error: OSError | RuntimeError) -> DependencyError:
    """Say why. grpcio does not, so the system is asked with a plain socket."""
    cause: BaseException = error
    if isinstance(error, RuntimeError) and not target.startswith("unix:"):
        host, _, port = target.rpartition(":")
        try:
            socket.create_server((host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as plain:
            cause = plain
    if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
        return PortTaken(f"Another process listens on {target}.", "Stop it, or change listen.grpc.")
    return DependencyError(f"Cannot listen on {target}: {getattr(cause, 'strerror', None) or cause}.", "Change listen.grpc.")
