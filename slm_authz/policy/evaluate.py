"""Evaluates compiled policies. Enters: facts of one call. Leaves: the refusal of the first that fires, and the shadow ones that fired.

Only the boolean `true` fires a policy and only `false` passes it: an error, an exhausted budget or another type denies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from slm_authz.identity.principal import Principal
from slm_authz.reason import Denial, Reason
from slm_authz.settings.schema import PolicyDeny

LONGEST_TEXT: Final = 8192
"""Characters of a value that policies judge; a longer one cannot be judged, so the call is refused."""

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


def _text(value: Any) -> str:
    """The library cuts a string at its first NUL and would judge what is left; matching takes time by the product of two lengths."""
    if type(value) is not str or len(value) > LONGEST_TEXT or "\0" in value:
        raise ValueError("not a text that can be judged")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("not a boolean")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError("not a 64-bit integer")
    return value


_GETTERS: dict[str, Callable[[PolicyFacts], Any]] = {
    "request.method": lambda facts: _text(facts.method),
    "request.path": lambda facts: _text(facts.path),
    "request.host": lambda facts: _text(facts.host),
    "request.model": lambda facts: _text(facts.model),
    "request.api": lambda facts: _text(facts.api),
    "request.source": lambda facts: _text(facts.source),
    "request.stream": lambda facts: _flag(facts.stream),
    "request.max_output_tokens": lambda facts: _count(facts.max_output_tokens),
    "request.input_tokens": lambda facts: _count(facts.input_tokens),
    "request.body_bytes": lambda facts: _count(facts.body_bytes),
    "principal.client": lambda facts: _text(facts.principal.client) if facts.principal else "",
    "principal.tenant": lambda facts: _text(facts.principal.tenant or facts.principal.client) if facts.principal else "",
    "principal.tier": lambda facts: _text(facts.principal.tier) if facts.principal else "",
    "principal.key_id": lambda facts: _text(facts.principal.key_id or "") if facts.principal else "",
    "principal.method": lambda facts: _text(facts.principal.method) if facts.principal else "",
    "principal.scopes": lambda facts: [_text(scope) for scope in facts.principal.scopes] if facts.principal else [],
    "principal.labels": lambda facts: {_text(k): _text(v) for k, v in facts.principal.labels.items()} if facts.principal else {},
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
        verdict = _run(policy, facts, bound)
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


def _run(policy: CompiledPolicy, facts: PolicyFacts, bound: dict[str, Any]) -> bool | None:
    """True, False, or None for whatever is neither. `bound` remembers variables for the policies that follow."""
    try:
        for name in policy.variables:
            if name not in bound:
                bound[name] = _GETTERS[name](facts)
        verdict = policy.program(bound)
    except Exception:  # noqa: BLE001 - whatever an expression or a value does to its evaluator, the call is refused
        return None
    return verdict if type(verdict) is bool else None
