"""What needs two places of the file at once. Enters: a valid tree. Leaves: problems without lines (the loader knows those)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from slm_authz.settings.address import parse_address
from slm_authz.settings.limit_checks import check_limits
from slm_authz.settings.patterns import matches
from slm_authz.settings.problems import Problem
from slm_authz.settings.schema import Model, PluginSink, Settings

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,256}")
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check(settings: Settings, plugins: Any) -> list[Problem]:
    """All findings; `plugins` has the names of installed identity methods and audit sinks."""
    problems: list[Problem] = []
    for part in (_listen, _store, _models, _tiers, _policies, _paths):
        problems.extend(part(settings))
    problems.extend(_identity(settings, plugins))
    problems.extend(_audit(settings, plugins))
    problems.extend(check_limits(settings))
    return problems


def error(path: str, message: str, fix: str) -> Problem:
    """An error whose line the loader will find."""
    return Problem("error", None, path, message, fix)


def _listen(settings: Settings) -> Iterator[Problem]:
    for name in ("grpc", "admin", "health"):
        try:
            address = parse_address(getattr(settings.listen, name))
        except ValueError as wrong:
            yield error(f"listen.{name}", str(wrong), "Correct the address.")
            continue
        if name != "health" and not address.local:
            yield error(
                f"listen.{name}",
                f"listen.{name} beyond loopback and Unix sockets is not built in this release",
                "Use 127.0.0.1, [::1] or unix:PATH.",
            )
    if settings.listen.max_body < 1024:
        yield error("listen.max_body", "max_body is too small for any request", "Use at least 1KiB; 4MiB is usual.")
    if settings.metering.lease < 1000:
        yield error("metering.lease", "the lease is shorter than any call", "Use at least 1s; 15m is usual.")
    if settings.metering.settle_wait >= settings.metering.lease:
        yield error("metering.settle_wait", "a call may not wait longer than a lease", "Use a few hundred milliseconds.")
    if settings.client_address.source == "xff" and settings.client_address.trusted_hops is None:
        yield error(
            "client_address",
            "from: xff needs trusted_hops",
            "Say how many proxies of yours stand before this gateway, such as trusted_hops: 1.",
        )
    if settings.client_address.source == "peer" and settings.client_address.trusted_hops is not None:
        yield error("client_address.trusted_hops", "trusted_hops belongs to from: xff", "Remove it, or set from: xff.")


def _store(settings: Settings) -> Iterator[Problem]:
    if re.fullmatch(r"sqlite:///.+", settings.store.url) is None:
        yield error("store.url", "the store's URL is not one that this release knows", "Use sqlite:///./var/slm-authz.db.")
    if settings.workers > 1:
        yield error("workers", "more than one worker needs a shared store", "Use workers: 1 with the embedded store.")
    try:
        ZoneInfo(settings.time_zone)
    except (ZoneInfoNotFoundError, ValueError):
        yield error("time_zone", f"the time zone {settings.time_zone!r} is not known", "Use a name like Europe/Berlin or UTC.")


def _travels(path: str, what: str, name: str) -> Iterator[Problem]:
    if _VISIBLE.fullmatch(name) is None or "," in name:
        yield error(path, f"{what} must be visible ASCII without spaces and commas, at most 256 bytes: it travels in headers", "Rename it.")


def _models(settings: Settings) -> Iterator[Problem]:
    spellings: dict[str, str] = {}
    for name, model in settings.models.items():
        path = f"models.{name}"
        yield from _travels(path, "a model's name", name)
        for index, spelling in enumerate((name, *model.aliases)):
            place = f"{path}.aliases.{index - 1}" if index else path
            if index:
                yield from _travels(place, "an alias", spelling)
            if spellings.get(spelling, name) != name or (index and spelling in (name, *model.aliases[: index - 1])):
                yield error(place, f"`{spelling}` names two models, or one twice", "Every name and alias must be unique.")
            spellings[spelling] = name
        yield from _model_bounds(settings, path, model)


def _model_bounds(settings: Settings, path: str, model: Model) -> Iterator[Problem]:
    if model.default_output_tokens > model.max_output_tokens:
        yield error(
            f"{path}.default_output_tokens", "default_output_tokens is above max_output_tokens", "Lower it, or raise max_output_tokens."
        )
    if model.context is not None and model.max_output_tokens > model.context:
        yield error(
            f"{path}.max_output_tokens", "max_output_tokens is above the context", "A model generates at most what its context holds."
        )
    if settings.metering.bound == "strict" and model.context is None:
        yield error(path, "`context` is mandatory with bound: strict", "Say how many tokens the server accepts in all.")


def _tiers(settings: Settings) -> Iterator[Problem]:
    for name, tier in settings.tiers.items():
        yield from _travels(f"tiers.{name}", "a tier's name", name)
        for index, pattern in enumerate(tier.models):
            if not any(matches(pattern, model, spec.aliases) for model, spec in settings.models.items()):
                known = ", ".join(settings.models)
                yield error(f"tiers.{name}.models.{index}", f"no configured model is meant by `{pattern}`", f"Configured models: {known}.")


def _policies(settings: Settings) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, policy in enumerate(settings.policies):
        path = f"policies.{index}"
        if policy.name in seen:
            yield error(f"{path}.name", f"two policies are named `{policy.name}`", "Rename one: the audit trail names them.")
        seen.add(policy.name)
        if _CODE.fullmatch(policy.deny.code) is None:
            yield error(f"{path}.deny.code", "a code is lower-case letters, digits and underscores", "Write it like output_too_long.")


def _paths(settings: Settings) -> Iterator[Problem]:
    for index, rule in enumerate(settings.paths):
        path = f"paths.{index}"
        if not rule.prefix.startswith("/") or "//" in rule.prefix or "/." in rule.prefix or set(rule.prefix) & set("%?#;\\ "):
            yield error(f"{path}.prefix", "a prefix is a plain path that begins with a slash", "Write it like /health or /v1/.")
        if not rule.methods or any(_TOKEN.fullmatch(method) is None or method != method.upper() for method in rule.methods):
            yield error(f"{path}.methods", "methods are upper-case HTTP methods", "Write them like [GET, POST].")


def _identity(settings: Settings, plugins: Any) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, entry in enumerate(settings.identity):
        kind, path = entry.kind, f"identity.{index}"
        if kind in seen:
            yield error(path, f"the identity method {kind} stands here twice", "Merge the two entries.")
        seen.add(kind)
        if entry.anonymous is not None and entry.anonymous.tier not in settings.tiers:
            yield error(
                f"{path}.anonymous.tier", f"there is no tier `{entry.anonymous.tier}`", f"Configured tiers: {', '.join(settings.tiers)}."
            )
        if entry.model_extra and kind not in plugins.identity:
            known = ", ".join(sorted({"api_key", "anonymous", *plugins.identity}))
            yield error(f"{path}.{kind}", f"there is no identity method `{kind}`", f"Known: {known}. Others come as installed plugins.")
        if entry.api_key is not None:
            yield from _places(f"{path}.api_key.in", entry.api_key.places)


def _places(path: str, places: Any) -> Iterator[Problem]:
    seen: set[tuple[str, str]] = set()
    for index, place in enumerate(places):
        kind = "header" if place.header else "query" if place.query else "cookie"
        name = place.header or place.query or place.cookie
        key = (kind, f"{name.lower()} {place.scheme or ''}" if kind == "header" else name)
        if key in seen:
            yield error(f"{path}.{index}", "this place stands here twice", "Remove one of the two.")
        seen.add(key)
        if _TOKEN.fullmatch(name) is None or (kind == "header" and re.match(r"x[-_]slm[-_]|:|cookie$|host$", name, re.IGNORECASE)):
            yield error(f"{path}.{index}", f"`{name}` cannot hold a credential", "Use a header like authorization or x-api-key.")


def _audit(settings: Settings, plugins: Any) -> Iterator[Problem]:
    for index, sink in enumerate(settings.audit.sinks):
        path = f"audit.sinks.{index}"
        if isinstance(sink, PluginSink) and (len(sink.model_extra or {}) != 1 or sink.kind not in plugins.audit_sink):
            known = ", ".join(sorted({"file", "otlp", *plugins.audit_sink}))
            yield error(path, f"there is no audit sink `{sink.kind}`", f"Known: {known}. Others come as installed plugins.")
    if not settings.audit.sinks:
        yield error("audit.sinks", "no audit sink is configured", "Add {file: ./var/audit}: without one nothing is recorded.")
