"""Waiting for what another thread or process brings about: the one place where a test looks at a clock, and only to give up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

GIVE_UP_S: Final = 60
"""Far beyond what any of it takes, also on a machine that does ten other things."""


def eventually(what: Callable[[], object]) -> bool:
    """True as soon as it holds; False after `GIVE_UP_S`, for `assert`."""
    deadline = time.monotonic() + GIVE_UP_S
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
