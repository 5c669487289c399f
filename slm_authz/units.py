"""Durations, sizes and money as people write them, and as the integers that we count with. A leaf: imports nothing of ours.

Durations are integer milliseconds, sizes bytes, money integer 10**-9 currency units ("nanos").
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

NANOS: Final = 1_000_000_000
MAX_COUNT: Final = 2**53 - 1
"""Largest integer that every party (JSON, doubles in Lua and Envoy) represents exactly."""

_DURATION: Final = re.compile(r"(\d{1,12})(ms|s|m|h|d|w)", re.ASCII)
_MILLIS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SIZE: Final = re.compile(r"(\d{1,12})(B|KiB|MiB|GiB|kB|MB|GB)?", re.ASCII)
_MONEY: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,30}))?", re.ASCII)
_BYTES: Final = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}


def parse_duration(text: str | int) -> int:
    """Milliseconds of `"30d"`, `"1h30m"`, `"250ms"`; an integer is seconds. Raises ValueError."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError("a duration is not negative")
        return text * 1000
    if not isinstance(text, str):
        raise ValueError("a duration is written like 30d, 12h, 90s or 250ms")
    total, at = 0, 0
    for part in _DURATION.finditer(text):
        if part.start() != at:
            break
        total += int(part[1]) * _MILLIS[part[2]]
        at = part.end()
    if at == 0 or at != len(text):
        raise ValueError(f"{text!r} is not a duration: write it like 30d, 12h, 1h30m, 90s or 250ms")
    return total


def format_duration(millis: int) -> str:
    """The shortest text that `parse_duration` reads back: `90000` is `1m30s`."""
    if millis <= 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, millis = divmod(millis, _MILLIS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str | int) -> int:
    """Bytes of `"4MiB"`; a plain integer is bytes. Raises ValueError."""
    match = None if isinstance(text, bool) else _SIZE.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a size: write it like 4MiB, 512KiB or 1048576")
    return int(match[1]) * _BYTES[match[2]]


def parse_money(text: str | int | Decimal) -> int:
    """Nanos of `"0.05"`. Exact: more than nine decimals, a float, a negative or an unreadable amount raise ValueError."""
    if isinstance(text, (bool, float)):
        raise ValueError('money is written as a decimal string, like "0.05"')
    match = _MONEY.fullmatch(f"{text:f}" if isinstance(text, Decimal) else str(text))
    if match is None:
        raise ValueError(f'{str(text)!r} is not an amount of money: write it like "0.05"')
    decimals = (match[2] or "").rstrip("0")
    if len(decimals) > 9:
        raise ValueError("an amount of money has at most nine decimals")
    return int(match[1]) * NANOS + int(decimals.ljust(9, "0"))


def format_money(nanos: int) -> str:
    """Decimal string of an amount in nanos, without trailing zeros: `50000000` is `0.05`."""
    whole, part = divmod(abs(nanos), NANOS)
    text = f"{whole}.{part:09d}".rstrip("0").rstrip(".")
    return f"-{text}" if nanos < 0 else text
