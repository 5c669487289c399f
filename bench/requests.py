"""The call that is measured: a CheckRequest of about 1.2 kB, as Envoy sends it for a chat completion, and what an access log says of its end."""

from __future__ import annotations

import json
from functools import lru_cache

from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.auth.v3 import external_auth_pb2

MODEL = "phi-4-mini"
TEXT = "In three sentences, say why a gateway that holds a budget before a call and settles it afterwards cannot be overspent."
BODY = json.dumps(
    {
        "model": MODEL,
        "messages": [{"role": "system", "content": "You answer briefly and in plain words."}, {"role": "user", "content": TEXT}],
        "max_tokens": 200,
        "temperature": 0.2,
        "stream": False,
    }
).encode()


def check_request(key: str) -> bytes:
    """One serialized CheckRequest with that API key."""
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = "10.20.30.40"
    attributes.source.address.socket_address.port_value = 51234
    attributes.destination.address.socket_address.address = "10.0.0.5"
    attributes.destination.address.socket_address.port_value = 10000
    attributes.request.time.FromMilliseconds(1_700_049_600_000)
    http = attributes.request.http
    http.id = "12345678901234567890"
    http.method, http.path, http.host, http.scheme, http.protocol = "POST", "/v1/chat/completions", "models.example.com", "http", "HTTP/1.1"
    http.headers.update(
        {
            ":authority": http.host,
            ":method": http.method,
            ":path": http.path,
            ":scheme": "http",
            "accept": "application/json",
            "authorization": f"Bearer {key}",
            "content-length": str(len(BODY)),
            "content-type": "application/json",
            "user-agent": "OpenAI/Python 2.7.1",
            "x-stainless-arch": "x64",
            "x-stainless-async": "false",
            "x-stainless-lang": "python",
            "x-stainless-os": "Linux",
            "x-stainless-package-version": "2.7.1",
            "x-stainless-retry-count": "0",
            "x-stainless-read-timeout": "600",
            "x-stainless-runtime": "CPython",
            "x-stainless-runtime-version": "3.11.7",
            "x-forwarded-for": "10.20.30.40",
            "x-forwarded-proto": "http",
            "x-envoy-external-address": "10.20.30.40",
            "x-request-id": "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        }
    )
    http.size = len(BODY)
    http.raw_body = BODY
    return bytes(request.SerializeToString())


def hold_of(answer: bytes) -> str | None:
    """The hold in a serialized CheckResponse: the string member `hold` of the Struct `slm`. None: there is none."""
    at = answer.find(b"\x0a\x04hold\x12")
    if at < 0:
        return None
    at = _after_varint(answer, at + 7) + 1  # length of the Value, then the tag of string_value
    end = _after_varint(answer, at)
    size = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(answer[at:end]))
    return answer[end : end + size].decode()


def _after_varint(data: bytes, at: int) -> int:
    while data[at] & 0x80:
        at += 1
    return at + 1


@lru_cache(maxsize=64)
def _entry(size: int) -> tuple[bytes, bytes]:
    """What stands around a hold of that length in an HTTPAccessLogEntry of a whole answer with usage."""
    entry = accesslog_pb2.HTTPAccessLogEntry()
    common = entry.common_properties
    common.access_log_type = accesslog_pb2.DownstreamEnd
    common.time_to_first_upstream_tx_byte.FromMilliseconds(1)
    common.duration.FromMilliseconds(850)
    common.upstream_wire_bytes_received = 1800
    common.upstream_request_attempt_count = 1
    common.metadata.filter_metadata["slm.usage"].update({"input_tokens": 48, "output_tokens": 73})
    marker = "#" * size
    common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update({"slm": {"hold": marker}})
    entry.response.response_code.value = 200
    entry.response.response_code_details = "via_upstream"
    entry.response.upstream_header_bytes_received = 200
    before, _, after = entry.SerializeToString(deterministic=True).partition(marker.encode())
    return before, after


def log_message(holds: list[str]) -> bytes:
    """A StreamAccessLogsMessage {http_logs {log_entry …}} that settles these holds."""
    entries = b""
    for hold in holds:
        before, after = _entry(len(hold))
        entries += _field(1, before + hold.encode() + after)
    return _field(2, entries)


def _field(number: int, payload: bytes) -> bytes:
    size, out = len(payload), bytearray((number << 3 | 2,))
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + payload
