"""The one table between HTTP statuses and gRPC codes (google/rpc/code.proto). Envoy reads 0 as allow, whatever else is set."""

from __future__ import annotations

from typing import Final

OK: Final = 0
INVALID_ARGUMENT: Final = 3
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

_CODES: Final = {
    400: INVALID_ARGUMENT,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    413: INVALID_ARGUMENT,
    429: RESOURCE_EXHAUSTED,
    503: UNAVAILABLE,
}


def grpc_code(http_status: int) -> int:
    """The gRPC code of a refusal; never 0. A policy's own 4xx status is PERMISSION_DENIED."""
    return _CODES.get(http_status, PERMISSION_DENIED if http_status < 500 else UNAVAILABLE)
