"""The truth about a call's end, as a gateway's access log reports it: what settlement judges by.

A trimmed `HTTPAccessLogEntry` (envoy/data/accesslog/v3/accesslog.proto) without any protobuf type.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Evidence(msgspec.Struct, gc=False):
    """One access log entry that carries a hold.

    hold:          the signed hold as it came back in dynamic metadata
    kind:          `end` (AccessLogType DownstreamEnd) settles; `periodic` (DownstreamPeriodic) renews the lease
    status:        HTTP status that the client got; 0 if none
    details:       `response_code_details`, such as `via_upstream`
    flagged:       any response flag is set
    flags:         names of the response flags that are set
    reached:       something was sent to an upstream (a first upstream byte was sent or received)
    complete:      `details` is via_upstream and no response flag is set
    bytes:         upstream wire bytes of the response body (never downstream bytes)
    input_tokens, output_tokens: the figures of `slm.usage`; None where absent; anything that is not a
                   non-negative integer arrives as -1 and is invalid
    attempts:      upstream request attempts, 0 if none
    duration_ms:   whole duration as the gateway saw it
    """

    hold: str
    kind: Literal["end", "periodic"] = "end"
    status: int = 0
    details: str = ""
    flagged: bool = False
    flags: tuple[str, ...] = ()
    reached: bool = False
    complete: bool = False
    bytes: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    attempts: int = 0
    duration_ms: int = 0
