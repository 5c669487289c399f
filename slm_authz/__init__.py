"""slm-authz: authentication, limits, budgets and audit for language-model APIs, beside the gateway you already run.

The public names are those of `__all__`; everything else may change between releases. Importing this loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_authz.audit.event import AuditEvent
    from slm_authz.audit.sink import AuditSink
    from slm_authz.identity.principal import Deferred, IdentityMethod, Principal
    from slm_authz.reason import Denial, Reason
    from slm_authz.request import RequestContext

__version__ = "0.1.0"

__all__ = [
    "AuditEvent",
    "AuditSink",
    "Deferred",
    "Denial",
    "IdentityMethod",
    "Principal",
    "Reason",
    "RequestContext",
    "__version__",
]

_HOME = {
    "AuditEvent": "slm_authz.audit.event",
    "AuditSink": "slm_authz.audit.sink",
    "Deferred": "slm_authz.identity.principal",
    "Denial": "slm_authz.reason",
    "IdentityMethod": "slm_authz.identity.principal",
    "Principal": "slm_authz.identity.principal",
    "Reason": "slm_authz.reason",
    "RequestContext": "slm_authz.request",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
