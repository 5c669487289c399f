"""The rules of counting, on one counter's state. Pure functions that every live path and every replay share.

State is a list of three integers, so that a million of them are cheap:
    FIXED  [start of window, used, held]      SLOTS  [0, 0, held]      GCRA  [last drained at, debt, rate]
"""

from __future__ import annotations

from typing import Final

from slm_authz.quota import gcra
from slm_authz.quota.hold import Take
from slm_authz.quota.limit import FIXED, GCRA, Limit

State = list[int]
TOP: Final = 2**62
"""No counter goes higher: what a store can hold is 2^63, and a limit is at most 2^53, so nothing is lost by stopping there."""


def roll(state: State, start: int) -> int:
    """Enter the window that begins at `start`; windows never go back. Returns the start that is in force."""
    if state[0] < start:
        state[0] = start
        state[1] = state[2] = 0
    return state[0]


def drain(state: State, now: int, rate: int) -> int:
    """Let a GCRA counter drain until `now` at `rate`, which is in force from now on. Returns the debt."""
    if now > state[0]:
        state[1] = gcra.drained(state[1], now - state[0], rate)
        state[0] = now
    state[2] = rate
    return state[1]


def hold(state: State, take: Take, now: int) -> None:
    """Take what `take` says: the effect of an admission."""
    if take.algorithm == GCRA:
        drain(state, now, take.rate)
        state[1] += take.amount * take.period_ms
    elif take.algorithm != FIXED or roll(state, take.window) == take.window:
        state[2] += take.amount


def settle(state: State, take: Take, actual: int, admitted: int, now: int) -> None:
    """Do held −= amount, used += actual, where the window is still the current one or there is none."""
    if take.algorithm == GCRA:
        debt = drain(state, now, state[2] or take.rate)
        state[1] = min(TOP, gcra.give_back(debt, take.amount - actual, now - admitted, take.rate, take.period_ms))
    elif take.algorithm != FIXED:
        state[2] = max(0, state[2] - take.amount)
    elif state[0] == take.window:
        state[2] -= take.amount
        state[1] = min(TOP, state[1] + actual)


def correct(state: State, take: Take, actual: int, charged: int, admitted: int, now: int) -> None:
    """Do used += actual − charged: a late entry about a call that had lapsed at `charged`."""
    if take.algorithm == GCRA:
        debt = drain(state, now, state[2] or take.rate)
        state[1] = min(TOP, gcra.give_back(debt, charged - actual, now - admitted, take.rate, take.period_ms))
    elif take.algorithm == FIXED and state[0] == take.window:
        state[1] = min(TOP, max(0, state[1] + actual - charged))


def standing(state: State | None, limit: Limit, start: int, now: int) -> tuple[int, int]:
    """(used, held) as people see them at `now`, in a window that begins at `start`, without changing anything."""
    if state is None:
        return 0, 0
    if limit.algorithm == GCRA:
        debt = gcra.drained(state[1], now - state[0], limit.size)
        return gcra.used(debt, limit.period_ms), 0
    if limit.algorithm == FIXED and state[0] < start:
        return 0, 0
    return state[1], state[2]
