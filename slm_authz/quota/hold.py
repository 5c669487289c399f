"""The pending record of an admitted call, and the signed hold that travels with it through the gateway.

The record is what counts: whoever removes it settles the call. The hold says what to settle with, never whether: it has no expiry
and no effect of its own. Forbidden: a hold that was not signed by us, and any meaning of a hold whose record is gone.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Final

import msgspec

VERSION: Final = 1
_MAC_BYTES: Final = 16  # 128 bits


class Take(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What one counter gave to a call.

    key:    the counter's identity; algorithm: FIXED, GCRA or SLOTS; kind: REQUESTS, TOKENS, COST or CONCURRENT
    window: start of the fixed window in ms; 0 where there is none
    amount: what is held; rate, period_ms: GCRA's limit and period at admission
    """

    key: str
    algorithm: int
    kind: int
    window: int
    amount: int
    rate: int = 0
    period_ms: int = 0


class Pending(msgspec.Struct, array_like=True, gc=False):
    """One admitted call whose end is not known yet. Versioned by its store; fields are only ever appended.

    admitted, lease_end: Unix ms; takes: what is held where; price_*: nanos per `price_per` tokens, price_per 0: no price
    input_bound, output_bound: tokens; strict: charged at the bound when in doubt; metered: False where no model is asked
    memo: the audit's facts, opaque here; latency_us: duration of the Check, known when the answer is written
    """

    id: str
    admitted: int
    lease_end: int
    takes: tuple[Take, ...]
    model: str
    api: str
    stream: bool
    strict: bool
    metered: bool
    input_bound: int
    output_bound: int
    price_input: int
    price_output: int
    price_per: int
    memo: bytes = b""
    latency_us: int = 0

    def cost(self, input_tokens: int, output_tokens: int) -> int | None:
        """Nanos at the prices of the admission, rounded up once."""
        if not self.price_per:
            return None
        return -(-(input_tokens * self.price_input + output_tokens * self.price_output) // self.price_per)


class Signer:
    """Signs and checks holds with a key derived from the pepper."""

    def __init__(self, key: bytes) -> None:
        # The key is absorbed once; each MAC continues from a copy of that state.
        self._keyed = blake2b(key=key, digest_size=_MAC_BYTES)

    def sign(self, pending: Pending, quoted: list[str]) -> str:
        """`VERSION;id;admitted;counter=window:amount;…;MAC`. `quoted` are the counters' names in the order of `takes`."""
        payload = f"{VERSION};{pending.id};{pending.admitted}"
        for name, take in zip(quoted, pending.takes, strict=True):
            payload += f";{name}={take.window}:{take.amount}"
        return f"{payload};{self._mac(payload)}"

    def _mac(self, payload: str) -> str:
        keyed = self._keyed.copy()
        keyed.update(payload.encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()

    def verify(self, hold: str) -> str | None:
        """The decision id of a hold that we signed; None for anything else."""
        payload, _, mac = hold.rpartition(";")
        if not hmac.compare_digest(self._mac(payload).encode(), mac.encode("utf-8", "replace")):
            return None
        version, _, rest = payload.partition(";")
        return rest.partition(";")[0] if version == str(VERSION) else None
