"""Installed plugins by name: the entry point groups `slm_authz.identity` and `slm_authz.audit_sink`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from slm_authz.errors import ConfigError


def make(group: str, name: str, options: Mapping[str, Any], protocol: type) -> Any:
    """Load one entry point, call it with its own mapping, and check what it made. ConfigError names the plugin."""
    found = [entry for entry in entry_points(group=group) if entry.name == name]
    if not found:
        raise ConfigError(f"There is no plugin {name!r} in the entry point group {group}.")
    try:
        made = found[0].load()(options)
    except Exception as error:  # a plugin is foreign code: whatever it raises is its failure, by name
        raise ConfigError(f"The plugin {name!r} ({found[0].value}) failed to start: {error}") from error
    if not isinstance(made, protocol):
        raise ConfigError(f"The plugin {name!r} ({found[0].value}) made something that is no {protocol.__name__}.")
    return made
