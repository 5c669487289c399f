"""First half of the corridor, pure: who, what is asked, may they, how much would it be. Enters: an arrival. Leaves: `Plan`.

A plan is either refused (`denial`), answered by ourselves (`reply`), or asks the counters for admission.
Forbidden: I/O, clocks, locks; what a refused call learns about anything that it may not see.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import msgspec

from slm_authz.audit.event import CallFacts, pack
from slm_authz.audit.finish import trace_parent
from slm_authz.engine.rules import Rules
from slm_authz.identity.address_list import allowed
from slm_authz.identity.principal import Deferred, Principal
from slm_authz.llm.ask import Ask
from slm_authz.llm.dialects import ROUTES, Route, dialect_of, resembles
from slm_authz.llm.listing import models_body
from slm_authz.policy.evaluate import PolicyFacts, judge
from slm_authz.policy.paths import is_upgrade
from slm_authz.policy.table import Permit
from slm_authz.quota.account import NOTHING
from slm_authz.quota.bound import NO_TOKENS, Bound, bound, price_of
from slm_authz.quota.counters import Admission
from slm_authz.quota.hold import Pending
from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival, RequestContext
from slm_authz.request.address import client_address, network
from slm_authz.request.body import check_media, is_whole
from slm_authz.request.credential import Found
from slm_authz.request.target import host_name
from slm_authz.request.target import judge as judge_target

_LONGEST = 600
"""Characters of a caller's word that are kept: more than an event shows, and no more than its store should hold."""
MIN_REMAINING_S = 0.020
"""A call with less than this left, or less than a tenth of what it had when it arrived, takes nothing: its answer would come too late."""


def last_moment(received: int, remaining: float) -> int:
    """Until when (ticks) a call that arrived with so many seconds left may take anything."""
    return received + int((remaining - max(MIN_REMAINING_S, remaining / 10)) * 1e9)


class Plan(msgspec.Struct, eq=False):
    """One call on its way. Filled from top to bottom; what is not known (yet) is empty.

    model: canonical name; limits: as in `Decision.limits`; latency_us: of an allow, until its answer was written
    wait_until: ticks at which waiting for a concurrency slot ends; 0: it has not begun; deadline: from when it takes nothing; 0: never
    """

    arrival: Arrival
    id: str
    now: int
    path: str = ""
    dialect: str = "openai"
    address: str = ""
    api: str = ""
    principal: Principal | None = None
    strip_headers: tuple[str, ...] = ()
    strip_query: tuple[str, ...] = ()
    permit: Permit | None = None
    bound: Bound = NO_TOKENS
    shadow: tuple[str, ...] = ()
    admission: Admission | None = None
    reply: bytes | None = None
    denial: Denial | None = None
    deferred: Deferred | None = None
    wait_until: int = 0
    deadline: int = 0
    model: str = ""
    limits: tuple[tuple[str, int, str], ...] = ()
    latency_us: int = 0

    @property
    def immediate(self) -> bool:
        """Whether the call settles as it is given: nobody will report its end."""
        return self.admission is not None and self.admission.immediate


TOO_LATE = Denial(Reason.DEADLINE_EXCEEDED, "The deadline of the authorization call left no time to decide; retry.", retry_after=1)


def plan(arrival: Arrival, decision_id: str, rules: Rules, distrusted: AbstractSet[str], now: int, ticks: int) -> Plan:
    """Walk the corridor up to the counters. `ticks`: the monotonic time, in nanoseconds."""
    planned = Plan(arrival, decision_id, now)
    request = arrival.request
    if isinstance(request, Denial):
        planned.denial = request
    elif arrival.cancelled:
        planned.denial = Denial(Reason.CANCELLED, "The call was cancelled.")
    elif request.remaining is not None and ticks >= last_moment(arrival.received, request.remaining):
        planned.denial = TOO_LATE
    else:
        planned.denial = _walk(planned, request, rules, distrusted)
    return planned


def _walk(planned: Plan, request: RequestContext, rules: Rules, distrusted: AbstractSet[str]) -> Denial | None:
    target, query = request.target, ""
    route = ROUTES.get((request.method, target))
    if route is None:
        judged = judge_target(target)
        if isinstance(judged, Denial):
            return judged
        target, query = judged.path, judged.query
        route = ROUTES.get((request.method, target))
    planned.path = target
    planned.dialect = route.dialect if route is not None else dialect_of(target)
    address = client_address(request, rules.trusted_hops)
    planned.address = address or ""
    entry = rules.paths.match(request.method, target) if route is None and not resembles(request.method, target) else None
    found = rules.resolver.find(request, query)
    if isinstance(found, Denial):
        return found
    planned.strip_headers, planned.strip_query = found.headers, found.query
    if request.foreign:
        planned.strip_headers += request.foreign
    if entry is None or entry.needs_identity:
        refused = _identify(planned, request, found, rules, address)
        if refused is not None or planned.deferred is not None:
            return refused
    if (route is None and entry is None) or is_upgrade(request):
        return Denial(Reason.PATH_NOT_ALLOWED, f"This path is not served here: {request.method} of it is not among the API's paths.")
    if route is None or route.read is None:
        return _without_model(planned, request, route, rules)
    refused = check_media(request)
    if refused is not None:
        return refused
    if not is_whole(request, rules.max_body):
        return Denial(
            Reason.BODY_NOT_WHOLE,
            f"The body could not be inspected whole: send at most {rules.max_body} bytes, with a Content-Length.",
        )
    ask = route.read(request.body)
    if isinstance(ask, Denial):
        return ask
    return _allow(planned, request, ask, rules, distrusted)


def _identify(planned: Plan, request: RequestContext, found: Found, rules: Rules, address: str | None) -> Denial | None:
    answer = planned.arrival.identity
    if answer is None:
        answer = rules.resolver.resolve(found, request, planned.now)
        if isinstance(answer, Deferred):
            planned.deferred = answer
            return None
    if isinstance(answer, Denial):
        return answer
    planned.principal = answer
    if answer.allow_ip and not allowed(answer, address):
        return Denial(Reason.ADDRESS_NOT_ALLOWED, "This key may not be used from this address; use it from an address on its list.")
    return None


def _without_model(planned: Plan, request: RequestContext, route: Route | None, rules: Rules) -> Denial | None:
    """A path that asks no model: free of quota. The list of models is answered by ourselves, for this caller."""
    planned.api = route.api if route is not None else "other"
    ask = Ask(planned.api)
    refused = _policies(planned, request, ask, rules)
    if refused is not None:
        return refused
    if planned.api == "openai.models" and planned.principal is not None:
        names = rules.table.allowed_models(planned.principal)
        if planned.path == "/v1/models":
            planned.reply = models_body(names)
            return None
    planned.admission = Admission(_pending(planned, ask, rules), NOTHING, (0, 0, 0, 0), not rules.usage)
    return None


def _allow(planned: Plan, request: RequestContext, ask: Ask, rules: Rules, distrusted: AbstractSet[str]) -> Denial | None:
    principal = planned.principal
    if principal is None:  # a route with a model always needs an identity
        return Denial(Reason.NO_CREDENTIAL, "Send an API key.")
    planned.api = ask.api
    permit = rules.table.permit(ask, principal)
    if isinstance(permit, Denial):
        return permit
    planned.permit = permit
    model = permit.model
    if model is None:
        return Denial(Reason.UNKNOWN_MODEL, "Name a model.", param="model")
    planned.model = model.name
    bounded = bound(ask, model.spec, strict=rules.strict, distrusted=model.name in distrusted)
    if isinstance(bounded, Denial):
        return bounded
    planned.bound = bounded
    if rules.policies:
        refused = _policies(planned, request, ask, rules)
        if refused is not None:
            return refused
    amounts = (1, bounded.tokens, bounded.cost or 0, 1) if rules.usage else (1, 0, 0, 0)
    account = rules.quota.account(principal, permit, _counted(planned.address))
    planned.admission = Admission(_pending(planned, ask, rules), account, amounts, not rules.usage)
    return None


def _counted(address: str) -> str:
    """The address that limits count: of IPv6 the /64, of which whoever has one address has all."""
    return network(address) if ":" in address else address


def _policies(planned: Plan, request: RequestContext, ask: Ask, rules: Rules) -> Denial | None:
    if not rules.policies:
        return None
    facts = PolicyFacts(
        method=request.method,
        path=planned.path,
        host=host_name(request.host),
        model=planned.model,
        api=ask.api,
        source=planned.address,
        stream=ask.stream,
        max_output_tokens=planned.bound.cap,
        input_tokens=planned.bound.input_tokens,
        body_bytes=len(request.body),
        principal=planned.principal,
        now=planned.now,
    )
    denial, planned.shadow = judge(rules.policies, facts)
    return denial


def _pending(planned: Plan, ask: Ask, rules: Rules) -> Pending:
    bounded, permit = planned.bound, planned.permit
    price = price_of(permit.model.spec) if permit is not None and permit.model is not None else None
    return Pending(
        planned.id,
        planned.now,
        0,  # the lease begins with the admission
        (),
        planned.model,
        ask.api,
        ask.stream,
        rules.strict,
        ask.prompts != (),
        bounded.input_tokens,
        bounded.output_tokens,
        price.input if price is not None else 0,
        price.output if price is not None else 0,
        price.per if price is not None else 0,
        memo(planned, rules, None, 0),
    )


def memo(planned: Plan, rules: Rules, denial: Denial | None, latency_us: int) -> bytes:
    """The audit's facts of a call, packed: of an allow, or of the refusal that is given."""
    request, principal = planned.arrival.request, planned.principal
    if denial is None:
        outcome, reason, limit, status = "allow", "ok", None, None
    else:
        if isinstance(denial.about, Principal):
            principal = denial.about
        status = denial.http_status
        outcome, reason, limit = ("error" if status >= 500 else "deny"), denial.reason.value, denial.limit
    method, request_id, traceparent = "", "", None
    if not isinstance(request, Denial):
        method, request_id = request.method, request.request_id
        traceparent = request.traceparent
        if traceparent is None or trace_parent(traceparent) is None:
            traceparent = request.headers.get("traceparent")
            if traceparent is not None and len(traceparent) > _LONGEST:
                traceparent = None
    return pack(
        CallFacts(
            1,
            planned.now,
            planned.id,
            request_id[:_LONGEST],
            traceparent,
            principal.method if principal is not None else None,
            principal.client if principal is not None else None,
            principal.tenant if principal is not None else None,
            principal.tier if principal is not None else None,
            principal.key_id if principal is not None else None,
            planned.api or None,
            planned.model or None,
            method,
            planned.path[:_LONGEST],
            planned.address,
            outcome,
            reason,
            limit,
            planned.shadow,
            status,
            latency_us,
            rules.currency,
            rules.digest,
        )
    )
