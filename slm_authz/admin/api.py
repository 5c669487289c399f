"""FRONT DESK: the REST interface of the running service. This release: `GET /v1/usage` and its description at /openapi.json."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slm_authz.admin.guard import Guard
from slm_authz.admin.listing import PATIENCE_S, Listing
from slm_authz.admin.problem import document, failed, handlers, problem
from slm_authz.quota.usage import UsageQuery, UsageRow

_FILTERS: Final = ("client", "tenant", "key", "model")
_PARAMETERS: Final = (*_FILTERS, "cursor")
_SERVED: Final = "See /openapi.json for what this release serves."

Usage = Callable[[UsageQuery], Iterable[UsageRow]]
Warnings = Callable[[], list[str]]


def create_app(
    token: str, hosts: Sequence[str], usage: Usage, warnings: Warnings, version: str, clock: Callable[[], float] = time.monotonic
) -> ASGIApp:
    """The application. `usage` yields rows, `warnings` tells what the operator should know (an unwired access log).

    `clock` is monotonic, in seconds. `usage` and `warnings` are called on one thread of their own, one call at a time: a long list holds up
    neither the health listener nor itself.
    """
    desk = ThreadPoolExecutor(1, "slm-authz-usage")
    listing = Listing(usage, clock)

    def page(query: UsageQuery, start: int) -> dict[str, Any]:
        rows, following = listing.page(query, start)
        return {"data": rows, "next_cursor": str(following) if following is not None else None, "warnings": warnings()}

    async def get_usage(request: Request) -> Response:
        parameters = request.query_params
        wrong = _wrong(parameters)
        if wrong is not None:
            return wrong
        query = UsageQuery(**{name: parameters.get(name) for name in _FILTERS})
        try:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(desk, page, query, int(parameters.get("cursor", "0")))
            if answer["next_cursor"] is not None:
                loop.call_later(PATIENCE_S + 1, desk.submit, listing.forget)
        except Exception as error:  # noqa: BLE001 - whatever fails behind the desk is an answer here, and a line in the log
            return failed(error)
        return document(answer)

    async def get_openapi(_: Request) -> Response:
        return document(_openapi(version))

    routes = [Route("/v1/usage", get_usage, methods=["GET"]), Route("/openapi.json", get_openapi, methods=["GET"])]
    return Guard(Starlette(routes=routes, exception_handlers=handlers(_SERVED)), token, hosts)


def _wrong(parameters: QueryParams) -> Response | None:
    names = [name for name, _ in parameters.multi_items()]
    if not set(names) <= set(_PARAMETERS):
        # The name is not repeated: it could be a token that somebody put into a URL.
        return problem(
            400, "There is a query parameter that is not known.", f"Known: {', '.join(_PARAMETERS)}. Tokens never travel in URLs."
        )
    if len(names) != len(set(names)):
        return problem(400, "A query parameter is given twice.", "Give each at most once.")
    cursor = parameters.get("cursor", "0")
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        return problem(400, "This cursor was not given out here.", "Use next_cursor of the answer before, or none.")
    return None


def _openapi(version: str) -> dict[str, Any]:
    (schema,), components = msgspec.json.schema_components([UsageRow], ref_template="#/components/schemas/{name}")
    string, trouble = {"type": "string"}, {"type": "object", "properties": {"detail": {"type": "string"}, "fix": {"type": "string"}}}
    answer = {
        "type": "object",
        "required": ["data", "next_cursor", "warnings"],
        "properties": {
            "data": {"type": "array", "items": schema},
            "next_cursor": {"type": ["string", "null"]},
            "warnings": {"type": "array", "items": string},
        },
    }
    refusals = {"400": "A parameter is wrong", "401": "No valid token", "403": "A foreign Host or Origin", "503": "Not just now"}
    responses: dict[str, Any] = {"200": {"description": "Rows", "content": {"application/json": {"schema": answer}}}}
    for status, description in refusals.items():
        responses[status] = {"description": description, "content": {"application/problem+json": {"schema": trouble}}}
    operation = {
        "summary": "How all limits stand",
        "parameters": [{"name": name, "in": "query", "schema": string} for name in _PARAMETERS],
        "responses": responses,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "slm-authz admin", "version": version},
        "security": [{"token": []}],
        "paths": {"/v1/usage": {"get": operation}},
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
