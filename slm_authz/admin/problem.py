"""Errors of the REST interface: RFC 9457 problem documents with a `fix` member."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

log = logging.getLogger(__name__)


def problem(status: int, detail: str, fix: str, **headers: str) -> Response:
    """One problem document."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "fix": fix}
    return Response(msgspec.json.encode(body), status, headers or None, "application/problem+json")


def document(value: object, status: int = 200) -> Response:
    """A JSON answer that nobody caches."""
    return Response(msgspec.json.encode(value), status, {"cache-control": "no-store"}, "application/json")


def handlers(served: str) -> Mapping[Any, Callable[[Request, Exception], Any]]:
    """What an application answers where it has no answer. `served`: a sentence about what is there."""

    async def missing(_: Request, __: Exception) -> Response:
        return problem(404, "There is nothing here.", served)

    async def wrong_method(_: Request, error: Exception) -> Response:
        return problem(405, "This method is not served here.", served, **(getattr(error, "headers", None) or {}))

    return {404: missing, 405: wrong_method}


def failed(error: Exception) -> Response:
    """A failure of ours: said in the log, not to the caller."""
    log.error("a request could not be answered: %s", error, exc_info=error)
    return problem(503, "This cannot be answered just now.", "Retry; if it goes on, see the log of the service.")
