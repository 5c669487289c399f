"""What the end of a call costs: the table of evidence, first matching row. Pure.

evidence                                                     tokens charged              usage_source
nothing was sent upstream                                    0                           none
the answer is complete, with valid usage                     the usage, even over hold   upstream
`via_upstream`, status >= 400, no valid usage                0                           none
ended early, with usage that is cumulative in this dialect   that                        partial
everything else: strict, or asked as a whole answer          the hold                    bound
everything else, asked as a stream                           input bound + bytes ÷       estimate
                                                             smallest chunk, <= hold
"""

from __future__ import annotations

import msgspec

from slm_authz.llm.dialects import settlement_facts
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a call is charged. exceeded: its actual use was above the bound that was held."""

    input_tokens: int
    output_tokens: int
    source: str
    exceeded: bool = False

    @property
    def tokens(self) -> int:
        """What token limits count."""
        return self.input_tokens + self.output_tokens


NOTHING = Charge(0, 0, "none")


def at_bound(pending: Pending) -> Charge:
    """The charge of a call whose end never became known."""
    if not pending.metered:
        return NOTHING
    return Charge(pending.input_bound, pending.output_bound, "bound")


def charge(pending: Pending, evidence: Evidence) -> Charge:
    """The first row of the table that matches."""
    if not evidence.reached or not pending.metered:
        return NOTHING
    facts = settlement_facts(pending.api)
    figures = _valid_usage(evidence, reports_output=facts.reports_output)
    if evidence.complete and figures is not None:
        return _reported(pending, figures, "upstream")
    if evidence.details == "via_upstream" and evidence.status >= 400 and figures is None:
        return NOTHING
    if figures is not None and facts.cumulative:
        return _reported(pending, figures, "partial")
    if pending.strict or not pending.stream:
        return at_bound(pending)
    chunks = min(evidence.bytes // facts.smallest_chunk, pending.output_bound)
    return Charge(pending.input_bound, chunks, "estimate")


def _reported(pending: Pending, figures: tuple[int, int], source: str) -> Charge:
    tokens_in, tokens_out = figures
    bound_in, bound_out = pending.input_bound, pending.output_bound
    if pending.strict:  # each figure was promised
        exceeded = tokens_in > bound_in or tokens_out > bound_out
    else:
        dearer = (pending.cost(tokens_in, tokens_out) or 0) > (pending.cost(bound_in, bound_out) or 0)
        exceeded = tokens_in + tokens_out > bound_in + bound_out or dearer
    return Charge(tokens_in, tokens_out, source, exceeded)


def _valid_usage(evidence: Evidence, *, reports_output: bool) -> tuple[int, int] | None:
    """Valid if every figure that the dialect reports for this call is a non-negative integer."""
    tokens_in, tokens_out = evidence.input_tokens, evidence.output_tokens
    if tokens_in is None or tokens_in < 0:
        return None
    if not reports_output:
        return tokens_in, 0
    if tokens_out is None or tokens_out < 0:
        return None
    return tokens_in, tokens_out
