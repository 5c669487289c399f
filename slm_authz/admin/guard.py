"""Who may speak to the admin listener: a right Host (against DNS rebinding), no foreign Origin, a bearer token compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from slm_authz.admin.problem import problem


def _name(authority: str) -> str:
    authority = authority.strip().lower()
    return authority.partition("]")[0] + "]" if authority.startswith("[") else authority.rpartition(":")[0] or authority


class Guard:
    """ASGI middleware. `token` is the one admin token; `hosts` are names without port."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str]) -> None:
        self._app = app
        self._token = hashlib.sha256(token.encode()).digest()
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass, or answer the refusal."""
        if scope["type"] != "http":
            return
        refused = self._judge(Request(scope))
        if refused is not None:
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _judge(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if _name(host) not in self._hosts and host.lower() not in self._hosts:
            return problem(403, "This Host is not served here.", "Add it to listen.admin_hosts, or use one that is there.")
        origin = request.headers.get("origin")
        if origin is not None and (urlsplit(origin).hostname or "").lower() not in self._hosts:
            return problem(403, "Requests from other origins are refused.", "Call from the same origin, or without a browser.")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(token.strip().encode()).digest()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._token):
            return problem(
                401,
                "A valid admin token is needed.",
                "Send `Authorization: Bearer <token>`: SLM_AUTHZ_ADMIN_TOKEN, or the file admin.token beside the store.",
                **{"www-authenticate": 'Bearer realm="slm-authz admin"'},
            )
        return None
