"""Our own failures, and nothing else: a refusal is a value (`slm_authz.reason.Denial`), never an exception.

    SlmAuthzError                 exit code 1
    ├── ConfigError               1  the configuration is wrong; carries every problem at once
    ├── NotFound                  1  an unknown key, tier, model or decision
    ├── UsageError                2  a flag, a value's syntax, no configuration file
    └── DependencyError           3  something we need is down
        ├── StoreError            3  the key, counter or outbox store cannot answer
        ├── PortTaken             3  another process listens where we must
        └── EnvoyMissing          3  no Envoy binary was found or could be installed

Foreign exceptions are mapped to these at the edge that imports the foreign library.
The command line turns `exit_code` into its own; every message says what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm_authz.settings.problems import Problem


class SlmAuthzError(Exception):
    """Root of all failures that are ours. `fix`, if given, is one sentence that says what to do."""

    exit_code = 1

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}" if self.fix else self.message


class ConfigError(SlmAuthzError):
    """A configuration that cannot be served. `problems` holds all of them, in file order."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class NotFound(SlmAuthzError):
    """Something that was named does not exist."""


class UsageError(SlmAuthzError):
    """The command was called wrongly."""

    exit_code = 2


class DependencyError(SlmAuthzError):
    """Something outside this process is down or in the way."""

    exit_code = 3


class StoreError(DependencyError):
    """A store cannot answer, or holds what this release cannot read."""


class PortTaken(DependencyError):
    """Another process listens on an address that we need."""


class EnvoyMissing(DependencyError):
    """No Envoy binary was found or could be installed."""
