"""The batch front with an empty handler: what any service on this transport costs at least.

Decoded, as a servicer of generated code sees it: a CheckRequest comes in and a CheckResponse goes out, both as messages; `--raw`: bytes.
`--bytes N`: the answer is that long, as a real one is. `--built`: what any servicer does that decides nothing, but reads the headers and
builds an answer like ours with protobuf's messages.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2
from pygrpc_native import EVENT_CALL, NativeGrpcFront

TO_MODEL = ("client", "tier", "key-id", "model", "decision-id")
TO_CLIENT = ("decision-id", "limit-requests", "remaining-requests", "reset-requests", "limit-tokens", "remaining-tokens", "reset-tokens")
REMOVED = ("authorization", "accept-encoding", "x-slm-tenant", "x-slm-scopes", "x-ai-eg-model")
MEMBERS = ("client", "tier", "key_id", "model", "api", "decision_id", "hold")
CHECK = "/envoy.service.auth.v3.Authorization/Check"


def built(payload: bytes) -> bytes:
    """An allow with the request's own id in every place."""
    http = external_auth_pb2.CheckRequest.FromString(payload).attributes.request.http
    headers = dict(http.headers)
    value = f"{http.method} {http.path} {len(http.body)} {headers['x-request-id']}"
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = 0
    for names, options in ((TO_MODEL, answer.ok_response.headers), (TO_CLIENT, answer.ok_response.response_headers_to_add)):
        for name in names:
            option: Any = options.add()
            option.header.key, option.header.value = f"x-slm-{name}", value
            option.append.value, option.append_action = False, 2
    answer.ok_response.headers_to_remove.extend(REMOVED)
    answer.dynamic_metadata.update({"slm": dict.fromkeys(MEMBERS, value)})
    return bytes(answer.SerializeToString())


def main() -> None:
    front = NativeGrpcFront("127.0.0.1:0", [(CHECK, False)], io_threads=1)
    answer = external_auth_pb2.CheckResponse()
    answer.status.code = 0
    answer.ok_response.SetInParent()
    if "--bytes" in sys.argv:
        padding = answer.ok_response.headers.add()
        padding.header.key = "x-padding"
        padding.header.value = "x" * (int(sys.argv[sys.argv.index("--bytes") + 1]) - 30)
    constant, parse = answer.SerializeToString(), external_auth_pb2.CheckRequest.FromString
    decoded = "--raw" not in sys.argv
    signal.signal(signal.SIGTERM, lambda *_: front.close())
    front.start()
    print("ready", front.bound_port, flush=True)
    while (events := front.recv_batch(64, 200)) is not None:
        for kind, call, _, payload, _ in events:
            if kind != EVENT_CALL:
                continue
            if "--built" in sys.argv:
                front.respond(call, built(payload))
            elif decoded:
                parse(payload)
                front.respond(call, answer.SerializeToString())
            else:
                front.respond(call, constant)


main()
