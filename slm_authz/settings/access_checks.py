"""Who may call and what may pass: identity methods, their places, paths, policies. Enters: a valid tree. Leaves: findings without lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from slm_authz.settings.model_checks import VISIBLE
from slm_authz.settings.problems import Finding, error, warning
from slm_authz.settings.schema import Place, Settings
from slm_authz.settings.unbuilt import ALL_TIERS, PLACEHOLDER
from slm_authz.settings.words import closest

TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""RFC 9110, 5.6.2: names of headers, methods, schemes."""
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_QUERY: Final = re.compile(r"[0-9A-Za-z_.~-]{1,256}")
_PREFIX: Final = re.compile(r"/[\x21-\x7e]*")
_PREFIX_UNSAFE: Final = frozenset("%?#;\\")
_NEVER: Final = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "cookie", "expect", "forwarded", "host",
        "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-envoy-external-address", "x-forwarded-client-cert",
        "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id", "traceparent", "tracestate",
    }
)  # fmt: skip
"""Headers that mean something else: a credential place is removed from what reaches the model server."""
_FAMILY: Final = re.compile(r"x[-_]slm[-_].*")


def check_access(settings: Settings, installed: frozenset[str]) -> Iterator[Finding]:
    """`installed`: identity methods that plugins bring."""
    yield from _identity(settings, installed)
    yield from _paths(settings)
    yield from _policies(settings)


def _identity(settings: Settings, installed: frozenset[str]) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, entry in enumerate(settings.identity):
        kind, path = entry.kind, f"identity.{index}"
        if kind in seen:
            yield error(path, f"the identity method {kind} stands here twice", "Merge the two entries.")
        seen.add(kind)
        if entry.anonymous is not None and entry.anonymous.tier not in settings.tiers:
            known = ", ".join(settings.tiers)
            yield error(
                f"{path}.anonymous.tier",
                f"there is no tier `{entry.anonymous.tier}`",
                f"Configured tiers: {known}.",
                ALL_TIERS,
            )
        if entry.model_extra and kind not in installed:
            names = sorted({"api_key", "anonymous", *installed})
            meant = closest(kind, names)
            fix = f"Did you mean `{meant}`?" if meant else f"Known: {', '.join(names)}. Others come as installed plugins."
            yield error(path if kind == PLACEHOLDER else f"{path}.{kind}", f"there is no identity method `{kind}`", fix)
        if entry.api_key is not None:
            yield from _places(f"{path}.api_key.in", entry.api_key.places)


def _places(path: str, places: Sequence[Place]) -> Iterator[Finding]:
    seen: set[tuple[str, str, str]] = set()
    for index, place in enumerate(places):
        kind, name, pattern = (
            ("header", place.header.lower(), TOKEN)
            if place.header
            else ("query", place.query or "", _QUERY)
            if place.query
            else ("cookie", place.cookie or "", TOKEN)
        )
        here = f"{path}.{index}"
        if (kind, name, (place.scheme or "").lower()) in seen:
            yield error(here, "this place stands here twice", "Remove one of the two.")
        seen.add((kind, name, (place.scheme or "").lower()))
        if pattern.fullmatch(name) is None:
            yield error(f"{here}.{kind}", f"this is no name that a {kind} can have", "Use letters, digits and hyphens.")
        elif kind == "header" and (_FAMILY.fullmatch(name) or name in _NEVER):
            yield error(
                f"{here}.header",
                f"the header {name} cannot hold a credential: it has a meaning of its own",
                "Use authorization or x-api-key.",
            )
        if place.scheme is not None and TOKEN.fullmatch(place.scheme) is None:
            yield error(f"{here}.scheme", "a scheme is one word, without the space behind it", "Write it like Bearer.")


def _paths(settings: Settings) -> Iterator[Finding]:
    seen: set[tuple[str, str]] = set()
    for index, rule in enumerate(settings.paths):
        path = f"paths.{index}"
        prefix = rule.prefix
        if not prefix.startswith("/"):
            yield error(f"{path}.prefix", "a prefix begins with a slash", "Write it like /health or /v1/.")
        elif _PREFIX.fullmatch(prefix) is None or set(prefix) & _PREFIX_UNSAFE or "//" in prefix or {".", ".."} & set(prefix.split("/")):
            yield error(
                f"{path}.prefix", "a prefix is a plain path: no escapes, query, empty or dotted segments", "Write it like /health or /v1/."
            )
        for number, method in enumerate(rule.methods):
            if TOKEN.fullmatch(method) is None or method != method.upper() or method == "CONNECT":
                yield error(
                    f"{path}.methods.{number}", "methods are upper-case HTTP methods, without CONNECT", "Write them like [GET, POST]."
                )
            if (prefix, method) in seen:
                yield error(path, "this prefix is listed with this method already", "Remove one of the two.")
            seen.add((prefix, method))
        if prefix == "/" and set(rule.methods) - {"OPTIONS", "HEAD"}:
            yield warning(
                path,
                "every path of the model server passes here, its admin paths included",
                "List the prefixes that are meant.",
                f"{path}.methods",
            )


def _policies(settings: Settings) -> Iterator[Finding]:
    seen: set[str] = set()
    for index, policy in enumerate(settings.policies):
        path = f"policies.{index}"
        if VISIBLE.fullmatch(policy.name) is None:
            yield error(
                f"{path}.name", "a policy's name is visible ASCII without spaces, at most 256 characters", "Write it like no-long-answers."
            )
        if policy.name in seen:
            yield error(f"{path}.name", f"two policies are named `{policy.name}`", "Rename one: the audit trail names them.")
        seen.add(policy.name)
        if _CODE.fullmatch(policy.deny.code) is None:
            yield error(f"{path}.deny.code", "a code is lower-case letters, digits and underscores", "Write it like output_too_long.")
        if len(policy.deny.message) > 1000:
            yield error(f"{path}.deny.message", "a message has at most 1000 characters", "Shorten it.")
