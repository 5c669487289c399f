"""Where finished audit events go: the protocol behind the entry point group `slm_authz.audit_sink`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from slm_authz.audit.event import AuditEvent


@runtime_checkable
class AuditSink(Protocol):
    """A destination. The entry point is a callable that takes the sink's own mapping from the configuration."""

    def write(self, events: Sequence[AuditEvent]) -> None:
        """Take all events or raise: what raised is offered again, so a sink must stand a repeated `decision_id`."""
        ...

    def close(self) -> None:
        """Flush and release. No `write` follows."""
        ...
