"""ROOM 5: what the gateway is told. The meaning stands here, the codes of the wire in `wire/status.py`."""

from __future__ import annotations

import msgspec

from slm_authz.identity.principal import Principal
from slm_authz.reason import Denial


class Decision(msgspec.Struct, eq=False):
    """The answer to one call.

    id:        the decision id: header, metadata, audit event and span carry it
    denial:    None: allowed
    principal: the caller where known, on refusals too
    model:     canonical name of the model where known
    api:       as in `Ask.api`; "" where unknown
    hold:      the signed hold that travels in dynamic metadata; "" where nothing is held
    headers:   response headers to the client (rate limits); the decision id is added by `wire`
    strip_headers: lower-case names of request headers that must not reach the upstream (credentials, `x-slm-*`, …)
    strip_query: query parameters that must not reach the upstream
    reply:     a JSON body that we serve ourselves with status 200 (`GET /v1/models`); None: the upstream answers
    dialect:   whose refusal body the caller understands: `openai`, `anthropic` or `ollama`
    limits:    `request_limit` and `token_limit` for Envoy's rate limit filters: (name, requests_per_unit, unit)
    memo:      the audit's facts of an allow, opaque here: an answer that nobody receives is recorded from them
    """

    id: str
    denial: Denial | None = None
    principal: Principal | None = None
    model: str = ""
    api: str = ""
    hold: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    strip_headers: tuple[str, ...] = ()
    strip_query: tuple[str, ...] = ()
    reply: bytes | None = None
    dialect: str = "openai"
    limits: tuple[tuple[str, int, str], ...] = ()
    memo: bytes | None = None
