"""What does recording cost?"""

from __future__ import annotations

from bench import load
from bench.context import Context, Section
from bench.requests import check_request

GOAL = 1.1


def run(context: Context) -> Section:
    with context.servers() as stack:
        services = {"audit off": context.service(stack, "unrecorded", audit=False), "audit on": context.service(stack, "recorded")}
        runs: dict[str, list[load.Load]] = {name: [] for name in services}
        calls = {name: [check_request(key) for key in service.keys] for name, service in services.items()}
        for name, service in services.items():
            load.grpc(service.grpc, calls[name], cpu=service.server.cpu, seconds=0.5, settled=service.settlement())
        for number in range(context.rounds):
            context.say(f"audit: round {number + 1} of {context.rounds}")
            for name, service in services.items():
                runs[name].append(
                    load.grpc(service.grpc, calls[name], cpu=service.server.cpu, seconds=context.seconds, settled=service.settlement())
                )
    middle = {name: load.middle(of) for name, of in runs.items()}
    ratio = middle["audit on"].cpu / middle["audit off"].cpu
    return Section(
        title="Audit on and off",
        method=(
            "Check and settlement as above, on two services that differ in one thing: with audit off the finished events are drained from the "
            "outbox into nothing, with audit on they become JSON lines in files."
        ),
        columns=("", "requests/s", "p50 ms", "p99 ms", "CPU µs per request"),
        rows=[(name, f"{one.rate:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.cpu:.1f}") for name, one in middle.items()],
        goals=[("audit costs under a tenth", ratio < GOAL, f"{(ratio - 1) * 100:+.1f} %")],
    )
