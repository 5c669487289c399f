"""Model patterns: a name, an alias, or a glob of `*` and `?` over them. One meaning wherever a pattern may stand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in re.sub(r"\*+", "*", pattern))
    return re.compile("".join(parts), re.DOTALL)


def matches(pattern: str, name: str, aliases: Iterable[str] = ()) -> bool:
    """Whether `pattern` means the model of that canonical name, by its name or by one of its aliases."""
    if pattern == name or pattern in aliases:
        return True
    if "*" not in pattern and "?" not in pattern:
        return False
    expression = _compiled(pattern)
    return expression.fullmatch(name) is not None or any(expression.fullmatch(alias) for alias in aliases)
