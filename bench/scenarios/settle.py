"""What do a Check and its settlement cost together?"""

from __future__ import annotations

from bench import load
from bench.context import Context, Section
from bench.requests import check_request


def run(context: Context) -> Section:
    runs: dict[str, list[load.Load]] = {"empty handler": [], "Check alone": [], "Check and settlement": []}
    with context.servers() as stack:
        front = context.python(stack, "empty-front", "empty_front")
        service = context.service(stack, "settle")
        calls = [check_request(key) for key in service.keys]
        load.grpc(service.grpc, calls, cpu=service.server.cpu, seconds=0.5, settled=service.settlement())
        for number in range(context.rounds):
            context.say(f"settle: round {number + 1} of {context.rounds}")
            cpu, seconds = service.server.cpu, context.seconds
            runs["empty handler"].append(load.grpc(front.port, calls, cpu=front.cpu, seconds=seconds))
            runs["Check alone"].append(load.grpc(service.grpc, calls, cpu=cpu, seconds=seconds))
            runs["Check and settlement"].append(load.grpc(service.grpc, calls, cpu=cpu, seconds=seconds, settled=service.settlement()))
        settlements, forged = service.metric("slm_settlements_total"), service.metric("slm_access_log_unmatched_total")
    middle = {name: load.middle(of) for name, of in runs.items()}
    return Section(
        title="A Check and its settlement",
        method=(
            f"As above; every allow's hold comes back in the access log, {load.BATCH} entries in a message on a stream of the same connection, each with usage. "
            "The CPU is counted until nothing that came back is unsettled, so the finished audit events are in it."
        ),
        columns=("", "requests/s", "p50 ms", "p99 ms", "CPU µs per request"),
        rows=[(name, f"{one.rate:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.cpu:.1f}") for name, one in middle.items()],
        notes=[f"Settled: {settlements:,.0f} calls; log entries that matched none: {forged:,.0f}."],
    )
