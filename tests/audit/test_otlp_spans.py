"""Spans, from an audit event to a collector: encoded by hand, read back with protobuf, sent over real gRPC on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from slm_authz.audit.finish import finish
from slm_authz.audit.otel import Destination, SpanExport, destination
from slm_authz.audit.otlp import OtlpExporter, encode, parse_headers
from slm_authz.errors import ConfigError, DependencyError
from slm_authz.wire.otlp_channel import OtlpChannel


def finished(outcome: Any) -> Any:
    return (*finish(outcome), outcome)


def read(request: bytes) -> tuple[dict[str, Any], Any, list[Any]]:
    """(resource, scope, spans), whichever package's messages are installed: old ones call field 2 by another name."""
    message = trace_service_pb2.ExportTraceServiceRequest.FromString(request)
    (resource_spans,) = message.resource_spans
    scoped = {field.number: found for field, found in resource_spans.ListFields()}[2]
    (scope_spans,) = scoped
    fields = {field.number: found for field, found in scope_spans.ListFields()}
    return plain(resource_spans.resource.attributes), fields[1], list(fields[2])


def plain(attributes: Any) -> dict[str, Any]:
    return {pair.key: value(pair.value) for pair in attributes}


def value(any_value: Any) -> Any:
    kind = any_value.WhichOneof("value")
    found = getattr(any_value, kind)
    return [value(item) for item in found.values] if kind == "array_value" else found


class Collector:
    """A real gRPC server on loopback that takes what an OTLP collector takes."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.metadata: dict[str, Any] = {}
        self.arrived = Event()
        self.refuse = False
        self.server = grpc.server(ThreadPoolExecutor(1))
        rpc = grpc.unary_unary_rpc_method_handler(self._export)
        service = grpc.method_handlers_generic_handler("opentelemetry.proto.collector.trace.v1.TraceService", {"Export": rpc})
        self.server.add_generic_rpc_handlers((service,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _export(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        if self.refuse:
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        self.requests.append(request)
        self.arrived.set()
        return b""


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.server.stop(0).wait()


def spans_of(made: Any, *outcomes: Any, ratio: float = 1.0) -> list[Any]:
    exporter = InMemorySpanExporter()
    export = SpanExport(ratio, "1.2.3", exporter)
    export.export([finished(outcome) for outcome in outcomes])
    export._provider.force_flush()
    found = list(exporter.get_finished_spans())
    export.close()
    return found


def test_a_span_reaches_a_real_collector_in_the_callers_trace(made: Any, collector: Collector) -> None:
    channel = OtlpChannel(f"http://127.0.0.1:{collector.port}", headers=(("x-tenant", "ops"),))
    export = SpanExport(0.0, "1.2.3", OtlpExporter(channel.send, channel.close))
    export.export([finished(made.outcome(1))])
    export.close()
    assert collector.arrived.wait(5)
    resource, scope, (span,) = read(collector.requests[0])
    assert resource["service.name"] == "slm-authz"
    assert resource["service.version"] == "1.2.3"
    assert scope.name == "slm_authz"
    assert collector.metadata["x-tenant"] == "ops"
    assert span.name == "slm.authz"
    assert span.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent_span_id.hex() == "b7ad6b7169203331"
    assert span.kind == 2
    assert span.start_time_unix_nano == made.noon * 1_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_234_000
    named = plain(span.attributes)
    assert named["gen_ai.request.model"] == "phi-4-mini"
    assert named["gen_ai.usage.input_tokens"] == 10
    assert named["gen_ai.usage.output_tokens"] == 5
    assert named["http.request.method"] == "POST"
    assert named["url.path"] == "/v1/chat/completions"
    assert named["http.response.status_code"] == 200
    assert named["client.address"] == "192.0.2.7"
    assert named["slm.decision_id"] == f"{1:032x}"
    assert "error.type" not in named


def test_a_refusal_has_its_reason_as_error_type_and_only_our_failures_are_errors(made: Any) -> None:
    denied, failed = spans_of(
        made,
        made.outcome(1, made.facts(1, outcome="deny", reason="unknown_key", status=401, shadow=("p", "q"))),
        made.outcome(2, made.facts(2, outcome="error", reason="store_unavailable", status=503)),
    )
    _, _, (one, two) = read(encode([denied, failed]))
    assert plain(one.attributes)["error.type"] == "unknown_key"
    assert plain(one.attributes)["slm.shadow"] == ["p", "q"]
    assert one.status.code == 0
    assert plain(two.attributes)["error.type"] == two.status.message == "store_unavailable"
    assert two.status.code == 2


@pytest.mark.parametrize(("flags", "ratio", "kept"), [("01", 0.0, True), ("00", 1.0, False)])
def test_sampling_follows_the_parent_whatever_our_ratio_says(made: Any, flags: str, ratio: float, kept: bool) -> None:
    facts = made.facts(1, traceparent=made.parent[:-2] + flags)
    assert bool(spans_of(made, made.outcome(1, facts), ratio=ratio)) is kept


@pytest.mark.parametrize(
    "parent", [None, "", "garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff-" + "a" * 32 + "-b7ad6b7169203331-01"]
)
def test_without_a_valid_parent_the_ratio_decides_and_a_trace_begins(made: Any, parent: str | None) -> None:
    facts = made.facts(1, traceparent=parent)
    assert spans_of(made, made.outcome(1, facts), ratio=0.0) == []
    (span,) = spans_of(made, made.outcome(1, facts), ratio=1.0)
    assert span.parent is None


def test_only_decisions_are_spans(made: Any) -> None:
    spans = spans_of(made, made.outcome(1, event="correction", input_tokens=-3), made.outcome(2, event="summary", count=9), made.outcome(3))
    assert [span.attributes["slm.decision_id"] for span in spans] == [f"{3:032x}"]


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4),
)


@settings(max_examples=60)
@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10), VALUES, max_size=6), st.integers(0, 2**63)
)
def test_every_attribute_and_time_reads_back_with_protobuf(made: Any, attributes: dict[str, Any], start: int) -> None:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

    context = SpanContext(1 << 100, 1 << 60, is_remote=False)
    span = ReadableSpan("slm.authz", context, attributes=attributes, start_time=start, end_time=start + 1, resource=Resource({}))
    message = trace_service_pb2.ExportTraceServiceRequest.FromString(encode([span]))
    fields = {field.number: found for field, found in message.resource_spans[0].ListFields()}
    one = next(found for field, found in fields[2][0].ListFields() if field.number == 2)[0]
    assert plain(one.attributes) == attributes
    assert (one.start_time_unix_nano, one.end_time_unix_nano) == (start, start + 1)
    assert one.trace_id == (1 << 100).to_bytes(16, "big")


def test_a_collector_that_refuses_or_is_away_costs_spans_that_are_counted_and_nothing_else(made: Any, collector: Collector) -> None:
    channel = OtlpChannel(f"127.0.0.1:{collector.port}", secure=False, timeout_s=2)
    exporter = OtlpExporter(channel.send, channel.close)
    (span,) = spans_of(made, made.outcome(1))
    collector.refuse = True
    assert exporter.export([span]) is SpanExportResult.FAILURE
    assert (exporter.sent, exporter.lost) == (0, 1)
    assert exporter.error is not None
    assert "UNAVAILABLE" in exporter.error
    collector.refuse = False
    assert exporter.export([span, span]) is SpanExportResult.SUCCESS
    assert (exporter.sent, exporter.lost) == (2, 1)
    exporter.shutdown()


def test_closing_does_not_wait_for_a_collector_that_hangs(made: Any) -> None:
    released = Event()

    def hang(request: bytes) -> None:
        released.wait(30)

    export = SpanExport(1.0, "1", OtlpExporter(hang, lambda: None))
    export.export([finished(made.outcome(1))])
    export.close(patience_s=0.1)
    released.set()


def test_the_destination_follows_the_file_then_opentelemetrys_own_variables() -> None:
    assert destination(None, {}) == Destination("http://127.0.0.1:4317", True, None, (), 10.0)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:1",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:2",
        "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=a%20b, broken,c=d=e",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
    }
    assert destination(None, env) == Destination("http://b:2", False, None, (("api-key", "a b"), ("c", "d=e")), 3.0)
    assert destination("http://file:3", env).endpoint == "http://file:3"
    with pytest.raises(ConfigError):
        destination(None, {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"})


@pytest.mark.parametrize("endpoint", ["", "ftp://host:1", "http://"])
def test_what_is_no_endpoint_is_said_at_load(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        OtlpChannel(endpoint)


def test_a_port_that_nobody_listens_on_is_a_dependency_error() -> None:
    channel = OtlpChannel("http://127.0.0.1:1", timeout_s=1)
    with pytest.raises(DependencyError):
        channel.send(b"")
    channel.close()


@given(st.text(max_size=40))
def test_no_header_variable_makes_it_fail(text: str) -> None:
    assert all(name and name == name.strip() for name, _ in parse_headers(text))
