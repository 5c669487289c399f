"""Decision ids: 32 hexadecimal digits, 12 of time and 20 of randomness, so that they sort by time. Randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_RANDOM_BYTES: Final = 10
_POOL: Final = 400


class DecisionIds:
    """Draws randomness in bulk: a system call per id would cost as much as the id."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._pool = ""
        self._at = 0

    def __call__(self, now: int) -> str:
        """The id of a decision at `now` (Unix ms)."""
        at = self._at
        if at >= len(self._pool):
            self._pool = self._random_bytes(_POOL * _RANDOM_BYTES).hex()
            at = 0
        self._at = at + 2 * _RANDOM_BYTES
        return f"{now:012x}{self._pool[at : self._at]}"
