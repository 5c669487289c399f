"""How counters stand, in the words of `quota.counters`: the views of a grant and the reasons of a refusal."""

from __future__ import annotations

from collections.abc import Sequence

from slm_authz.quota import gcra, rules
from slm_authz.quota.account import Line
from slm_authz.quota.counters import Refusal, View
from slm_authz.quota.hold import Take
from slm_authz.quota.limit import GCRA, REQUESTS, SLOTS, TOKENS, Limit

_NEVER = 1 << 62


Drawn = tuple[Line, rules.State, Take, int]
"""A counter that was checked: its line, its state, what would be taken, and the ms until its fixed window ends (else 0)."""


def tighter(best: View | None, limit: Limit, state: rules.State, reset: int) -> View | None:
    """The tighter of two views: the one with the least remaining, then the latest reset. Shared limits are never shown."""
    if limit.by == "model":
        return best
    if limit.algorithm == GCRA:
        remaining = limit.burst - gcra.used(state[1], limit.period_ms)
        reset = gcra.reset_ms(state[1], limit.size)
    else:
        remaining = limit.size - state[1] - state[2]
    remaining = max(remaining, 0)
    if best is None or remaining < best.remaining or (remaining == best.remaining and reset > best.reset_ms):
        return View(limit, remaining, reset)
    return best


def refusal(drawn: Sequence[Drawn]) -> Refusal:
    """The refusal of a call whose checked counters are `drawn`: the longest wait decides, then file order."""
    worst: Refusal | None = None
    slots_only = True
    never: list[Limit] = []
    requests = tokens = None
    for line, state, take, reset in drawn:
        limit = line.limit
        if line.kind == REQUESTS:
            requests = tighter(requests, limit, state, reset)
        elif line.kind == TOKENS:
            tokens = tighter(tokens, limit, state, reset)
        failed = _failure(line, state, take.amount, reset)
        if failed is None:
            continue
        if failed.wait_ms is None:
            never.append(limit)
        slots_only &= line.algorithm == SLOTS and failed.wait_ms is not None
        if worst is None or _rank(failed) < _rank(worst):
            worst = failed
    if worst is None:
        raise AssertionError("a refusal needs a counter that failed")
    worst.slots_only, worst.never = slots_only, tuple(never)
    worst.requests, worst.tokens = requests, tokens
    return worst


def _rank(failed: Refusal) -> tuple[int, int]:
    wait = _NEVER if failed.wait_ms is None else failed.wait_ms
    return -wait, failed.line.limit.order


def _failure(line: Line, state: rules.State, amount: int, reset: int) -> Refusal | None:
    """Why this counter fails; None if it does not. GCRA states are drained already, windows are current."""
    limit = line.limit
    if line.algorithm == GCRA:
        if gcra.admits(state[1], amount, limit.burst, limit.period_ms):
            return None
        never = amount > limit.burst
        wait = None if never else gcra.wait_ms(state[1], amount, limit.burst, limit.size, limit.period_ms)
        used, reset = gcra.used(state[1], limit.period_ms), gcra.reset_ms(state[1], limit.size)
        return Refusal(line, amount, used, 0, wait, reset, settles=False, slots_only=False)
    used, held = state[1], state[2]
    if used + held + amount <= limit.size:
        return None
    if amount > limit.size:
        return Refusal(line, amount, used, held, None, reset, settles=False, slots_only=False)
    # A held request becomes a used one, whatever follows: only what is held of tokens, money and slots can come back.
    settles = line.algorithm == SLOTS or (line.kind != REQUESTS and used + amount <= limit.size)
    return Refusal(line, amount, used, held, 1000 if settles else reset, reset, settles=settles, slots_only=False)
