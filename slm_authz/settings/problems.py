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


class Finding(msgspec.Struct, frozen=True):
    """A problem before its line is known. needs: other paths that it was concluded from; a mistake there makes it void."""

    severity: Literal["error", "warning"]
    path: str
    message: str
    fix: str
    needs: tuple[str, ...] = ()


def error(path: str, message: str, fix: str, *needs: str) -> Finding:
    """What must be corrected before the file can be served."""
    return Finding("error", path, message, fix, needs)


def warning(path: str, message: str, fix: str, *needs: str) -> Finding:
    """What is probably not meant."""
    return Finding("warning", path, message, fix, needs)
