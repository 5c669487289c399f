"""What does a full Check cost, beside a server that decides nothing?"""

from __future__ import annotations

from bench import load
from bench.context import Context, Section
from bench.requests import check_request

CPU_GOAL, RATE_GOAL = 2.2, 6.0
ANSWER_BYTES = 1700
"""Of an allow: six headers for the model server, nine for the client, names to remove, metadata with the hold."""


def run(context: Context) -> Section:
    with context.servers() as stack:
        raw = context.python(stack, "raw-front", "empty_front", "--raw")
        front = context.python(stack, "empty-front", "empty_front")
        long = context.python(stack, "long-front", "empty_front", "--bytes", str(ANSWER_BYTES))
        built = context.python(stack, "built-front", "empty_front", "--built")
        aio = context.python(stack, "empty-aio", "empty_aio")
        service = context.service(stack, "check")
        calls = [check_request(key) for key in service.keys]
        targets = {
            "batch front, empty handler, bytes": (raw, raw.port),
            "batch front, empty handler, decoded": (front, front.port),
            "the same, with answers as long as ours": (long, long.port),
            "headers read, an answer like ours built with protobuf, nothing decided": (built, built.port),
            "**full Check**": (service.server, service.grpc),
            "grpc.aio, empty handler": (aio, aio.port),
        }
        runs: dict[str, list[load.Load]] = {name: [] for name in targets}
        for server, port in targets.values():
            load.grpc(port, calls, cpu=server.cpu, seconds=0.5)
        for number in range(context.rounds):
            context.say(f"check: round {number + 1} of {context.rounds}")
            for name, (server, port) in targets.items():
                settled = service.settlement() if server is service.server else None
                runs[name].append(
                    load.grpc(port, calls, cpu=server.cpu, seconds=context.seconds, settled=settled, settle_after=settled is not None)
                )
    middle = {name: load.middle(of) for name, of in runs.items()}
    _, empty, _, servicer, full, grpcio = middle.values()
    ratio = full.cpu / empty.cpu
    faster = full.rate / grpcio.rate
    return Section(
        title="A full Check",
        method=(
            f"A CheckRequest of {len(calls[0])} bytes; 64 calls in flight on one connection; {context.rounds} rounds of {context.seconds:g} s, the "
            "servers in turn, medians. The full Check: key, tier, JSON body, three limits, hold, journal, audit on; every call is allowed. What is "
            "held in a round is settled when the round is over, which is not counted here; a call that is settled within four seconds hardly ever costs "
            "a row of the snapshot."
        ),
        columns=("server", "requests/s", "p50 ms", "p99 ms", "CPU µs per request"),
        rows=[(name, f"{one.rate:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.cpu:.1f}") for name, one in middle.items()],
        notes=[
            f"A full Check costs {full.cpu / servicer.cpu:.2f} × what a handler costs that only reads the headers and builds such an answer.",
            f"Answers that were no allow: {sum(one.refused for one in middle.values())}.",
        ],
        goals=[
            (f"CPU of a full Check within {CPU_GOAL} × the empty handler's", ratio <= CPU_GOAL, f"{ratio:.2f} ×"),
            (f"{RATE_GOAL:g} × the throughput of grpc.aio's empty handler", faster >= RATE_GOAL, f"{faster:.1f} ×"),
        ],
    )
