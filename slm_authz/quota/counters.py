"""The seam between the corridor and whatever store counts: values in, values out, and the `Counters` protocol.

Every backend passes the same contract suite (tests/contract). All times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from slm_authz.quota.account import Account, Line
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending
from slm_authz.quota.limit import Limit
from slm_authz.quota.outcome import Outbox

Amounts = tuple[int, int, int, int]
"""What a call takes by kind: requests, tokens, nanos, slots. 0: limits of that kind are not consulted."""


class Admission(msgspec.Struct, eq=False):
    """A call that asks to be admitted. `pending.takes` and `.admitted` are filled in by the store.

    immediate: settles as it is given (`usage_from: none`): no record is written, and its event is the caller's to note
    """

    pending: Pending
    account: Account
    amounts: Amounts
    immediate: bool = False


class View(msgspec.Struct, gc=False, frozen=True):
    """How a limit stands, as its caller may see it: `reset_ms` from now."""

    limit: Limit
    remaining: int
    reset_ms: int


class Grant(msgspec.Struct, gc=False):
    """An admitted call: its record exists, everything is held. Views are of the caller's tightest limits, never a model's."""

    pending: Pending
    quoted: list[str]
    requests: View | None
    tokens: View | None


class Refusal(msgspec.Struct, gc=False):
    """A refused call: nothing was taken.

    line:    the deciding counter: the one with the longest wait, then file order
    amount:  what was asked of it; used, held: how it stood
    wait_ms: until a retry can succeed; None: never (the amount is larger than the limit)
    settles: only holds stand in the way, so a settlement may end the wait at any time
    slots_only: every failing limit is one of concurrency: the call may wait for a settlement
    never: all limits that are smaller than what is asked of them
    """

    line: Line
    amount: int
    used: int
    held: int
    wait_ms: int | None
    reset_ms: int
    settles: bool
    slots_only: bool
    never: tuple[Limit, ...] = ()
    requests: View | None = None
    tokens: View | None = None


class Settled(msgspec.Struct, gc=False):
    """What became of one log entry. result: settled | corrected | renewed | ignored | forged.

    input_tokens, output_tokens: charged by it; of a correction what it adds, or takes away
    """

    result: str
    source: str = "none"
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    exceeded: bool = False


class Counters(Outbox, Protocol):
    """Counters, pending records and outbox as one store. `StoreError` where it cannot answer."""

    distrusted: set[str]
    """Models that once exceeded a strict bound: their input bound is their context from then on."""

    def admit(self, batch: Sequence[Admission], now: int) -> list[Grant | Refusal]:
        """Check and take all limits of each call in one atomic step, all or nothing, in order."""
        ...

    def note(self, memos: Sequence[tuple[str, bytes, int]], now: int) -> None:
        """Put finished events (event, memo, count) into the outbox: refusals and summaries."""
        ...

    def commit(self) -> None:
        """Make everything since the last commit durable. Before this returns no answer may leave."""
        ...

    def settle(self, entries: Sequence[Evidence], now: int) -> list[Settled]:
        """Settle, correct or renew by log entries, and make it durable."""
        ...

    def give_back(self, decision_id: str, memo: bytes | None, now: int) -> bool:
        """Undo an admission that nobody received. With a memo, one event is written; without, none. False: no such record."""
        ...

    def saw_log(self) -> None:
        """A log entry of any kind has arrived: the access log is wired."""
        ...

    def lapse(self, now: int) -> list[Settled]:
        """Charge every record whose lease has ended at its bound."""
        ...
