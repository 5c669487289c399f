"""Who may speak to the admin listener: a right Host (against DNS rebinding), no foreign Origin, a bearer token compared in constant time.

Trust: every header is the caller's word. Nothing here parses more than it must: what does not equal what is expected is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from slm_authz.admin.problem import problem
from slm_authz.errors import ConfigError

_VISIBLE: Final = re.compile(r"[!-~]+")
# RFC 9110, 7.2: uri-host [":" port]; an IPv6 address stands in brackets.
_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")


def _bare(host: str) -> str:
    """A name without port and brackets, in lower case; as it is where it is no authority."""
    host = host.lower()
    match = _AUTHORITY.fullmatch(host)
    return match[1].strip("[]") if match is not None else host


class Guard:
    """ASGI middleware. `token` is the one admin token, `hosts` are `listen.admin_hosts`. ConfigError: a token that lets everybody in."""

    def __init__(self, app: ASGIApp, token: str, hosts: Iterable[str]) -> None:
        if _VISIBLE.fullmatch(token) is None:
            raise ConfigError(
                "The admin token is empty or has characters that no header can carry: check SLM_AUTHZ_ADMIN_TOKEN or its _FILE."
            )
        self._app = app
        self._token = hashlib.sha256(token.encode()).digest()
        self._hosts = frozenset(_bare(host) for host in hosts)

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
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or _bare(hosts[0]) not in self._hosts:
            return problem(403, "This Host is not served here.", "Add it to listen.admin_hosts, or use one that is there.")
        # A page of another port of the same name is foreign too: origins are compared whole (RFC 6454).
        origins = request.headers.getlist("origin")
        if any(origin.lower() not in (f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()) for origin in origins):
            return problem(403, "Requests from other origins are refused.", "Call from the same origin, or without a browser.")
        if not self._knows(request.headers.getlist("authorization")):
            return problem(
                401,
                "A valid admin token is needed.",
                "Send `Authorization: Bearer <token>`: SLM_AUTHZ_ADMIN_TOKEN, or the file admin.token beside the store.",
                **{"www-authenticate": 'Bearer realm="slm-authz admin"'},
            )
        return None

    def _knows(self, given: list[str]) -> bool:
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        # Digests of equal length: neither the time nor the length of a guess tells anything.
        right = hmac.compare_digest(hashlib.sha256(token.strip().encode()).digest(), self._token)
        return right and scheme.lower() == "bearer"
