"""Which counters a call draws on. Enters: tiers, models, a principal, a permit. Leaves: `Account`, the call's counters in file order.

Compiled when a configuration is loaded; per principal and model looked up once and remembered on the principal.
Counters of the caller's own (key, client, tenant) are one slot of the store; those shared by model and by address are slots of
their own, taken second.
"""

from __future__ import annotations

import msgspec

from slm_authz.identity.principal import Principal
from slm_authz.policy.table import ModelEntry, Permit
from slm_authz.quota.limit import SEPARATOR, Limit, compile_limit
from slm_authz.settings.patterns import matches
from slm_authz.settings.schema import Settings


class Line(msgspec.Struct, frozen=True, eq=False):
    """One counter that a call draws on, with the tightest of the limits that share it.

    key: the counter's whole identity; quoted: the same inside a signed hold
    """

    key: str
    quoted: str
    limit: Limit
    kind: int
    algorithm: int


class Account(msgspec.Struct, frozen=True, eq=False):
    """All counters of one caller for one model.

    own: the caller's slot; shared: slots by model and address; on_outage: the strictest word of all its limits
    """

    own: tuple[Line, ...]
    shared: tuple[Line, ...]
    on_outage: str


def subject_of(by: str, principal: Principal, model: str, address: str) -> str:
    """Who a limit counts: a client is (tenant, client); no tenant: the client is its own; no key id: the key is the client."""
    tenant = principal.tenant or principal.client
    if by == "tenant":
        return tenant
    if by == "model":
        return model
    if by == "address":
        return address
    if by == "key" and principal.key_id is not None:
        return principal.key_id
    return f"{tenant}{SEPARATOR}{principal.client}"


def _quote(key: str) -> str:
    return key.replace("%", "%25").replace(";", "%3B").replace("=", "%3D").replace("/", "%2F").replace(SEPARATOR, "/")


_TIGHTEST_FIRST = {"deny": 0, "local": 1, "allow": 2}


class QuotaTable:
    """All limits of one configuration, by tier and model. Immutable; a new configuration is a new table."""

    def __init__(self, settings: Settings) -> None:
        order = 0
        self.model_limits: dict[str, tuple[Limit, ...]] = {}
        self.tier_limits: dict[str, tuple[Limit, ...]] = {}
        for name, model in settings.models.items():
            compiled = []
            for spec in model.limits:
                compiled.append(compile_limit(spec, name, order, model=name, on_outage=settings.store.on_outage))
                order += 1
            self.model_limits[name] = tuple(compiled)
        for name, tier in settings.tiers.items():
            compiled = []
            for spec in tier.limits:
                compiled.append(compile_limit(spec, name, order, model=None, on_outage=settings.store.on_outage))
                order += 1
            self.tier_limits[name] = tuple(compiled)
        self._default_outage = settings.store.on_outage
        self._aliases = {name: model.aliases for name, model in settings.models.items()}
        self.admitted = {
            tier: tuple(name for name, aliases in self._aliases.items() if any(matches(p, name, aliases) for p in spec.models))
            for tier, spec in settings.tiers.items()
        }
        everything = [limit for group in (*self.tier_limits.values(), *self.model_limits.values()) for limit in group]
        self.names = frozenset(limit.name for limit in everything)
        self.by_stem: dict[str, list[Limit]] = {}
        for limit in everything:
            self.by_stem.setdefault(limit.stem, []).append(limit)

    def spelled(self, model: str) -> tuple[str, tuple[str, ...]]:
        """Canonical name and aliases of a model that is named by one of them; a name that is not known stands for itself."""
        for name, aliases in self._aliases.items():
            if model == name or model in aliases:
                return name, aliases
        return model, ()

    def account(self, principal: Principal, permit: Permit, address: str) -> Account:
        """The counters of this caller for this permit. `address` is the client address, "" where unknown."""
        if permit.model is None:
            return NOTHING
        cached = principal.account
        if type(cached) is not _Cached or cached.table is not self:
            cached = _Cached(self, {})
            principal.account = cached
        model = permit.model.name
        account = cached.accounts.get((permit.tier.name, model))
        if account is None:
            limits = self.limits(permit.tier.name, permit.model)
            account = self._compile(limits, principal, model, address)
            if all(limit.by != "address" for limit in limits):
                cached.accounts[permit.tier.name, model] = account
        return account

    def limits(self, tier: str, model: ModelEntry) -> tuple[Limit, ...]:
        """All limits of a tier and a model that apply to a call for that model, in file order of tiers, then of the model."""
        narrowed = (
            limit
            for limit in self.tier_limits.get(tier, ())
            if limit.models is None or any(matches(pattern, model.name, model.spec.aliases) for pattern in limit.models)
        )
        return (*narrowed, *self.model_limits.get(model.name, ()))

    def _compile(self, limits: tuple[Limit, ...], principal: Principal, model: str, address: str) -> Account:
        lines: dict[str, Line] = {}
        for limit in limits:
            key = f"{limit.stem}{SEPARATOR}{subject_of(limit.by, principal, model, address)}"
            known = lines.get(key)
            if known is None or (limit.shown_size, limit.order) < (known.limit.shown_size, known.limit.order):
                lines[key] = Line(key, _quote(key), limit, limit.kind, limit.algorithm)
        shared = ("model", "address")
        return Account(
            own=tuple(line for line in lines.values() if line.limit.by not in shared),
            shared=tuple(line for line in lines.values() if line.limit.by in shared),
            on_outage=min((limit.on_outage for limit in limits), key=_TIGHTEST_FIRST.__getitem__, default=self._default_outage),
        )


class _Cached(msgspec.Struct, eq=False):
    table: QuotaTable
    accounts: dict[tuple[str, str], Account]


NOTHING = Account(own=(), shared=(), on_outage="allow")
"""A call that no limit counts: a path without a model."""
