"""Stable names of limits: given in the file, or derived from what the limit is."""

from __future__ import annotations

from slm_authz.settings.schema import LimitSpec


def limit_name(scope: str, spec: LimitSpec, by: str) -> str:
    """`free.tokens.day.client`, `phi-4-mini.concurrent.model`; gcra and a narrowing are part of the name, sizes are not."""
    parts = [scope, spec.kind]
    if spec.per is not None:
        parts.append(spec.per)
    parts.append(by)
    if spec.algorithm == "gcra":
        parts.append("gcra")
    if spec.models is not None:
        parts.append("+".join(sorted(spec.models)))
    return ".".join(parts)
