"""Access log service v3: what Envoy reports about the end of calls → `Evidence` (envoy/service/accesslog/v3/als.proto).

Only DownstreamEnd settles and DownstreamPeriodic renews; entries of other types (NotSet of old Envoys too), of TCP, or without a hold of
ours are counted. A malformed entry never ends the stream: the entries behind it are somebody's money.
"""

# ruff: noqa: BLE001 - whatever one entry or message does to us, the next one is taken

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import grpc
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from slm_authz.quota.evidence import Evidence
from slm_authz.wire.complaints import Complaints

SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
LONGEST: Final = 16 << 20
"""A message of more bytes is not read. Envoy's own buffer is 16 KiB (`buffer_size_bytes`)."""

_DECISION: Final = "envoy.filters.http.ext_authz"
_USAGE: Final = "slm.usage"
_KINDS: Final = {accesslog_pb2.DownstreamEnd: "end", accesslog_pb2.DownstreamPeriodic: "periodic"}
_parse: Final = als_pb2.StreamAccessLogsMessage.FromString
_RESPONSE: Final[bytes] = als_pb2.StreamAccessLogsResponse().SerializeToString()
_MOST: Final = 2**31
"""No answer has that many tokens: whoever says so does not know."""

Settle = Callable[[Sequence[Evidence]], None]
Unmatched = Callable[[int, str, str], None]


def evidence(entry: Any) -> Evidence | str:
    """One HTTPAccessLogEntry; or why it settles nothing: `type`, `no_hold` (we were not asked), `refused` (by us: nothing was held)."""
    common = entry.common_properties
    kind = _KINDS.get(common.access_log_type)
    if kind is None:
        return "type"
    nobody = "no_hold" if kind == "end" else "type"
    metadata = common.metadata.filter_metadata
    if _DECISION not in metadata:
        return nobody
    members = metadata[_DECISION].fields
    if "slm" not in members:
        return nobody
    ours = members["slm"].struct_value.fields
    if "hold" not in ours or not (hold := ours["hold"].string_value):
        return "refused" if "decision_id" in ours else nobody
    tokens_in = tokens_out = None
    if _USAGE in metadata:
        usage = metadata[_USAGE].fields
        tokens_in, tokens_out = _figure(usage, "input_tokens"), _figure(usage, "output_tokens")
    response = entry.response
    # Envoy sends the message of flags always, mostly empty. A flag that is newer than our stubs has no name here, but takes room.
    flagged = common.response_flags.ByteSize() > 0
    details = response.response_code_details
    return Evidence(
        hold,
        kind,  # type: ignore[arg-type]
        response.response_code.value,
        details,
        flagged,
        tuple(field.name for field, _ in common.response_flags.ListFields()) if flagged else (),
        # Connect failure, no healthy host and overflow leave both unset: that, not their flags, says that no prompt has left.
        common.HasField("time_to_first_upstream_tx_byte") or common.HasField("time_to_first_upstream_rx_byte"),
        details == "via_upstream" and not flagged,
        # Wire bytes count headers, body and framing of all attempts; headers are told apart, HTTP/1 chunk sizes and HTTP/2 frame
        # headers are not. So this is at least the body, and an estimate from it errs towards the bound.
        max(0, common.upstream_wire_bytes_received - response.upstream_header_bytes_received),
        tokens_in,
        tokens_out,
        common.upstream_request_attempt_count,
        common.duration.seconds * 1000 + common.duration.nanos // 1_000_000,
    )


def _figure(usage: Any, name: str) -> int | None:
    """A figure that Envoy parsed: numbers arrive as doubles. None: absent; -1: there, but not a non-negative integer, or one beyond belief."""
    if name not in usage:
        return None
    value = usage[name]
    if value.WhichOneof("kind") != "number_value":
        return -1
    number = value.number_value
    return int(number) if 0 <= number < _MOST and number == int(number) else -1


class AccessLog:
    """The service, as a handler for grpc.aio. `settle` is called once per message."""

    def __init__(self, settle: Settle, unmatched: Unmatched, complain: Complaints) -> None:
        self._settle = settle
        self._unmatched = unmatched
        self._complain = complain
        self._finished = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """StreamAccessLogs, bytes in and out."""
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._stream)})

    @property
    def finished(self) -> bool:
        """Whether streams are no longer read."""
        return self._finished.is_set()

    def finish(self) -> None:
        """The streams return, so that gateways see an end and not a failure. On the event loop."""
        self._finished.set()

    async def _stream(self, messages: AsyncIterator[bytes], _: Any) -> bytes:
        reader = asyncio.ensure_future(self._read(messages))
        finished = asyncio.ensure_future(self._finished.wait())
        try:
            await asyncio.wait((reader, finished), return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished.cancel()
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
        return _RESPONSE

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            try:
                self.take(message)
            except Exception as error:
                self._complain("a message of the access log could not be taken", error)

    def take(self, message: bytes) -> None:
        """Account for one message."""
        if len(message) > LONGEST:
            self._unmatched(1, "too_long", "")
            return
        try:
            parsed = _parse(message)
        except DecodeError:
            self._unmatched(1, "unreadable", "")
            return
        entries: list[Evidence] = []
        others: Counter[tuple[str, str]] = Counter()
        for entry in parsed.http_logs.log_entry:
            try:
                found = evidence(entry)
            except Exception as error:
                self._complain("an access log entry could not be read", error)
                found = "unreadable"
            if isinstance(found, str):
                others[found, entry.response.response_code_details] += 1
            else:
                entries.append(found)
        if entries:
            self._settle(entries)
        for (reason, details), count in others.items():
            self._unmatched(count, reason, details)
        if parsed.HasField("tcp_logs"):
            self._unmatched(len(parsed.tcp_logs.log_entry), "tcp", "")
