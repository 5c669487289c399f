"""Everything that a configuration decides, compiled: one immutable snapshot, which a reload replaces by one assignment.

A batch keeps one snapshot from plan to conclude.
"""

from __future__ import annotations

import msgspec

from slm_authz.identity.resolver import Resolver
from slm_authz.policy.evaluate import CompiledPolicy
from slm_authz.policy.paths import PathTable
from slm_authz.policy.table import Table
from slm_authz.quota.account import QuotaTable


class Rules(msgspec.Struct, frozen=True, eq=False):
    """One configuration, ready to decide with.

    digest: of the file, part of every audit event; trusted_hops: None: the direct peer is the client
    strict: `metering.bound: strict`; usage: whether an access log reports the end of calls; settle_wait_ms: for a slot
    """

    digest: str
    resolver: Resolver
    table: Table
    paths: PathTable
    policies: tuple[CompiledPolicy, ...]
    quota: QuotaTable
    trusted_hops: int | None
    max_body: int
    currency: str
    strict: bool
    usage: bool
    settle_wait_ms: int
    deny_without_audit: bool
