"""Limits that contradict each other or reach nothing. Enters: a valid tree. Leaves: problems without lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from slm_authz.settings.names import limit_name
from slm_authz.settings.patterns import matches
from slm_authz.settings.problems import Problem
from slm_authz.settings.schema import LimitSpec, Price, Settings
from slm_authz.units import MAX_COUNT

_PERIOD_MS: Final = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
_LONGER: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000}


def _error(path: str, message: str, fix: str) -> Problem:
    return Problem("error", None, path, message, fix)


def _warning(path: str, message: str, fix: str) -> Problem:
    return Problem("warning", None, path, message, fix)


def check_limits(settings: Settings) -> Iterator[Problem]:
    """Each limit by itself, and against its siblings; names across the file."""
    names: dict[str, str] = {}
    for scope, is_model, limits, models in _groups(settings):
        seen: dict[tuple[object, ...], str] = {}
        for index, limit in enumerate(limits):
            path = f"{'models' if is_model else 'tiers'}.{scope}.limits.{index}"
            by = limit.by or ("model" if is_model else "client")
            yield from _alone(settings, path, limit, by, models, is_model=is_model)
            identity = (limit.kind, limit.algorithm, limit.per, by, tuple(sorted(limit.models or ())))
            if identity in seen:
                yield _error(path, f"this counts the same as {seen[identity]}", "Keep one of the two: both would share one counter.")
            seen.setdefault(identity, path)
            name = limit.name or limit_name(scope, limit, by)
            if name in names:
                yield _error(path, f"the name `{name}` is that of {names[name]} too", "Give one of them another name.")
            names.setdefault(name, path)
        yield from _unreachable(scope, limits, is_model=is_model)


def _groups(settings: Settings) -> Iterator[tuple[str, bool, tuple[LimitSpec, ...], list[str]]]:
    for name, model in settings.models.items():
        yield name, True, model.limits, [name]
    for name, tier in settings.tiers.items():
        admitted = [m for m, spec in settings.models.items() if any(matches(pattern, m, spec.aliases) for pattern in tier.models)]
        yield name, False, tier.limits, admitted


def _alone(settings: Settings, path: str, limit: LimitSpec, by: str, models: list[str], *, is_model: bool) -> Iterator[Problem]:
    if by == "model" and not is_model:
        yield _error(f"{path}.by", "by: model belongs under models", "Move the limit to the model, or use client, key, tenant or address.")
    reached = _reached(settings, limit, models)
    if is_model and limit.models is not None:
        yield _error(f"{path}.models", "a model's own limit cannot be narrowed to models", "Remove models.")
    elif not reached:
        yield _error(
            path, "no request can reach this limit: none of the tier's models is meant by it", "Correct models, or remove the limit."
        )
    if limit.algorithm == "gcra" and limit.per in _PERIOD_MS:
        burst = limit.burst or max(1, limit.size // 10)
        if burst * _PERIOD_MS[limit.per] > MAX_COUNT:
            yield _error(
                f"{path}.burst", "burst times the period is too large to count exactly", "Use a smaller burst or a shorter period."
            )
    if limit.kind == "cost":
        for model in reached:
            if settings.models[model].price is None:
                yield _error(path, f"a cost limit needs the price of `{model}`", f"Add models.{model}.price, or price: free.")
    if settings.metering.usage_from == "none" and limit.kind != "requests":
        yield _error(path, f"usage_from: none leaves nothing that a {limit.kind} limit could count", "Use usage_from: access_log.")
    strict = settings.metering.bound == "strict" and limit.kind in ("tokens", "cost")
    outage = limit.on_outage or settings.store.on_outage
    if strict and outage != "deny":
        yield _error(f"{path}.on_outage", f"a strict limit cannot be on_outage: {outage}", "Only deny keeps the promise of bound: strict.")
    yield from _sizes(settings, path, limit, reached)


def _reached(settings: Settings, limit: LimitSpec, models: list[str]) -> list[str]:
    if limit.models is None:
        return models
    return [model for model in models if any(matches(pattern, model, settings.models[model].aliases) for pattern in limit.models)]


def _sizes(settings: Settings, path: str, limit: LimitSpec, reached: list[str]) -> Iterator[Problem]:
    for name in reached:
        model = settings.models[name]
        if isinstance(model.price, Price) and (model.price.input + model.price.output) * (1 << 24) > MAX_COUNT * model.price.per:
            yield _error(
                f"models.{name}.price",
                "the price is too large to count exactly",
                "State it per fewer tokens, or in a larger currency unit.",
            )
        burst = (limit.burst or max(1, limit.size // 10)) if limit.algorithm == "gcra" else limit.size
        if limit.kind == "tokens" and model.default_output_tokens + model.template_tokens > burst:
            yield _warning(
                path,
                f"a request to `{name}` that names no cap holds {model.default_output_tokens} output tokens, more than this limit ever allows",
                f"Raise the limit, or lower models.{name}.default_output_tokens.",
            )


def _unreachable(scope: str, limits: tuple[LimitSpec, ...], *, is_model: bool) -> Iterator[Problem]:
    """A limit that another of the same kind and subject makes pointless: over a longer period, and not smaller."""
    fixed = [
        (index, limit)
        for index, limit in enumerate(limits)
        if limit.per is not None and limit.algorithm == "fixed" and limit.by != "tenant"
    ]
    for index, limit in fixed:
        for other_index, other in fixed:
            same = (other.kind, other.by, other.models) == (limit.kind, limit.by, limit.models)
            if other_index != index and same and _LONGER[str(other.per)] > _LONGER[str(limit.per)] and other.size <= limit.size:
                yield _warning(
                    f"{'models' if is_model else 'tiers'}.{scope}.limits.{index}",
                    f"this limit is never reached: {other.size} per {other.per} is used up first",
                    "Lower it, or remove it.",
                )
                break
