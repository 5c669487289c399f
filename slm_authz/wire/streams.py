"""A grpc.aio server on one event loop in one thread of its own: log streams and health, and all of the port where grpcio serves alone.

Never a thread pool: ten open log streams would fill it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from threading import Thread
from typing import Any, Final, TypeVar

import grpc

_GRACE_S: Final = 1.0
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # else grpcio binds a taken port silently
    # A length is judged behind both transports alike, and answered inside an OK RPC: Envoy may be configured to let errors pass.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 16384),
)

T = TypeVar("T")


class StreamServer:
    """Construct, `serve`, `stop`; the thread lives from the first to the last."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="slm-authz-streams", daemon=True)
        self._thread.start()
        self._server: Any = None

    def serve(self, target: str, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        """Bind and serve; the bound port. RuntimeError: cannot bind."""
        return self._run(self._serve(target, handlers))

    async def _serve(self, target: str, handlers: Sequence[grpc.GenericRpcHandler]) -> int:
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(tuple(handlers))
        port = self._server.add_insecure_port(target)
        await self._server.start()
        return int(port)

    def end(self, finish: Callable[[], None]) -> None:
        """Call `finish`, which makes long streams return, then wait for calls that run; new ones are not taken."""
        self._run(self._end(finish))

    async def _end(self, finish: Callable[[], None]) -> None:
        finish()
        if self._server is not None:
            await self._server.stop(_GRACE_S)

    def stop(self) -> None:
        """Close at once."""
        if self._server is not None:
            self._run(self._server.stop(None))
        self._run(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
