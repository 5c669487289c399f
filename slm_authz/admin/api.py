"""FRONT DESK: the REST interface of the running service. This release: `GET /v1/usage` and its description at /openapi.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from slm_authz.admin.guard import Guard
from slm_authz.admin.problem import document, problem
from slm_authz.quota.usage import UsageQuery, UsageRow

PAGE: Final = 1000
_FILTERS: Final = ("client", "tenant", "key", "model")

Usage = Callable[[UsageQuery], Iterable[UsageRow]]


def create_app(token: str, hosts: Sequence[str], usage: Usage, warnings: Callable[[], list[str]], version: str) -> ASGIApp:
    """The application. `usage` yields rows, `warnings` tells what the operator should know (an unwired access log)."""

    async def get_usage(request: Request) -> Response:
        unknown = set(request.query_params) - {*_FILTERS, "cursor"}
        if unknown:
            return problem(400, f"Unknown query parameter {min(unknown)!r}.", f"Known: {', '.join((*_FILTERS, 'cursor'))}.")
        cursor = request.query_params.get("cursor", "0")
        if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
            return problem(400, "This cursor was not given out here.", "Use next_cursor of the answer before, or none.")
        start = int(cursor)
        query = UsageQuery(**{name: request.query_params.get(name) for name in _FILTERS})
        rows = list(islice(usage(query), start, start + PAGE + 1))
        following = str(start + PAGE) if len(rows) > PAGE else None
        return document({"data": rows[:PAGE], "next_cursor": following, "warnings": warnings()})

    async def get_openapi(_: Request) -> Response:
        return document(_openapi(version))

    async def missing(_: Request, __: Exception) -> Response:
        return problem(404, "There is nothing here.", "See /openapi.json for what this release serves.")

    async def wrong_method(_: Request, __: Exception) -> Response:
        return problem(405, "This method is not served here.", "See /openapi.json for what this release serves.")

    routes = [Route("/v1/usage", get_usage, methods=["GET"]), Route("/openapi.json", get_openapi, methods=["GET"])]
    app = Starlette(routes=routes, exception_handlers={404: missing, 405: wrong_method})
    return Guard(app, token, hosts)


def _openapi(version: str) -> dict[str, Any]:
    import msgspec

    (schema,), components = msgspec.json.schema_components([UsageRow], ref_template="#/components/schemas/{name}")
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in (*_FILTERS, "cursor")]
    answer = {
        "type": "object",
        "properties": {
            "data": {"type": "array", "items": schema},
            "next_cursor": {"type": ["string", "null"]},
            "warnings": {"type": "array", "items": {"type": "string"}},
        },
    }
    operation = {
        "summary": "How all limits stand",
        "parameters": parameters,
        "responses": {"200": {"description": "Rows", "content": {"application/json": {"schema": answer}}}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "slm-authz admin", "version": version},
        "security": [{"token": []}],
        "paths": {"/v1/usage": {"get": operation}},
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }
