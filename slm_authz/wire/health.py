"""grpc.health.v1: SERVING only while policy and store are. The two messages are one field each, so they are written by hand.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

SERVICE: Final = "grpc.health.v1.Health"
SERVING: Final = b"\x08\x01"
NOT_SERVING: Final = b"\x08\x02"
SERVICE_UNKNOWN: Final = b"\x08\x03"
_POLL_S: Final = 0.05


def service_name(request: bytes) -> str | None:
    """`HealthCheckRequest.service` (field 1); None for bytes that are no such message, or a name longer than any that we serve."""
    if not request:
        return ""
    if request[0] != 0x0A or len(request) < 2 or len(request) != 2 + request[1] or request[1] > 127:
        return None
    try:
        return request[2:].decode()
    except UnicodeDecodeError:
        return None


class Health:
    """The service. `ready` is asked at every call; `drain` turns it off for good, `finish` ends the watches too."""

    def __init__(self, ready: Callable[[], bool], services: frozenset[str]) -> None:
        self._ready = ready
        self._services = services | {""}
        self._draining = False
        self._finished = False

    def drain(self) -> None:
        """NOT_SERVING from now on."""
        self._draining = True

    def finish(self) -> None:
        """The watches return."""
        self._draining = self._finished = True

    def _status(self, service: str | None) -> bytes:
        if service not in self._services:
            return SERVICE_UNKNOWN
        return SERVING if self._ready() and not self._draining else NOT_SERVING

    def handler(self) -> grpc.GenericRpcHandler:
        """Check and Watch."""
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _check(self, request: bytes, context: Any) -> bytes:
        status = self._status(service_name(request))
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return status

    async def _watch(self, request: bytes, _: Any) -> AsyncIterator[bytes]:
        service = service_name(request)
        last = b""
        while not self._finished:
            status = self._status(service)
            if status != last:
                last = status
                yield status
            await asyncio.sleep(_POLL_S)
