"""Limits that contradict each other or reach nothing. Enters: a valid tree. Leaves: findings without lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from slm_authz.settings.model_checks import VISIBLE, admitted, unknown_model, unused
from slm_authz.settings.names import limit_name
from slm_authz.settings.patterns import matches
from slm_authz.settings.problems import Finding, error, warning
from slm_authz.settings.schema import LimitSpec, Model, Price, Settings
from slm_authz.settings.unbuilt import ALL_MODELS, ALL_TIERS
from slm_authz.units import MAX_COUNT, format_money

_PERIOD_MS: Final = {"second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}
_WITHIN: Final = {
    "second": ("second", "minute", "hour", "day", "week", "month"),
    "minute": ("minute", "hour", "day", "week", "month"),
    "hour": ("hour", "day", "week", "month"),
    "day": ("day", "week", "month"),
    "week": ("week",),
    "month": ("month",),
}
"""Windows that contain each such window whole: a week may lie in two months. (Hours and days: where the zone's offset is whole hours.)"""
_COARSER: Final = {"key": ("key", "client"), "client": ("client",), "address": ("address",), "model": ("model",)}
"""Subjects that contain each subject whole; tenants are exempt."""
_NAME_UNSAFE: Final = frozenset(',;"\\')


class _Placed(msgspec.Struct, frozen=True):
    """A limit where it stands. reached: canonical names of models that it counts; needs: what that was concluded from."""

    path: str
    scope: str
    spec: LimitSpec
    by: str
    name: str
    reached: list[str]
    needs: list[str]
    of_model: bool


def check_limits(settings: Settings) -> Iterator[Finding]:
    """Each limit by itself, and against its siblings; names across the file."""
    names: dict[str, _Placed] = {}
    shared: dict[tuple[object, ...], _Placed] = {}
    for group in _groups(settings):
        seen: dict[tuple[object, ...], _Placed] = {}
        for limit in group:
            yield from _alone(settings, limit)
            spec = limit.spec
            identity = (spec.kind, spec.algorithm, spec.per, limit.by, None if spec.models is None else tuple(sorted(spec.models)))
            yield from _at_odds(shared, limit)
            twin = seen.setdefault(identity, limit)
            if twin is not limit:
                fix = "Keep one of the two: both would share one counter."
                yield error(limit.path, f"this limit counts the same as `{twin.name}` above it", fix, twin.path)
            first = names.setdefault(limit.name, limit)
            if first is not limit and twin is limit:
                fix = "Give one of them another name: headers, events and usage name limits."
                yield error(f"{limit.path}.name", f"two limits are named `{limit.name}`", fix, first.path)
        yield from _outdone([limit for limit in seen.values() if limit.by != "tenant"])


def _at_odds(shared: dict[tuple[object, ...], _Placed], limit: _Placed) -> Iterator[Finding]:
    """A model's and a tier's limit that share one gcra counter: it drains at one rate, so it could hold to one of them only."""
    spec = limit.spec
    models = (limit.scope,) if limit.of_model else tuple(spec.models or ())
    if spec.algorithm != "gcra" or len(models) != 1:
        return
    if limit.of_model:
        shared[spec.kind, spec.per, limit.by, models] = limit
        return
    other = shared.get((spec.kind, spec.per, limit.by, models))
    if other is not None and (other.spec.size, other.spec.at_once) != (spec.size, spec.at_once):
        fix = "Give both the same rate and burst, keep one of them, or let them count for different subjects (by)."
        yield error(limit.path, f"this gcra limit shares its counter with `{other.name}`, which has another rate or burst", fix, other.path)


def _groups(settings: Settings) -> Iterator[list[_Placed]]:
    admitting = {tier: admitted(settings, tier) for tier in settings.tiers}
    idle = unused(settings)
    for name, model in settings.models.items():
        reached = [] if name in idle else [name]
        needs = [ALL_TIERS, f"models.{name}.aliases"]
        yield [
            _placed(f"models.{name}.limits.{index}", name, spec, reached, needs, of_model=True) for index, spec in enumerate(model.limits)
        ]
    for name, tier in settings.tiers.items():
        needs = [f"tiers.{name}.models", ALL_MODELS]
        group = []
        for index, spec in enumerate(tier.limits):
            reached = [m for m in admitting[name] if _means(settings, spec, m)]
            group.append(_placed(f"tiers.{name}.limits.{index}", name, spec, reached, needs, of_model=False))
        yield group


def _placed(path: str, scope: str, spec: LimitSpec, reached: list[str], needs: list[str], *, of_model: bool) -> _Placed:
    by = spec.by or ("model" if of_model else "client")
    return _Placed(path, scope, spec, by, spec.name or limit_name(scope, spec, by), reached, needs, of_model)


def _means(settings: Settings, spec: LimitSpec, model: str) -> bool:
    return spec.models is None or any(matches(pattern, model, settings.models[model].aliases) for pattern in spec.models)


def _alone(settings: Settings, limit: _Placed) -> Iterator[Finding]:
    spec, path = limit.spec, limit.path
    if limit.by == "model" and not limit.of_model:
        yield error(f"{path}.by", "by: model belongs under models", "Move the limit to the model, or use client, key, tenant or address.")
    yield from _reach(settings, limit)
    if spec.algorithm == "gcra" and spec.per in _PERIOD_MS and spec.at_once * _PERIOD_MS[spec.per] > MAX_COUNT:
        fix = "Use a smaller burst or a shorter period, or a fixed window."
        yield error(f"{path}.burst" if spec.burst else path, "burst times the period is too large to count exactly", fix)
    if settings.metering.usage_from == "none" and spec.kind != "requests":
        message = f"usage_from: none leaves nothing that a {spec.kind} limit could count"
        yield error(path, message, "Use usage_from: access_log, or remove the limit.", "metering.usage_from")
    outage = spec.on_outage or settings.store.on_outage
    if settings.metering.bound == "strict" and spec.kind in ("tokens", "cost") and outage != "deny":
        place = f"{path}.on_outage" if spec.on_outage else path
        fix = "Only deny keeps the promise of bound: strict; set on_outage: deny here."
        yield error(place, f"a strict limit cannot be on_outage: {outage}", fix, "metering.bound", "store.on_outage")
    if spec.name is not None and (VISIBLE.fullmatch(spec.name) is None or set(spec.name) & _NAME_UNSAFE):
        yield error(
            f"{path}.name", "a limit's name is visible ASCII without spaces, commas, semicolons, quotes and backslashes", "Rename it."
        )


def _reach(settings: Settings, limit: _Placed) -> Iterator[Finding]:
    spec, path = limit.spec, limit.path
    if limit.of_model and spec.models is not None:
        yield error(f"{path}.models", "a model's own limit cannot be narrowed to models", "Remove models.")
        return
    unknown = [
        finding for index, pattern in enumerate(spec.models or ()) for finding in unknown_model(settings, f"{path}.models.{index}", pattern)
    ]
    yield from unknown
    if not limit.reached:
        if limit.of_model:
            message, fix = "no request can reach this limit: no tier admits the model", "Add the model to a tier, or remove the limit."
        else:
            message, fix = (
                "no request can reach this limit: none of the tier's models is meant by it",
                "Correct models, or remove the limit.",
            )
        if not unknown and not _tier_is_lost(settings, limit):
            yield error(path, message, fix, *limit.needs)
    elif not limit.of_model and _nobody(settings, limit.scope):
        message = f"no request can reach this limit: all callers are anonymous, and none of them is in tier {limit.scope}"
        yield error(path, message, "Add api_key to identity, or remove the tier.", "identity")
    for name in limit.reached:
        yield from _against(settings, limit, name)
    if spec.kind == "cost" and limit.reached and all(settings.models[name].price == "free" for name in limit.reached):
        yield warning(
            path,
            "every model that this limit counts is free: it is never used up",
            "Give a model a price, or remove the limit.",
            *limit.needs,
        )


def _tier_is_lost(settings: Settings, limit: _Placed) -> bool:
    """Whether the tier admits nothing at all because its patterns mean nothing: that is said once, there."""
    return not limit.of_model and not admitted(settings, limit.scope)


def _nobody(settings: Settings, tier: str) -> bool:
    return all(entry.anonymous is not None and entry.anonymous.tier != tier for entry in settings.identity)


def _against(settings: Settings, limit: _Placed, name: str) -> Iterator[Finding]:
    """One limit against one model that it counts."""
    model, spec = settings.models[name], limit.spec
    if spec.kind == "cost" and model.price is None:
        fix = f"Add a price under models.{name}, or price: free."
        yield error(limit.path, f"a cost limit needs the price of `{name}`", fix, f"models.{name}.price", *limit.needs)
    held = _least_hold(settings, spec, model)
    if held > spec.at_once:
        shown = (format_money(held), format_money(spec.at_once)) if spec.kind == "cost" else (f"{held} tokens", spec.at_once)
        message = (
            f"a request to `{name}` that names no output cap holds at least {shown[0]}, and this limit never allows more than {shown[1]}"
        )
        fix = f"Raise the limit, or lower models.{name}.default_output_tokens."
        yield warning(limit.path, message, fix, f"models.{name}", "metering.bound", *limit.needs)


def _least_hold(settings: Settings, spec: LimitSpec, model: Model) -> int:
    """The least that a request for text without a cap holds of this limit."""
    tokens_in, tokens_out = model.template_tokens, model.default_output_tokens
    if settings.metering.bound == "strict" and model.tokens_per_byte is None and model.context is not None:
        tokens_in = model.context
    if spec.kind == "tokens":
        return tokens_in + tokens_out
    if spec.kind == "cost" and isinstance(model.price, Price):
        return -(-(tokens_in * model.price.input + tokens_out * model.price.output) // model.price.per)
    return 0


def _outdone(group: list[_Placed]) -> Iterator[Finding]:
    """A limit that another one makes pointless: it counts at least the same calls, over at least that long, and is no larger."""
    plain = [limit for limit in group if limit.spec.algorithm == "fixed" and limit.reached]
    for limit in plain:
        for other in plain:
            if other is not limit and _outdoes(other, limit):
                fix = "Lower it, or remove it."
                yield warning(
                    limit.path,
                    f"this limit is never reached: {_said(other.spec)} (`{other.name}`) is used up first",
                    fix,
                    other.path,
                    *limit.needs,
                )
                break


def _outdoes(other: _Placed, limit: _Placed) -> bool:
    mine, theirs = limit.spec, other.spec
    if theirs.kind != mine.kind or theirs.size > mine.size or other.by not in _COARSER[limit.by]:
        return False
    if mine.per is not None and theirs.per not in _WITHIN[mine.per]:
        return False
    if not set(limit.reached) <= set(other.reached):
        return False
    same = (theirs.size, theirs.per, other.by, set(other.reached)) == (mine.size, mine.per, limit.by, set(limit.reached))
    return not same or other.path < limit.path  # of two that are equal one is pointless, not both


def _said(spec: LimitSpec) -> str:
    size = format_money(spec.size) if spec.kind == "cost" else str(spec.size)
    return f"{size} {spec.kind}" + (f" per {spec.per}" if spec.per else "")
