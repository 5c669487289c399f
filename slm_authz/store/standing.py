"""How counters stand, in the words of `quota.counters`: the views of a grant and the reasons of a refusal."""

from __future__ import annotations

from collections.abc import Sequence

from slm_authz.quota import gcra, rules
from slm_authz.quota.account import Line
from slm_authz.quota.counters import Refusal, View
from slm_authz.quota.hold import Take
from slm_authz.quota.limit import FIXED, GCRA, REQUESTS, SLOTS, TOKENS, Limit
from slm_authz.quota.window import Calendar

_NEVER = 1 << 62


def view(limit: Limit, state: rules.State, now: int, calendar: Calendar) -> View:
    """How a caller's own limit stands."""
    used, held = rules.standing(state, limit, 0, now)
    return View(limit, max(0, limit.shown_size - used - held), reset_ms(limit, state, now, calendar))


def reset_ms(limit: Limit, state: rules.State, now: int, calendar: Calendar) -> int:
    """Milliseconds until the limit is as good as new; 0 for concurrency."""
    if limit.algorithm == FIXED:
        return calendar.window(limit.period, now)[1] - now
    if limit.algorithm == GCRA:
        return gcra.reset_ms(gcra.drained(state[1], now - state[0], limit.size), limit.size)
    return 0


def tighter(best: View | None, limit: Limit, state: rules.State, now: int, calendar: Calendar) -> View | None:
    """The tighter of two views: the one with the least remaining, then the latest reset. Shared limits are never shown."""
    if limit.shared:
        return best
    other = view(limit, state, now, calendar)
    if best is None or (other.remaining, -other.reset_ms) < (best.remaining, -best.reset_ms):
        return other
    return best


def refusal(drawn: Sequence[tuple[Line, rules.State, Take]], now: int, calendar: Calendar) -> Refusal:
    """The refusal of a call whose checked counters are `drawn`: the longest wait decides, then file order."""
    worst: Refusal | None = None
    slots_only = True
    requests = tokens = None
    for line, state, take in drawn:
        limit = line.limit
        if line.kind == REQUESTS:
            requests = tighter(requests, limit, state, now, calendar)
        elif line.kind == TOKENS:
            tokens = tighter(tokens, limit, state, now, calendar)
        failed = _failure(line, state, take, now, calendar)
        if failed is None:
            continue
        slots_only &= line.algorithm == SLOTS and failed.wait_ms is not None
        if worst is None or _rank(failed) < _rank(worst):
            worst = failed
    if worst is None:
        raise AssertionError("a refusal needs a counter that failed")
    worst.slots_only = slots_only
    worst.requests, worst.tokens = requests, tokens
    return worst


def _rank(failed: Refusal) -> tuple[int, int]:
    wait = _NEVER if failed.wait_ms is None else failed.wait_ms
    return -wait, failed.line.limit.order


def _failure(line: Line, state: rules.State, take: Take, now: int, calendar: Calendar) -> Refusal | None:
    limit, amount = line.limit, take.amount
    reset = reset_ms(limit, state, now, calendar)
    used, held = rules.standing(state, limit, 0, now)
    if line.algorithm == GCRA:
        if gcra.admits(state[1], amount, limit.burst, limit.period_ms):
            return None
        never = amount > limit.burst
        wait = None if never else gcra.wait_ms(state[1], amount, limit.burst, limit.size, limit.period_ms)
        return Refusal(line, amount, used, held, wait, reset, settles=False, slots_only=False)
    if used + held + amount <= limit.size:
        return None
    if amount > limit.size:
        return Refusal(line, amount, used, held, None, reset, settles=False, slots_only=False)
    settles = line.algorithm == SLOTS or used + amount <= limit.size
    return Refusal(line, amount, used, held, 1000 if settles else reset, reset, settles=settles, slots_only=False)
