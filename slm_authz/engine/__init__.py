"""The corridor: request, identity, policy, quota, decision, in this order and never back. Synchronous, free of asyncio and of any wire.

batch of calls → plan each (pure) → one counters.admit(batch) → conclude each (pure) → answers
"""

from slm_authz.engine.corridor import Engine
from slm_authz.engine.rules import Rules

__all__ = ["Engine", "Rules"]
