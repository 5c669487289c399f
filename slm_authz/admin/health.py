"""The health listener: /healthz, /readyz, /metrics. Without a token, so read-only and without names of clients, keys or tenants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slm_authz.admin.problem import document, failed, handlers

Readiness = dict[str, Any]
"""`ready` and what stands in its way, as JSON."""


def create_app(readiness: Callable[[], Readiness], metrics: Callable[[], bytes], content_type: str) -> ASGIApp:
    """The application. Whatever fails while it looks is 503: not ready, and no more than that is told."""

    async def healthz(_: Request) -> Response:
        return document({"ok": True})

    async def readyz(_: Request) -> Response:
        try:
            state = readiness()
        except Exception as error:  # noqa: BLE001 - a service that cannot tell whether it is ready is not
            return failed(error)
        return document(state, 200 if state["ready"] else 503)

    async def get_metrics(_: Request) -> Response:
        try:
            return Response(metrics(), headers={"content-type": content_type})
        except Exception as error:  # noqa: BLE001 - a gauge that fails must not end the listener
            return failed(error)

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", get_metrics, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers=handlers("This listener serves /healthz, /readyz and /metrics."))
