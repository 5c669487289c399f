"""Paths beyond the known API paths. Everything that is not listed is refused: model servers have admin paths on the same port."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from slm_authz.request import RequestContext
from slm_authz.settings.schema import PathRule


class PathEntry(msgspec.Struct, frozen=True):
    """A path that may pass without a model. needs_identity: False only where the file says `identity: none`."""

    prefix: str
    methods: frozenset[str]
    needs_identity: bool


class PathTable:
    """The configured paths; the longest prefix that has the method wins, and of two equal ones that which asks for an identity."""

    def __init__(self, rules: Sequence[PathRule]) -> None:
        entries = [PathEntry(rule.prefix, frozenset(rule.methods), rule.identity != "none") for rule in rules]
        self._entries = sorted(entries, key=lambda entry: (-len(entry.prefix), not entry.needs_identity))

    def match(self, method: str, path: str) -> PathEntry | None:
        """`/health` means /health and what lies below /health/, never /healthy; `/v1/` means all below it."""
        for entry in self._entries:
            prefix = entry.prefix
            if method in entry.methods and (path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")):
                return entry
        return None


def is_upgrade(request: RequestContext) -> bool:
    """CONNECT and upgrades: they carry no body that could be inspected, and become raw tunnels."""
    headers = request.headers
    return request.method == "CONNECT" or "upgrade" in headers or "upgrade" in headers.get("connection", "").lower()
