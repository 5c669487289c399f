"""Misbehaviour on request: the header `x-sample` makes this server fail in the ways in which real ones do, so that tests can see it.

`x-sample: status=500` answers an error · `delay=0.05` waits that many seconds before an answer and before each event ·
`stall=3` sends so many events of a stream and then nothing until the client is gone ·
`bytes=20000000` pads the answer, or the event that carries usage, to more than that · `hangup=3` drops the connection after so many
events, or half-way through a whole answer · `gzip=1` encodes the answer · `garbled=1` sends JSON that ends too early ·
`usage=none` and `usage=bad` · `charset=1` sends `application/json; charset=utf-8`. Several are joined by commas.
"""

from __future__ import annotations

import msgspec

HEADER = "x-sample"


class Hooks(msgspec.Struct, frozen=True):
    """What was asked for; all off by default."""

    status: int = 0
    delay: float = 0.0
    stall: int = 0
    bytes: int = 0
    hangup: int = 0
    gzip: int = 0
    garbled: int = 0
    charset: int = 0
    usage: str = ""


def read_hooks(header: str | None) -> Hooks:
    """ValueError: not a hook, or not its kind of value."""
    if not header:
        return Hooks()
    pairs = (part.partition("=") for part in header.split(","))
    found: dict[str, str] = {name.strip(): value.strip() for name, _, value in pairs}
    unknown = found.keys() - set(Hooks.__struct_fields__)
    if unknown:
        raise ValueError(f"{HEADER}: there is no {', '.join(sorted(unknown))}")
    return msgspec.convert(found, Hooks, strict=False)
