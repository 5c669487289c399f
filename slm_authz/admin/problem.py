"""Errors of the REST interface: RFC 9457 problem documents with a `fix` member."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
from starlette.responses import Response


def problem(status: int, detail: str, fix: str, **headers: str) -> Response:
    """One problem document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "fix": fix}
    return Response(msgspec.json.encode(body), status, headers or None, "application/problem+json")


def document(value: object, status: int = 200) -> Response:
    """A JSON answer that nobody caches."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, "application/json")
