"""Evaluates compiled policies. Enters: facts of one call. Leaves: the refusal of the first that fires, and the shadow ones that fired.

Only the boolean `true` fires a policy and only `false` passes it: an error, an exhausted budget or another type denies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from slm_authz.identity.principal import Principal
from slm_authz.reason import Denial, Reason
from slm_authz.settings.schema import PolicyDeny

Program = Callable[[Mapping[str, Any]], object]
"""Evaluates an expression over variables; whatever it returns that is not a bool counts as an error."""


class CompiledPolicy(msgspec.Struct, frozen=True, eq=False):
    """One policy, ready to run. variables: names that its expression uses."""

    name: str
    shadow: bool
    deny: PolicyDeny
    program: Program
    variables: frozenset[str]


class PolicyFacts(msgspec.Struct, gc=False):
    """What policies may know of a call; names and types as in the product contract ("Policies")."""

    method: str
    path: str
    host: str
    model: str
    api: str
    source: str
    stream: bool
    max_output_tokens: int
    input_tokens: int
    body_bytes: int
    principal: Principal | None
    now: int


_GETTERS: dict[str, Callable[[PolicyFacts], Any]] = {
    "request.method": lambda facts: facts.method,
    "request.path": lambda facts: facts.path,
    "request.host": lambda facts: facts.host,
    "request.model": lambda facts: facts.model,
    "request.api": lambda facts: facts.api,
    "request.source": lambda facts: facts.source,
    "request.stream": lambda facts: facts.stream,
    "request.max_output_tokens": lambda facts: facts.max_output_tokens,
    "request.input_tokens": lambda facts: facts.input_tokens,
    "request.body_bytes": lambda facts: facts.body_bytes,
    "principal.client": lambda facts: facts.principal.client if facts.principal else "",
    "principal.tenant": lambda facts: (facts.principal.tenant or facts.principal.client) if facts.principal else "",
    "principal.tier": lambda facts: facts.principal.tier if facts.principal else "",
    "principal.key_id": lambda facts: (facts.principal.key_id or "") if facts.principal else "",
    "principal.method": lambda facts: facts.principal.method if facts.principal else "",
    "principal.scopes": lambda facts: list(facts.principal.scopes) if facts.principal else [],
    "principal.labels": lambda facts: dict(facts.principal.labels) if facts.principal else {},
    "now": lambda facts: datetime.fromtimestamp(facts.now / 1000, UTC),
}
VARIABLES = frozenset(_GETTERS)
"""Names of all variables."""


def judge(policies: Sequence[CompiledPolicy], facts: PolicyFacts) -> tuple[Denial | None, tuple[str, ...]]:
    """Run the policies in file order. The first enforced one that fires decides; shadow ones are recorded, all of them."""
    bound: dict[str, Any] = {}
    denial: Denial | None = None
    shadow: list[str] = []
    for policy in policies:
        if denial is not None and not policy.shadow:
            continue
        for name in policy.variables:
            if name not in bound:
                bound[name] = _GETTERS[name](facts)
        verdict = _run(policy, bound)
        if verdict is False:
            continue
        if policy.shadow:
            shadow.append(policy.name)
        elif verdict is True:
            deny = policy.deny
            denial = Denial(Reason.POLICY, deny.message, code=deny.code, status=deny.status, limit=policy.name)
        else:
            denial = Denial(Reason.POLICY, "A policy could not be evaluated for this request, so it is refused.", limit=policy.name)
    return denial, tuple(shadow)


def _run(policy: CompiledPolicy, bound: Mapping[str, Any]) -> bool | None:
    """True, False, or None for whatever is neither."""
    try:
        verdict = policy.program(bound)
    except Exception:  # noqa: BLE001 - whatever an expression does to its evaluator, the call is refused
        return None
    return verdict if type(verdict) is bool else None
