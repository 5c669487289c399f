"""Last step of the corridor, pure: a plan and what the counters said become a `Decision`."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from slm_authz.decision import Decision
from slm_authz.engine.plan import Plan
from slm_authz.quota.counters import Grant, Refusal
from slm_authz.quota.hold import Signer
from slm_authz.quota.limit import Limit
from slm_authz.quota.shown import rate_limit_headers
from slm_authz.reason import Denial


def allowed(planned: Plan, grant: Grant | None, signer: Signer) -> Decision:
    """The answer that lets a call pass, or that we give in the upstream's place (`reply`)."""
    hold = ""
    headers: tuple[tuple[str, str], ...] = ()
    limits = planned.limits
    memo = None
    if grant is not None:
        hold = signer.sign(grant.pending, grant.quoted) if not planned.immediate else ""
        headers = rate_limit_headers(grant.requests, grant.tokens)
        limits = opinions(grant)
        memo = grant.pending.memo if hold else None
    return Decision(
        planned.id,
        None,
        planned.principal,
        planned.model,
        planned.api,
        hold,
        headers,
        planned.strip_headers,
        planned.strip_query,
        planned.reply,
        planned.dialect,
        limits,
        memo,
    )


def opinions(result: Grant | Refusal) -> tuple[tuple[str, int, str], ...]:
    """The caller's limits as Envoy's rate limit filters take them from metadata: name, requests per unit, unit (RateLimitUnit)."""
    requests, tokens = result.requests, result.tokens
    return _opinions(requests.limit if requests is not None else None, tokens.limit if tokens is not None else None)


_UNITS: Final = frozenset({"second", "minute", "hour", "day", "month"})
"""Periods that Envoy's RateLimitUnit knows (envoy/type/v3/ratelimit_unit.proto); of others it gets no opinion."""


@lru_cache(maxsize=4096)
def _opinions(requests: Limit | None, tokens: Limit | None) -> tuple[tuple[str, int, str], ...]:
    limits = (("request_limit", requests), ("token_limit", tokens))
    return tuple((name, limit.size, limit.period.upper()) for name, limit in limits if limit is not None and limit.period in _UNITS)


def refused(planned: Plan, denial: Denial) -> Decision:
    """The answer that refuses a call."""
    return Decision(
        id=planned.id,
        denial=denial,
        principal=planned.principal,
        model=planned.model,
        api=planned.api,
        headers=denial.headers,
        dialect=planned.dialect,
        limits=planned.limits,
    )
