"""The generic cell rate algorithm on integers. Pure arithmetic; the smallest room of the house.

`debt` is what has been taken and not yet drained, in units of amount × period: one unit of amount is `period` milliseconds' worth,
and `limit` units drain each millisecond. Everything is exact; nothing exceeds 2^53 because burst × period does not (checked at load).
"""

from __future__ import annotations


def drained(debt: int, elapsed: int, limit: int) -> int:
    """The debt that is left after `elapsed` ms at a rate of `limit` per period."""
    return max(0, debt - elapsed * limit) if elapsed > 0 else debt


def admits(debt: int, amount: int, burst: int, period: int) -> bool:
    """Whether `amount` more fits under the burst."""
    return debt + amount * period <= burst * period


def give_back(debt: int, delta: int, elapsed: int, limit: int, period: int) -> int:
    """The (drained) debt after a call turned out `delta` cheaper than it was held at, `elapsed` ms after its admission.

    What drained since admission drained the held amount as well, so a plain subtraction would give it back twice and break the
    bound "burst + rate·t". A negative delta (the call was dearer) is added whole.
    """
    if delta < 0:
        return debt - delta * period
    return max(0, debt - max(0, delta * period - elapsed * limit))


def wait_ms(debt: int, amount: int, burst: int, limit: int, period: int) -> int:
    """Milliseconds until `amount` fits; 0 if it fits now. Undefined if amount > burst: then it never does."""
    return -(-max(0, debt + amount * period - burst * period) // limit)


def used(debt: int, period: int) -> int:
    """What is shown as used: the debt in whole units, rounded up."""
    return -(-debt // period)


def reset_ms(debt: int, limit: int) -> int:
    """Milliseconds until nothing is owed any more."""
    return -(-debt // limit)
