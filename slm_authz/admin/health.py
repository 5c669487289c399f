"""The health listener: /healthz, /readyz, /metrics. Without a token, so read-only and without names of clients, keys or tenants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slm_authz.admin.problem import document, problem

Readiness = dict[str, Any]
"""`ready` and what stands in its way, as JSON."""


def create_app(readiness: Callable[[], Readiness], metrics: Callable[[], bytes], content_type: str) -> ASGIApp:
    """The application."""

    async def healthz(_: Request) -> Response:
        return document({"ok": True})

    async def readyz(_: Request) -> Response:
        state = readiness()
        return document(state, 200 if state["ready"] else 503)

    async def get_metrics(_: Request) -> Response:
        return Response(metrics(), media_type=content_type)

    async def missing(_: Request, __: Exception) -> Response:
        return problem(404, "There is nothing here.", "This listener serves /healthz, /readyz and /metrics.")

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", get_metrics, methods=["GET"]),
    ]
    return Starlette(routes=routes, exception_handlers={404: missing})
