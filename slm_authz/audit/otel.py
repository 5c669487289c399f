"""Audit events as OTLP spans named `slm.authz`, in the caller's trace. The only place that imports OpenTelemetry.

Export is best-effort and never holds up the files: the SDK's batch processor has its own bounded queue and thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context

from slm_authz.audit.event import AuditEvent, CallFacts
from slm_authz.audit.finish import trace_parent
from slm_authz.quota.outcome import Outcome

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


class SpanExport:
    """Builds and exports spans. `endpoint` None: OpenTelemetry's own environment variables decide."""

    def __init__(self, endpoint: str | None, ratio: float, version: str, exporter: SpanExporter | None = None) -> None:
        resource = Resource.create({"service.name": "slm-authz", "service.version": version})
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False)
        if exporter is None:
            insecure = endpoint is None or not endpoint.startswith("https://")
            exporter = OTLPSpanExporter(endpoint=endpoint, insecure=insecure)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("slm_authz", version)

    def export(self, finished: Sequence[tuple[AuditEvent, CallFacts, Outcome]]) -> None:
        """One span per decision or correction; it lasts as long as the Check did."""
        for event, facts, outcome in finished:
            if event.event == "summary":
                continue
            started = facts.time * 1_000_000
            latency = outcome.latency_us if outcome.latency_us is not None else facts.latency_us
            span = self._tracer.start_span(
                "slm.authz",
                context=_parent(facts.traceparent),
                kind=SpanKind.SERVER,
                attributes=attributes(event, facts, outcome),
                start_time=started,
            )
            if event.outcome == "error":
                span.set_status(Status(StatusCode.ERROR, event.reason))
            span.end(started + latency * 1000)

    def close(self) -> None:
        """Send what is queued, within a few seconds."""
        self._provider.force_flush(3000)
        self._provider.shutdown()


def _parent(traceparent: str | None) -> Context | None:
    parent = trace_parent(traceparent)
    if parent is None:
        return Context()
    trace_id, span_id, flags = parent
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(flags))
    return set_span_in_context(NonRecordingSpan(context), Context())
