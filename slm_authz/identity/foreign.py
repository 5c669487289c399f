"""What a plugin says of a caller, judged before anyone believes it. Enters: whatever it returned. Leaves: a fault, or its answer.

A plugin is foreign code in our process: it is trusted to verify callers, not to know what may travel in a header. Forbidden: values of a
credential in a fault, which goes into the log.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from slm_authz.errors import UsageError
from slm_authz.identity.principal import Principal
from slm_authz.identity.record import labelled, scope_list, visible
from slm_authz.reason import Denial, Reason


def judged(answer: object, tiers: Container[str] | None) -> tuple[str | None, Principal | Denial | None]:
    """(what is wrong with it, None), or (None, the answer)."""
    if answer is None:
        return None, None
    if isinstance(answer, Denial):
        return _denial_fault(answer), answer
    if isinstance(answer, Principal):
        return _principal_fault(answer, tiers), answer
    return f"it returned {type(answer).__name__}, which is no Principal, Denial, Deferred or None", None


def _denial_fault(denial: Any) -> str | None:  # Any: Python lets every member be anything
    if not isinstance(denial.reason, Reason) or not isinstance(denial.message, str) or not isinstance(denial.code, str | None):
        return "a refusal's reason is a Reason, its message and its code are text"
    if (
        type(denial.retry_after) not in (int, type(None))
        or not isinstance(denial.limit, str | None)
        or denial.headers != ()
        or denial.about is not None
    ):
        return "a refusal's retry_after is a whole number, its limit is text, and its headers and about are not a method's to set"
    # A refusal with status 200 and a body would be served to the client as an answer of the model server.
    return (
        None
        if type(denial.http_status) is int and 400 <= denial.http_status <= 599
        else "it returned a refusal whose status is not one of a refusal"
    )


def _principal_fault(principal: Any, tiers: Container[str] | None) -> str | None:  # Any: Python lets every member be anything
    strings = {"method": principal.method, "client": principal.client, "tier": principal.tier}
    strings |= {name: value for name, value in (("tenant", principal.tenant), ("key_id", principal.key_id)) if value is not None}
    models = () if principal.models is None else principal.models
    if not all(isinstance(members, tuple) for members in (principal.scopes, models, principal.allow_ip)):
        return "a principal's scopes, models and allow_ip are tuples"
    if not isinstance(principal.labels, Mapping):
        return "a principal's labels are a mapping"
    if not all(isinstance(network, IPv4Network | IPv6Network) for network in principal.allow_ip):
        return "a principal's allow_ip are networks of the ipaddress module"
    try:
        for name, value in strings.items():
            visible(f"a principal's {name}", value)
        scope_list(principal.scopes)
        labelled(principal.labels)
        if not all(isinstance(model, str) for model in models):
            return "a principal's models are strings"
    except (UsageError, TypeError) as error:  # TypeError: not a string where there must be one
        return f"it returned a principal that cannot travel: {error}"
    if tiers is not None and principal.tier not in tiers:
        return "it returned a tier that is not configured"
    return None
