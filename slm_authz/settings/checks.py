"""What needs two places of the file at once. Enters: a valid tree, names of installed plugins. Leaves: findings without lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from slm_authz.settings.access_checks import check_access
from slm_authz.settings.address import Address, parse_address
from slm_authz.settings.limit_checks import check_limits
from slm_authz.settings.model_checks import check_models
from slm_authz.settings.problems import Finding, error, warning
from slm_authz.settings.schema import FileSink, OtlpSink, PluginSink, Settings
from slm_authz.settings.words import closest

_ENDPOINT: Final = re.compile(r"https?://[^\s/@]+(/[^\s@]*)?")
_HOST: Final = re.compile(r"[0-9A-Za-z.:\[\]-]{1,253}")
_DAY_MS: Final = 86_400_000
_MESSAGE_BYTES: Final = (1 << 30, 4 << 30)
"""What gRPC takes in one message with room to spare, and what Envoy's 32-bit buffer limits can say."""


class Plugins(msgspec.Struct, frozen=True):
    """Names of installed entry points."""

    identity: frozenset[str] = frozenset()
    audit_sink: frozenset[str] = frozenset()


def check(settings: Settings, plugins: Plugins) -> Iterator[Finding]:
    """All findings, section by section."""
    yield from _listen(settings)
    yield from _sizes(settings)
    yield from _times(settings)
    yield from _store(settings)
    yield from check_access(settings, plugins.identity)
    yield from check_models(settings)
    yield from check_limits(settings)
    yield from _audit(settings, plugins.audit_sink)


def _listen(settings: Settings) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for name in ("grpc", "admin", "health"):
        path = f"listen.{name}"
        try:
            address = parse_address(getattr(settings.listen, name))
        except ValueError as wrong:
            yield error(path, f"`{name}`: {wrong}", "Correct the address.")
            continue
        if name != "health" and not address.local:
            yield error(
                path,
                f"listen.{name} beyond loopback and Unix sockets is not built in this release",
                "Use 127.0.0.1, [::1] or unix:PATH, beside Envoy.",
            )
        if _fixed(address) and address.target in seen:
            yield error(
                path,
                f"{name} and {seen[address.target]} listen on the same address",
                "Give each its own.",
                f"listen.{seen[address.target]}",
            )
        seen.setdefault(address.target, name)
    for index, host in enumerate(settings.listen.admin_hosts):
        if _HOST.fullmatch(host) is None:
            yield error(
                f"listen.admin_hosts.{index}", "a host is a name or an address, without scheme and path", "Write it like localhost."
            )


def _fixed(address: Address) -> bool:
    return address.path is not None or address.port != 0


def _sizes(settings: Settings) -> Iterator[Finding]:
    body, answer = _MESSAGE_BYTES
    if not 1024 <= settings.listen.max_body <= body:
        yield error("listen.max_body", "max_body must be from 1KiB to 1GiB", "4MiB is usual.")
    if not 1024 <= settings.listen.max_answer < answer:
        yield error("listen.max_answer", "max_answer must be from 1KiB to below 4GiB", "32MiB is usual.")


def _times(settings: Settings) -> Iterator[Finding]:
    metering, listen = settings.metering, settings.listen
    if not 1000 <= metering.lease <= 7 * _DAY_MS:
        yield error("metering.lease", "the lease must be from 1s to 7d", "It must outlive the longest call; 15m is usual.")
    elif metering.settle_wait >= metering.lease:
        yield error(
            "metering.settle_wait", "settle_wait must be shorter than the lease", "Use a few hundred milliseconds.", "metering.lease"
        )
    elif metering.settle_wait > 10_000:
        yield warning("metering.settle_wait", "a call may wait longer than any gateway waits for its authorization", "250ms is usual.")
    if listen.drain > 3_600_000:
        yield error("listen.drain", "drain must be at most 1h", "10s is usual.")
    try:
        ZoneInfo(settings.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a name that is a directory of the database, like `Europe`
        yield error("time_zone", "this time zone is not known", "Use a name like UTC or Europe/Berlin.")


def _store(settings: Settings) -> Iterator[Finding]:
    url = settings.store.url
    file = url.removeprefix("sqlite:///")
    if not url.startswith("sqlite:///") or not file or file.endswith("/") or set(file) & set("?#") or not file.isprintable():
        yield error("store.url", "the store's URL is not one that this release knows", "Use sqlite:///./var/slm-authz.db.")
    elif file.startswith(":"):
        yield error(
            "store.url", "the embedded store needs a file: keys and counters outlive the process", "Use sqlite:///./var/slm-authz.db."
        )
    if "key_max_age" in settings.store.model_fields_set:
        message = "key_max_age has no effect with the embedded store: a change of a key is in force at once"
        yield warning("store.key_max_age", message, "Remove key_max_age.", "store.url")
    if settings.workers > 1:
        message = "more than one worker is not built in this release: it needs a shared store"
        yield error("workers", message, "Use workers: 1 with the embedded store.", "store.url")
    address = settings.client_address
    if address.source == "xff" and address.trusted_hops is None:
        fix = "Say how many proxies of yours stand before this gateway, such as trusted_hops: 1."
        yield error("client_address", "from: xff needs trusted_hops", fix)
    if address.source == "peer" and address.trusted_hops is not None:
        yield error(
            "client_address.trusted_hops", "trusted_hops belongs to from: xff", "Remove it, or set from: xff.", "client_address.from"
        )


def _audit(settings: Settings, installed: frozenset[str]) -> Iterator[Finding]:
    if not settings.audit.sinks:
        if settings.audit.on_failure == "deny":
            yield error("audit.sinks", "on_failure: deny needs an audit sink", "Add {file: ./var/audit}, or on_failure: drop.")
        else:
            yield warning("audit.sinks", "no audit sink is configured: nothing is recorded", "Add {file: ./var/audit}.")
    seen: set[str] = set()
    for index, sink in enumerate(settings.audit.sinks):
        path = f"audit.sinks.{index}"
        if isinstance(sink, PluginSink):
            yield from _plugin_sink(path, sink, installed)
        elif isinstance(sink, FileSink):
            yield from _file_sink(path, sink)
        name = f"file {sink.file}" if isinstance(sink, FileSink) else "otlp" if isinstance(sink, OtlpSink) else sink.kind
        if name in seen:
            yield error(path, "this sink stands here twice: every event would be recorded twice", "Remove one of the two.")
        seen.add(name)
    endpoint = settings.telemetry.otlp_endpoint
    if endpoint is not None and _ENDPOINT.fullmatch(endpoint) is None:
        yield error(
            "telemetry.otlp_endpoint",
            "the endpoint is not an http:// or https:// URL without credentials",
            "Write it like http://127.0.0.1:4317.",
        )


def _plugin_sink(path: str, sink: PluginSink, installed: frozenset[str]) -> Iterator[Finding]:
    names = list(sink.model_extra or ())
    known = sorted({"file", "otlp", *installed})
    if len(names) != 1:
        yield error(path, "name exactly one sink per list entry", f"Known: {', '.join(known)}. Others come as installed plugins.")
    elif names[0] not in installed:
        meant = closest(names[0], known)
        fix = f"Did you mean `{meant}`?" if meant else f"Known: {', '.join(known)}. Others come as installed plugins."
        yield error(path, f"there is no audit sink `{names[0]}`", fix)


def _file_sink(path: str, sink: FileSink) -> Iterator[Finding]:
    if sink.rotate < 1024:
        yield error(f"{path}.rotate", "rotate must be at least 1KiB", "256MiB is usual.")
    elif sink.max < sink.rotate:
        yield error(
            f"{path}.max", "max is smaller than rotate: no file would ever be kept", "Raise max, or lower rotate.", f"{path}.rotate"
        )
    if sink.keep < 60_000:
        yield error(f"{path}.keep", "keep must be at least 1m", "30d is usual.")
