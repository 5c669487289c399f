"""grpc.aio with an empty handler: what most Python services are built on."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc


class Empty(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]  # generated code is untyped
    def __init__(self) -> None:
        self._answer = external_auth_pb2.CheckResponse()
        self._answer.status.code = 0
        self._answer.ok_response.SetInParent()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the name is the protocol's
        return self._answer


async def main() -> None:
    server = grpc.aio.server()
    external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Empty(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    print("ready", port, flush=True)
    await done.wait()
    await server.stop(0)


asyncio.run(main())
