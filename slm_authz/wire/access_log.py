"""Access log service v3: what Envoy reports about the end of calls → `Evidence` (envoy/service/accesslog/v3/als.proto).

Only DownstreamEnd settles and DownstreamPeriodic renews; entries of other types, of TCP, or without a hold of ours are counted. A
malformed entry never ends the stream: the entries behind it are somebody's money.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import grpc
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from slm_authz.quota.evidence import Evidence

log = logging.getLogger(__name__)

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
_DECISION: Final = "envoy.filters.http.ext_authz"
_USAGE: Final = "slm.usage"
_KINDS: Final = {accesslog_pb2.DownstreamEnd: "end", accesslog_pb2.DownstreamPeriodic: "periodic"}
_FLAGS: Final = [field.name for field in accesslog_pb2.ResponseFlags.DESCRIPTOR.fields]
_parse: Final = als_pb2.StreamAccessLogsMessage.FromString
_RESPONSE: Final[bytes] = als_pb2.StreamAccessLogsResponse().SerializeToString()
_MAX_EXACT: Final = 2**53

Settle = Callable[[Sequence[Evidence]], None]
Unmatched = Callable[[int, str, str], None]


def evidence(entry: Any) -> Evidence | None:
    """One HTTPAccessLogEntry; None where it carries no hold or is of a type that does not settle."""
    common = entry.common_properties
    kind = _KINDS.get(common.access_log_type)
    if kind is None:
        return None
    metadata = common.metadata.filter_metadata
    if _DECISION not in metadata:
        return None
    members = metadata[_DECISION].fields
    if "slm" not in members:
        return None
    hold = members["slm"].struct_value.fields["hold"].string_value
    if not hold:
        return None
    tokens_in = tokens_out = None
    if _USAGE in metadata:
        usage = metadata[_USAGE].fields
        tokens_in, tokens_out = _figure(usage, "input_tokens"), _figure(usage, "output_tokens")
    response = entry.response
    flags = _set_flags(common) if common.HasField("response_flags") else ()
    details = response.response_code_details
    return Evidence(
        hold,
        kind,  # type: ignore[arg-type]
        response.response_code.value,
        details,
        bool(flags),
        flags,
        common.HasField("time_to_first_upstream_tx_byte"),
        details == "via_upstream" and not flags,
        max(0, common.upstream_wire_bytes_received - response.upstream_header_bytes_received),
        tokens_in,
        tokens_out,
        common.upstream_request_attempt_count,
        common.duration.seconds * 1000 + common.duration.nanos // 1_000_000,
    )


def _set_flags(common: Any) -> tuple[str, ...]:
    flags = common.response_flags
    return tuple(name for name in _FLAGS if (flags.HasField(name) if name == "unauthorized_details" else getattr(flags, name)))


def _figure(usage: Any, name: str) -> int | None:
    """A figure that Envoy parsed: numbers arrive as doubles. None: absent; -1: there, but not a non-negative integer."""
    if name not in usage:
        return None
    value = usage[name]
    if value.WhichOneof("kind") != "number_value":
        return -1
    number = value.number_value
    return int(number) if 0 <= number < _MAX_EXACT and number == int(number) else -1


class AccessLog:
    """The service, as a handler for grpc.aio. `settle` is called once per message."""

    def __init__(self, settle: Settle, unmatched: Unmatched) -> None:
        self._settle = settle
        self._unmatched = unmatched
        self.streams = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """StreamAccessLogs, bytes in and out."""
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._stream)})

    async def _stream(self, messages: AsyncIterator[bytes], _: Any) -> bytes:
        self.streams += 1
        try:
            async for message in messages:
                try:
                    self.take(message)
                except Exception:
                    log.exception("a message of the access log could not be taken")
        finally:
            self.streams -= 1
        return _RESPONSE

    def take(self, message: bytes) -> None:
        """Account for one message."""
        try:
            parsed = _parse(message)
        except DecodeError:
            self._unmatched(1, "unreadable", "")
            return
        if parsed.HasField("tcp_logs"):
            self._unmatched(len(parsed.tcp_logs.log_entry), "tcp", "")
            return
        entries: list[Evidence] = []
        for entry in parsed.http_logs.log_entry:
            found = evidence(entry)
            if found is not None:
                entries.append(found)
            else:
                self._unmatched(1, "no_hold", entry.response.response_code_details)
        if entries:
            self._settle(entries)
