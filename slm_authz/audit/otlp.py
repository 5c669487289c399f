"""Spans as OTLP bytes: ExportTraceServiceRequest of opentelemetry-proto, encoded by hand. Pure.

Why by hand: xds-protos (Envoy's stubs) and opentelemetry-proto both own the files of `opentelemetry/proto`, and whichever was installed last
decides whether OpenTelemetry's own exporter can be imported at all. Six messages are less than that. Field numbers are those of
opentelemetry/proto/{collector/trace,trace,common,resource}/v1; a test reads the bytes back with protobuf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import pack
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_SERVER: Final = 2
"""SPAN_KIND_SERVER"""
_CODES: Final = {"UNSET": 0, "OK": 1, "ERROR": 2}
_U64: Final = (1 << 64) - 1


def _varint(number: int) -> bytes:
    number &= _U64  # a negative int64 is its two's complement
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode("utf-8", "replace"))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _fixed64(field: int, value: int) -> bytes:
    return _varint(field << 3 | 1) + pack("<Q", value & _U64)


def _any(value: Any) -> bytes:
    """One common.v1.AnyValue."""
    if isinstance(value, bool):
        return _number(2, value)
    if isinstance(value, int):
        return _number(3, value)
    if isinstance(value, float):
        return _varint(4 << 3 | 1) + pack("<d", value)
    if isinstance(value, (list, tuple)):
        return _bytes(5, b"".join(_bytes(1, _any(item)) for item in value))
    return _text(1, str(value))


def _attributes(field: int, attributes: Mapping[str, Any] | None) -> bytes:
    """Repeated common.v1.KeyValue."""
    return b"".join(_bytes(field, _text(1, key) + _bytes(2, _any(value))) for key, value in (attributes or {}).items())


def _span(span: ReadableSpan) -> bytes:
    """One trace.v1.Span."""
    context, parent, status = span.context, span.parent, span.status
    if context is None:
        return b""
    code = _CODES.get(status.status_code.name, 0)
    return b"".join(
        (
            _bytes(1, context.trace_id.to_bytes(16, "big")),
            _bytes(2, context.span_id.to_bytes(8, "big")),
            _bytes(4, parent.span_id.to_bytes(8, "big")) if parent is not None else b"",
            _text(5, span.name),
            _number(6, _SERVER),
            _fixed64(7, span.start_time or 0),
            _fixed64(8, span.end_time or 0),
            _attributes(9, span.attributes),
            _bytes(15, (_text(2, status.description) if status.description else b"") + _number(3, code)) if code else b"",
        )
    )


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """collector.trace.v1.ExportTraceServiceRequest of spans that share the resource and scope of the first."""
    if not spans:
        return b""
    scope = spans[0].instrumentation_scope
    named = _bytes(1, _text(1, scope.name) + _text(2, scope.version or "")) if scope is not None else b""
    scoped = named + b"".join(_bytes(2, _span(span)) for span in spans)
    resource = _bytes(1, _attributes(1, spans[0].resource.attributes))
    return _bytes(1, resource + _bytes(2, scoped))


Send = Callable[[bytes], None]
"""Delivers one request, or raises."""


class OtlpExporter(SpanExporter):
    """OpenTelemetry's exporter protocol over `send`. `lost` counts spans that nobody took; `close` releases the connection."""

    def __init__(self, send: Send, close: Callable[[], None]) -> None:
        self._send = send
        self._close = close
        self.sent = 0
        self.lost = 0
        self.error: str | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """One attempt: spans are best-effort, and the files hold every event."""
        try:
            self._send(encode(spans))
        except Exception as error:  # noqa: BLE001 - whatever the transport raises, it is a lost batch and no more
            self.lost += len(spans)
            self.error = str(error)
            return SpanExportResult.FAILURE
        self.sent += len(spans)
        self.error = None
        return SpanExportResult.SUCCESS

    def lost_so_far(self) -> int:
        """Spans that nobody took."""
        return self.lost

    def shutdown(self) -> None:
        """Release the connection."""
        self._close()


def parse_headers(text: str) -> Iterable[tuple[str, str]]:
    """OTEL_EXPORTER_OTLP_HEADERS: `key=value,key=value`, values percent-encoded (W3C Baggage). What is no pair is left out."""
    from urllib.parse import unquote

    for pair in text.split(","):
        key, sign, value = pair.partition("=")
        if sign and key.strip():
            yield key.strip().lower(), unquote(value.strip())
