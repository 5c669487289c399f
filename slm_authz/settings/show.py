"""The configuration in force, as people read it: defaults filled in, secrets masked, units as they are written."""

from __future__ import annotations

from typing import Any, Final

import yaml

from slm_authz.settings.schema import Settings
from slm_authz.units import format_duration, format_money

_DURATIONS: Final = frozenset({"drain", "key_max_age", "key_max_stale", "lease", "settle_wait", "keep"})
_SECRETS: Final = frozenset({"grpc_token", "client_secret"})


def public(settings: Settings) -> dict[str, Any]:
    """Plain data without secrets."""
    shown = _plain(settings.model_dump(mode="json", by_alias=True), "")
    return shown if isinstance(shown, dict) else {}


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        price = name == "price"
        return {
            key: format_money(item) if price and key in ("input", "output") else _plain(item, key)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_plain(item, name) for item in value]
    if name in _SECRETS:
        return "***"
    if name == "cost" and isinstance(value, int):
        return format_money(value)
    return format_duration(value) if name in _DURATIONS and isinstance(value, int) else value


def as_yaml(shown: dict[str, Any]) -> str:
    """YAML text in the order of the schema."""
    text: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return text
