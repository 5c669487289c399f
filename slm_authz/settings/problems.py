"""What is wrong with a configuration file, in words that say where it is and what to do."""

from __future__ import annotations

from typing import Literal

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One finding. `line` is 1-based, None when it has no place; `path` is dotted, like `tiers.free.limits.0.tokens`."""

    severity: Literal["error", "warning"]
    line: int | None
    path: str
    message: str
    fix: str
