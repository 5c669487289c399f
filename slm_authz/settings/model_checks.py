"""Models and tiers: names that travel in headers, bounds that contradict each other. Enters: a valid tree. Leaves: findings without lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from slm_authz.settings.patterns import matches
from slm_authz.settings.problems import Finding, error, warning
from slm_authz.settings.schema import Model, Price, Settings
from slm_authz.settings.unbuilt import ALL_MODELS, ALL_TIERS
from slm_authz.settings.words import closest
from slm_authz.units import MAX_COUNT

VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,256}")
_UNSAFE: Final = frozenset(',"\\*?')
"""A comma joins lists in headers, quotes and backslashes break structured fields, `*` and `?` are patterns."""
MAX_CHOICES: Final = 128
"""Most answers that one request can ask for (`n`, `best_of`)."""


def admitted(settings: Settings, tier: str) -> list[str]:
    """Canonical names of the models that a tier admits, in file order."""
    plain = set(settings.tiers[tier].models)
    globs = [pattern for pattern in plain if "*" in pattern or "?" in pattern]
    return [
        name
        for name, model in settings.models.items()
        if not plain.isdisjoint((name, *model.aliases)) or any(matches(pattern, name, model.aliases) for pattern in globs)
    ]


def unknown_model(settings: Settings, path: str, pattern: str) -> Iterator[Finding]:
    """A name or glob that means no configured model."""
    if _known(settings, pattern):
        return
    spellings = [spelling for name, model in settings.models.items() for spelling in (name, *model.aliases)]
    meant = closest(pattern, spellings)
    fix = f"Did you mean `{meant}`?" if meant else f"Configured models: {', '.join(settings.models)}."
    yield error(path, f"no configured model is meant by `{pattern}`", fix, ALL_MODELS)


def _known(settings: Settings, pattern: str) -> bool:
    return pattern in settings.models or any(matches(pattern, name, model.aliases) for name, model in settings.models.items())


def unused(settings: Settings) -> frozenset[str]:
    """Models that no tier admits; none where a tier names an unknown one, which may be meant to be any of them."""
    if not all(_known(settings, pattern) for tier in settings.tiers.values() for pattern in tier.models):
        return frozenset()
    return frozenset(settings.models) - {model for tier in settings.tiers for model in admitted(settings, tier)}


def check_models(settings: Settings) -> Iterator[Finding]:
    """Names first, then bounds, then who may use what."""
    owners: dict[str, str] = {}
    for name, model in settings.models.items():
        yield from _travels(f"models.{name}", "a model's name", name)
        yield from _spellings(owners, name, model)
        yield from _bounds(settings, f"models.{name}", model)
    idle = unused(settings)
    for name in settings.models:
        if name in idle and not settings.models[name].limits:
            yield warning(f"models.{name}", f"no tier admits the model `{name}`", "Add it to a tier's models, or remove it.", ALL_TIERS)
    for name, tier in settings.tiers.items():
        yield from _travels(f"tiers.{name}", "a tier's name", name)
        for index, pattern in enumerate(tier.models):
            yield from unknown_model(settings, f"tiers.{name}.models.{index}", pattern)
        if tier.weight != 1:
            yield error(
                f"tiers.{name}.weight",
                "a weight other than 1 is not built in this release: scarce capacity is first come, first served",
                "Remove weight.",
            )


def _travels(path: str, what: str, name: str) -> Iterator[Finding]:
    if VISIBLE.fullmatch(name) is None or set(name) & _UNSAFE:
        message = (
            f"{what} must be visible ASCII without spaces, commas, quotes, backslashes, * and ?, at most 256 bytes: it travels in headers"
        )
        yield error(path, message, "Rename it.")


def _spellings(owners: dict[str, str], name: str, model: Model) -> Iterator[Finding]:
    """Every name and alias means one model."""
    if name in owners:
        yield error(
            f"models.{name}",
            f"`{name}` is an alias of `{owners[name]}` already",
            "Rename the model, or remove the alias.",
            f"models.{owners[name]}.aliases",
        )
    owners.setdefault(name, name)
    for index, alias in enumerate(model.aliases):
        path = f"models.{name}.aliases.{index}"
        yield from _travels(path, "an alias", alias)
        if alias in owners:
            of = owners[alias]
            message = f"`{alias}` names the model `{of}` already"
            yield error(path, message, "Every name and alias must be unique.")
        owners.setdefault(alias, name)


def _bounds(settings: Settings, path: str, model: Model) -> Iterator[Finding]:
    highest = f"{path}.max_output_tokens"
    if model.default_output_tokens > model.max_output_tokens:
        message = f"default_output_tokens ({model.default_output_tokens}) is above max_output_tokens ({model.max_output_tokens})"
        yield error(f"{path}.default_output_tokens", message, "Lower it, or raise max_output_tokens.", highest)
    if model.context is not None and model.max_output_tokens > model.context:
        message = f"max_output_tokens ({model.max_output_tokens}) is above the context ({model.context})"
        yield error(highest, message, "A model generates at most what its context holds: lower it.", f"{path}.context")
    if model.context is None and settings.metering.bound == "strict":
        yield error(
            f"{path}.context",
            "`context` is mandatory with bound: strict",
            "Say how many tokens the server accepts in all.",
            "metering.bound",
        )
    tokens_in = max(model.context or 0, settings.listen.max_body * (model.tokens_per_byte or 1)) + model.template_tokens
    tokens_out = MAX_CHOICES * model.max_output_tokens
    if tokens_in + tokens_out > MAX_COUNT:
        yield error(
            highest, "a call could hold more tokens than can be counted exactly", "Use the model's real limits.", path, "listen.max_body"
        )
    elif isinstance(model.price, Price) and tokens_in * model.price.input + tokens_out * model.price.output > MAX_COUNT * model.price.per:
        message = f"a call could cost more than {MAX_COUNT} nanos of the currency, which cannot be counted exactly"
        yield error(f"{path}.price", message, "Check the price and what it is per, or use a larger currency unit.", path, "listen.max_body")
