"""The configuration in force, as people read it: defaults filled in, secrets masked, units as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from slm_authz.settings.schema import FileSink, Settings
from slm_authz.units import format_duration, format_money

MASK: Final = "***"
_DURATIONS: Final = frozenset({"drain", "key_max_age", "key_max_stale", "lease", "settle_wait", "keep"})
_SIZES: Final = frozenset({"max_body", "max_answer", "rotate", "max"})
_SECRETS: Final = frozenset({"grpc_token", "client_secret"})
_UNITS: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def public(settings: Settings, origins: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Plain data that `load` would read back. Text that came from elsewhere is shown as the reference that it is (`origins`)."""
    shown = _plain(settings.model_dump(mode="json", by_alias=True), "", origins or {})
    return shown if isinstance(shown, dict) else {}


def _plain(value: Any, path: str, origins: Mapping[str, str]) -> Any:
    if path in origins and isinstance(value, str):
        kind, _, name = origins[path].partition(" ")
        return {kind: name}
    if isinstance(value, dict):
        return {key: _plain(item, f"{path}.{key}" if path else key, origins) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item, f"{path}.{index}", origins) for index, item in enumerate(value)]
    name = path.rpartition(".")[2]
    if _plugins_own(path):
        return MASK if isinstance(value, str) else value
    if name in _SECRETS:
        return MASK
    if type(value) is int and path.endswith((".price.input", ".price.output")):
        return format_money(value)
    return written(name, value) if type(value) is int else value


def _plugins_own(path: str) -> bool:
    """Whether this is the mapping of a plugin, of which nobody knows what is secret."""
    parts = path.split(".")
    if parts[0] == "identity" and len(parts) >= 3:
        return parts[2] not in ("api_key", "anonymous")
    return parts[:2] == ["audit", "sinks"] and len(parts) >= 4 and parts[3] not in (*FileSink.model_fields, "otlp")


def written(name: str, value: int) -> int | str:
    """A figure as it is written under a key of that name."""
    if name == "cost":
        return format_money(value)
    if name in _DURATIONS:
        return format_duration(value)
    if name in _SIZES:
        return next((f"{value // unit}{suffix}" for suffix, unit in _UNITS if value and value % unit == 0), value)
    return value


def as_yaml(shown: dict[str, Any]) -> str:
    """YAML text in the order of the schema."""
    text: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return text
