"""The way out for spans: one unary call of opentelemetry.proto.collector.trace.v1.TraceService. Enters: encoded requests. Leaves: nothing.

Knows no message: what goes out is bytes, what comes back is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import grpc

from slm_authz.errors import ConfigError, DependencyError

_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class OtlpChannel:
    """`endpoint` as OpenTelemetry writes it: `http://host:4317` (plain), `https://…` (TLS) or `host:port` (`secure` decides).

    certificate: PEM of the authority, None: the system's; headers: sent with each call; timeout_s: of one call.
    ConfigError: this is no endpoint. Nothing is connected before the first call.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        secure: bool | None = None,
        certificate: bytes | None = None,
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float = 10.0,
    ) -> None:
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        if parts.scheme not in ("", "http", "https", "unix") or not (parts.netloc or parts.path):
            raise ConfigError(f"{endpoint!r} is no OTLP endpoint: write it like http://127.0.0.1:4317.")
        target = f"unix:{parts.path}" if parts.scheme == "unix" else parts.netloc
        encrypted = parts.scheme == "https" or (parts.scheme == "" and bool(secure))
        options = [("grpc.max_send_message_length", -1)]
        if encrypted:
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(certificate), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._export: Any = self._channel.unary_unary(_METHOD, request_serializer=None, response_deserializer=None)
        self._headers = tuple(headers)
        self._timeout_s = timeout_s

    def send(self, request: bytes) -> None:
        """Deliver one ExportTraceServiceRequest. DependencyError: it was not taken."""
        try:
            self._export(request, timeout=self._timeout_s, metadata=self._headers)
        except grpc.RpcError as error:
            code = getattr(error, "code", lambda: None)()
            raise DependencyError(f"The OTLP endpoint did not take spans: {getattr(code, 'name', code)}.") from error

    def close(self) -> None:
        """Release the connection; a call in flight fails."""
        self._channel.close()
