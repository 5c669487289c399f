"""ROOM 3: may they? Which models a tier and a credential admit. Enters: an ask, a principal. Leaves: `Permit` or a refusal.

Compiled once per configuration and immutable: at a call there are dictionary look-ups, no pattern matching.
"""

from __future__ import annotations

from typing import Final

import msgspec

from slm_authz.identity.principal import Principal
from slm_authz.llm.ask import Ask
from slm_authz.reason import Denial, Reason
from slm_authz.settings.patterns import matches
from slm_authz.settings.schema import Model, Settings

_NAMED_AT_MOST: Final = 20
_LISTS_REMEMBERED: Final = 10_000


class ModelEntry(msgspec.Struct, frozen=True, eq=False):
    """A configured model under its canonical name."""

    name: str
    spec: Model


class TierEntry(msgspec.Struct, frozen=True, eq=False):
    """A tier. `models`: every admissible spelling (canonical names and aliases) to its model."""

    name: str
    models: dict[str, ModelEntry]


class Permit(msgspec.Struct, frozen=True, eq=False):
    """What policy allows: this tier, this model (None: the path asks none)."""

    tier: TierEntry
    model: ModelEntry | None


class Table:
    """Tiers and models of one configuration."""

    def __init__(self, models: dict[str, ModelEntry], tiers: dict[str, TierEntry]) -> None:
        self.models = models
        self.tiers = tiers
        self._narrowed: dict[tuple[str, tuple[str, ...]], dict[str, ModelEntry]] = {}

    @classmethod
    def build(cls, settings: Settings) -> Table:
        """Expand all patterns. A pattern admits only models that are configured."""
        entries = [ModelEntry(name, spec) for name, spec in settings.models.items()]
        models = {spelling: entry for entry in entries for spelling in (entry.name, *entry.spec.aliases)}
        tiers = {name: TierEntry(name, _select(entries, tier.models)) for name, tier in settings.tiers.items()}
        return cls(models, tiers)

    def permit(self, ask: Ask, principal: Principal) -> Permit | Denial:
        """Whether the caller may ask this of this model. The refusal names what the caller may use, nothing else."""
        tier = self.tiers.get(principal.tier)
        if tier is None:
            return Denial(Reason.CLIENT_BLOCKED, "The tier of this key is no longer configured: ask the operator for another.")
        admitted = tier.models if principal.models is None else self._narrow(tier, principal.models)
        entry = admitted.get(ask.model)
        if entry is not None:
            return Permit(tier, entry)
        if not ask.model and not ask.prompts:
            return Permit(tier, None)
        reason = Reason.MODEL_NOT_ALLOWED if ask.model in self.models else Reason.UNKNOWN_MODEL
        return Denial(reason, f"This key may not use that model. {_may_use(admitted)}", param="model")

    def allowed_models(self, principal: Principal) -> tuple[str, ...]:
        """Canonical names of the models that the caller may use, in file order."""
        tier = self.tiers.get(principal.tier)
        if tier is None:
            return ()
        admitted = tier.models if principal.models is None else self._narrow(tier, principal.models)
        return tuple(dict.fromkeys(entry.name for entry in admitted.values()))

    def _narrow(self, tier: TierEntry, patterns: tuple[str, ...]) -> dict[str, ModelEntry]:
        key = (tier.name, patterns)
        narrowed = self._narrowed.get(key)
        if narrowed is None:
            entries = list({id(entry): entry for entry in tier.models.values()}.values())
            narrowed = _select(entries, patterns)
            if len(self._narrowed) >= _LISTS_REMEMBERED:
                self._narrowed.clear()
            self._narrowed[key] = narrowed
        return narrowed


def _select(entries: list[ModelEntry], patterns: tuple[str, ...]) -> dict[str, ModelEntry]:
    """Every spelling of every model that one of the patterns means."""
    return {
        spelling: entry
        for entry in entries
        if any(matches(pattern, entry.name, entry.spec.aliases) for pattern in patterns)
        for spelling in (entry.name, *entry.spec.aliases)
    }


def _may_use(admitted: dict[str, ModelEntry]) -> str:
    names = list(dict.fromkeys(entry.name for entry in admitted.values()))
    if not names:
        return "It may use none of the configured models."
    more = len(names) - _NAMED_AT_MOST
    return f"It may use: {', '.join(names[:_NAMED_AT_MOST])}{f' and {more} more' if more > 0 else ''}."
