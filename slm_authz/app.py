"""Composition root: the one place that knows every room. Enters: a configuration file, the environment. Leaves: a running service."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal

import msgspec

from slm_authz import __version__
from slm_authz.admin import api, health
from slm_authz.admin.server import HttpServer, Site
from slm_authz.admin.token import FILE_NAME, given
from slm_authz.audit import exposition
from slm_authz.audit.file_sink import FileSink
from slm_authz.audit.metrics import Metrics
from slm_authz.audit.recorder import Recorder
from slm_authz.audit.sink import AuditSink
from slm_authz.audit.summary import SummaryGate
from slm_authz.compose import build_rules, caller_of, counter_files, load_all, open_keys
from slm_authz.engine import Engine
from slm_authz.errors import ConfigError, NotFound, SlmAuthzError
from slm_authz.housekeeping import Housekeeper
from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.principal import Principal
from slm_authz.identity.record import KeyRecord
from slm_authz.ids import DecisionIds
from slm_authz.plugins import make
from slm_authz.quota import usage
from slm_authz.quota.hold import Signer
from slm_authz.quota.window import Calendar
from slm_authz.request.address import network
from slm_authz.settings.address import parse_address
from slm_authz.settings.load import SINK_GROUP, Loaded, database
from slm_authz.settings.schema import FileSink as FileSinkSettings
from slm_authz.settings.schema import OtlpSink, Settings
from slm_authz.settings.watch import Watch
from slm_authz.store.journal import FileJournal
from slm_authz.store.keys import SqliteKeyStore
from slm_authz.store.lock import StoreLock
from slm_authz.store.memory import MemoryCounters
from slm_authz.store.secret_file import load_or_make
from slm_authz.wire.server import Server

log = logging.getLogger(__name__)
_FIXED: Final = ("listen", "store", "audit", "telemetry")
"""Sections of the file that a reload cannot change."""
FLUSH_S: Final = 0.3
"""One flush interval of Envoy's access log, and a little: the last entries come after the last calls."""


def now_ms() -> int:
    """The one wall clock of the service."""
    return time.time_ns() // 1_000_000


class Service:
    """Everything that `serve` runs. Construct, `start`, and `stop`; or `run` until a signal comes."""

    def __init__(self, path: Path, env: Mapping[str, str], *, transport: Literal["auto", "native", "grpcio"] = "auto") -> None:
        self._env = env
        self._loaded = load_all(path, env)
        base = database(self._loaded.settings)
        self._lock = StoreLock(base.with_suffix(".lock"))
        try:
            self._build(base, transport)
        except BaseException:
            self._lock.release()
            raise

    def _build(self, base: Path, transport: Literal["auto", "native", "grpcio"]) -> None:
        """All rooms, joined; nothing serves yet."""
        env, settings = self._env, self._loaded.settings
        self.store, pepper = open_keys(base, env)
        self._viewer = SqliteKeyStore(base)
        self.directory = KeyDirectory(self.store, pepper, settings.store.key_max_stale)
        self.signer = Signer(pepper.derive(b"hold"))
        journal = FileJournal(*counter_files(base))
        self.counters = MemoryCounters(self.signer, Calendar(settings.time_zone), settings.metering.lease, journal)
        self.metrics = Metrics({"holds_outstanding": lambda: self.counters.outstanding, "store_up": lambda: float(self._store_up())})
        self.engine = Engine(
            build_rules(self._loaded, self.directory),
            self.counters,
            self.directory,
            self.signer,
            self.metrics,
            SummaryGate(network),
            ticks=time.perf_counter_ns,
            new_id=DecisionIds(os.urandom),
            jitter=random.random,
        )
        self._describe(self._loaded)
        self._spans: Any = None
        self.recorder = self._recorder(settings)
        self.engine.store_up = self._store_up
        self.engine.audit_available = lambda: self.recorder.available
        self.server = Server(
            self.engine,
            parse_address(settings.listen.grpc).target,
            max_body=settings.listen.max_body,
            clock=now_ms,
            ticks=time.perf_counter_ns,
            transport=transport,
        )
        token = given(env) or _made_token(base)
        self.http = HttpServer(
            [
                _site(
                    "admin",
                    settings.listen.admin,
                    api.create_app(token, settings.listen.admin_hosts, self.usage, self.warnings, __version__),
                ),
                _site(
                    "health",
                    settings.listen.health,
                    health.create_app(self.readiness, lambda: exposition.render(self.metrics), exposition.CONTENT_TYPE),
                ),
            ]
        )
        self._watch = Watch((self._loaded.path, *self._loaded.files))
        self._reload_error: str | None = None
        self._restart_due: str | None = None
        self._reload_due = Event()
        self._stopping = Event()
        self.housekeeper = Housekeeper(self, now_ms)

    def _recorder(self, settings: Settings) -> Recorder:
        sinks: list[AuditSink] = []
        for sink in settings.audit.sinks:
            if isinstance(sink, FileSinkSettings):
                sinks.append(FileSink(sink.file, rotate=sink.rotate, keep=sink.keep, max_total=sink.max, clock=now_ms))
            elif isinstance(sink, OtlpSink):
                self._spans, exporter = _span_export(settings, self._env)
                self.metrics.spans_lost = exporter.lost_so_far
            else:
                sinks.append(make(SINK_GROUP, sink.kind, sink.options, AuditSink))
        return Recorder(
            self.counters,
            sinks,
            drop=settings.audit.on_failure == "drop",
            dropped=self.metrics.dropped,
            spans=self._spans.export if self._spans is not None else None,
        )

    # -- life

    def start(self) -> None:
        """Open all doors; ready when this returns."""
        self.recorder.start()
        self.housekeeper.start()
        self.http.start()
        self.server.start()
        self.engine.started = True
        log.info(
            "serving gRPC on %s, health on port %s, configuration %s", self.server.address, self.http.ports["health"], self._loaded.digest
        )

    def stop(self) -> None:
        """Drain as Envoy expects it, flush audit and settlements, close."""
        self.server.drain(self._loaded.settings.listen.drain / 1000, FLUSH_S)
        self.housekeeper.stop()
        self.engine.lapse(now_ms(), last=True)
        self.recorder.stop()
        if self._spans is not None:
            self._spans.close()
        self.http.stop()
        self.counters.close(now_ms())
        self.store.close()
        self._viewer.close()
        self._lock.release()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        signal.signal(signal.SIGHUP, lambda *_: self._reload_due.set())
        self.start()
        while not self._stopping.wait(0.25):
            if self._watch.changed() or self._reload_due.is_set():
                self._reload_due.clear()
                self.reload()
        log.info("stopping: calls are taken for %.1f s more", self._loaded.settings.listen.drain / 1000)
        self.stop()
        return 0

    # -- configuration

    def reload(self) -> bool:
        """Read the file again. A bad one leaves the old one serving, and says so in log, metric and readiness.

        Sections that are fixed at the start stay as they were, whole, until the restart that their change waits for.
        """
        try:
            loaded = load_all(self._loaded.path, self._env)
            changed = [name for name in _FIXED if getattr(loaded.settings, name) != getattr(self._loaded.settings, name)]
            loaded = msgspec.structs.replace(loaded, settings=_kept(loaded.settings, self._loaded.settings))
            rules = build_rules(loaded, self.directory)
        except SlmAuthzError as error:
            problems = error.problems if isinstance(error, ConfigError) else ()
            found = [f"line {problem.line or 1}: {problem.message}. {problem.fix}" for problem in problems if problem.severity == "error"]
            more = f" (and {len(found) - 1} more: `slm-authz config check` names all)" if len(found) > 1 else ""
            self._reload_error = f"the file was refused, the old configuration serves on: {found[0] if found else error}{more}"
            self.metrics.reload_failures_total += 1
            log.error("%s", self._reload_error)
            return False
        self._restart_due = f"changes of {', '.join(changed)} take a restart: what was there at the start is in force" if changed else None
        if self._restart_due is not None:
            log.warning("%s", self._restart_due)
        self.counters.calendar = Calendar(loaded.settings.time_zone)
        self.counters.set_lease(loaded.settings.metering.lease, now_ms())
        self.engine.rules = rules
        self._loaded = loaded
        self._watch = Watch((loaded.path, *loaded.files))
        self._reload_error = None
        self._describe(loaded)
        log.info("configuration %s is in force", loaded.digest)
        return True

    def _describe(self, loaded: Loaded) -> None:
        self.metrics.digest = loaded.digest
        self.metrics.limits = self.engine.rules.quota.names | {policy.name for policy in loaded.settings.policies}

    # -- what others ask

    def _store_up(self) -> bool:
        return self.directory.up and self.counters.healthy

    def warnings(self) -> list[str]:
        """What the operator should know."""
        all_of_them = (self._reload_error, self._restart_due, self.housekeeper.unwired, self.housekeeper.homeless, self._audit_trouble())
        return [text for text in all_of_them if text is not None]

    def _audit_trouble(self) -> str | None:
        return None if self.recorder.available else "an audit sink does not take events; they wait in the store"

    def readiness(self) -> dict[str, Any]:
        """The detail of /readyz: no names of clients, keys or tenants."""
        store = self._store_up()
        refusing = self.engine.rules.deny_without_audit and not self.recorder.available
        return {
            "ready": self.engine.ready and self.server.deciding and not refusing and not self._stopping.is_set(),
            "version": __version__,
            "config": {"digest": self._loaded.digest, "error": self._reload_error, "restart": self._restart_due},
            "store": "ok" if store else "down",
            "audit": self._audit_trouble() or "ok",
            "access_log": self.housekeeper.unwired or "ok",
            "keys": self.housekeeper.homeless or "ok",
        }

    def homeless(self) -> list[str]:
        """Tiers that keys name and the configuration does not have."""
        return Lifecycle(self._viewer, self.directory.pepper, os.urandom).homeless(self._loaded.settings.tiers, now_ms())

    def key_changes(self) -> int:
        """Grows with every change of any key."""
        return self._viewer.change_seq()

    def usage(self, query: usage.UsageQuery) -> Any:
        """Rows of `usage`."""
        rules = self.engine.rules
        life = Lifecycle(self._viewer, self.directory.pepper, os.urandom)
        anonymous = caller_of(self._loaded.settings)

        def callers() -> Iterator[Principal]:
            for record in _records(life, query):
                if record.revoked_at is None:
                    yield record.principal()
            if anonymous is not None and query.client in (None, anonymous.client) and query.key is None:
                yield anonymous

        counters = self.counters
        return usage.rows(
            rules.quota, callers(), counters.keys, counters.states, Calendar(self._loaded.settings.time_zone), query, now_ms()
        )


def _records(life: Lifecycle, query: usage.UsageQuery) -> Iterable[KeyRecord]:
    if query.key is None:
        return life.each(client=query.client, tenant=query.tenant)
    try:
        record = life.show(query.key)
    except NotFound:
        return ()
    return (record,) if query.client in (None, record.client) and query.tenant in (None, record.tenant) else ()


def _site(name: str, text: str, app: Any) -> Site:
    address = parse_address(text)
    return Site(name, app, address.host, address.port, address.path)


def _span_export(settings: Settings, env: Mapping[str, str]) -> tuple[Any, Any]:
    from slm_authz.audit.otel import SpanExport, destination
    from slm_authz.audit.otlp import OtlpExporter
    from slm_authz.wire.otlp_channel import OtlpChannel

    place = destination(settings.telemetry.otlp_endpoint, env)
    channel = OtlpChannel(
        place.endpoint, secure=place.secure, certificate=place.certificate, headers=place.headers, timeout_s=place.timeout_s
    )
    exporter = OtlpExporter(channel.send, channel.close)
    return SpanExport(settings.telemetry.sample_ratio, __version__, exporter), exporter


def _made_token(base: Path) -> str:
    """The admin token beside the store, made once."""
    remedy = "Remove it: a new one is made at the next start."
    return load_or_make(base.with_name(FILE_NAME), lambda: os.urandom(32).hex().encode(), remedy).decode()


def _kept(new: Settings, old: Settings) -> Settings:
    """The new configuration with the sections that a reload cannot change."""
    return new.model_copy(update={name: getattr(old, name) for name in _FIXED})
