"""Audit events as OTLP spans named `slm.authz`, in the caller's trace. Only this module and `otlp` import OpenTelemetry.

Export is best-effort and never holds up the files: the SDK's batch processor has its own bounded queue and thread, and what is lost is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Final

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context

from slm_authz.audit.event import AuditEvent, CallFacts
from slm_authz.audit.finish import trace_parent
from slm_authz.audit.otlp import parse_headers
from slm_authz.errors import ConfigError
from slm_authz.quota.outcome import Outcome

log = logging.getLogger(__name__)

Attribute = str | int | float | bool | tuple[str, ...]

_NAMES: Final = {
    "gen_ai.request.model": "model",
    "gen_ai.usage.input_tokens": "input_tokens",
    "gen_ai.usage.output_tokens": "output_tokens",
    "url.path": "path",
    "http.response.status_code": "status",
    "client.address": "source",
    "slm.decision_id": "decision_id",
    "slm.event": "event",
    "slm.outcome": "outcome",
    "slm.reason": "reason",
    "slm.limit": "limit",
    "slm.shadow": "shadow",
    "slm.identity": "identity",
    "slm.client": "client",
    "slm.tenant": "tenant",
    "slm.tier": "tier",
    "slm.key_id": "key_id",
    "slm.api": "api",
    "slm.usage_source": "usage_source",
    "slm.cost": "cost",
    "slm.currency": "currency",
    "slm.config": "config",
    "slm.attempts": "attempts",
    "slm.count": "count",
}


def attributes(event: AuditEvent, facts: CallFacts, outcome: Outcome) -> dict[str, Attribute]:
    """OpenTelemetry's names where they exist, `slm.*` for ours; what is unknown is left out."""
    named: dict[str, Attribute] = {}
    for name, member in _NAMES.items():
        value = getattr(event, member)
        if value is not None and value not in ((), ""):
            named[name] = value
    if facts.method:
        named["http.request.method"] = facts.method
    if event.outcome != "allow":
        named["error.type"] = event.reason
    if outcome.exceeded:
        named["slm.bound_exceeded"] = True
    return named


class Destination(msgspec.Struct, frozen=True):
    """Where spans go, from the configuration and OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_…; …_TRACES_… go first)."""

    endpoint: str
    secure: bool
    certificate: bytes | None
    headers: tuple[tuple[str, str], ...]
    timeout_s: float


def destination(endpoint: str | None, env: Mapping[str, str]) -> Destination:
    """`endpoint` of the file, else the environment's, else the port that every collector has. ConfigError: a variable cannot be used."""

    def variable(name: str) -> str | None:
        return env.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}") or env.get(f"OTEL_EXPORTER_OTLP_{name}") or None

    certificate, timeout = variable("CERTIFICATE"), variable("TIMEOUT")
    try:
        pem = Path(certificate).read_bytes() if certificate is not None else None
        timeout_s = float(timeout) if timeout is not None else 10.0
    except (OSError, ValueError) as error:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_CERTIFICATE or _TIMEOUT cannot be used: {error}.") from error
    return Destination(
        endpoint or variable("ENDPOINT") or "http://127.0.0.1:4317",
        (variable("INSECURE") or "false").lower() != "true",
        pem,
        tuple(parse_headers(variable("HEADERS") or "")),
        timeout_s,
    )


class SpanExport:
    """Builds spans and hands them to `exporter` in the background. `ratio` of the traces that nobody else has decided about is kept."""

    def __init__(self, ratio: float, version: str, exporter: SpanExporter) -> None:
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before our own name.
        ours = Resource({"service.name": "slm-authz", "service.version": version})
        theirs = Resource.create()
        named = not str(theirs.attributes.get("service.name", "")).startswith("unknown_service")
        resource = ours.merge(theirs) if named else theirs.merge(ours)
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("slm_authz", version)

    def export(self, finished: Sequence[tuple[AuditEvent, CallFacts, Outcome]]) -> None:
        """One span per decided call; it lasts as long as the Check did. Corrections and summaries stand in the files alone."""
        for event, facts, outcome in finished:
            if event.event != "decision":
                continue
            started = facts.time * 1_000_000
            latency = outcome.latency_us if outcome.latency_us is not None else facts.latency_us
            span = self._tracer.start_span("slm.authz", context=_parent(facts.traceparent), kind=SpanKind.SERVER, start_time=started)
            if span.is_recording():
                span.set_attributes(attributes(event, facts, outcome))
                if event.outcome == "error":
                    span.set_status(Status(StatusCode.ERROR, event.reason))
            span.end(started + latency * 1000)

    def close(self, patience_s: float = 3.0) -> None:
        """Send what is queued, for at most `patience_s`: a collector that is away must not hold up the end of the service."""
        thread = Thread(target=self._provider.shutdown, name="slm-authz-spans-end", daemon=True)
        thread.start()
        thread.join(patience_s)
        if thread.is_alive():
            log.warning("the last spans were not taken within %g s and are lost", patience_s)


def _parent(traceparent: str | None) -> Context:
    parent = trace_parent(traceparent)
    if parent is None:
        return Context()
    trace_id, span_id, flags = parent
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(flags))
    return set_span_in_context(NonRecordingSpan(context), Context())
