"""The batch front with an empty handler: what any service on this transport costs at least.

Decoded, as a servicer of generated code sees it: a CheckRequest comes in and a CheckResponse goes out, both as messages; `--raw`: bytes.
`--bytes N`: the answer is that long, as a real one is.
"""

from __future__ import annotations

import signal
import sys

from envoy.service.auth.v3 import external_auth_pb2
from pygrpc_native import EVENT_CALL, NativeGrpcFront

CHECK = "/envoy.service.auth.v3.Authorization/Check"


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
            if decoded:
                parse(payload)
                front.respond(call, answer.SerializeToString())
            else:
                front.respond(call, constant)


main()
