"""Does latency stay flat from 10 keys to a million?"""

from __future__ import annotations

from bench import load
from bench.context import Context, Section
from bench.requests import check_request

GOAL = 1.25
"""Ratio of p50 that counts as flat: runs of one and the same server differ by as much."""


def run(context: Context) -> Section:
    sizes = (10, 10_000) if context.quick else (10, 1_000_000)
    with context.servers() as stack:
        services = {}
        for size in sizes:
            context.say(f"keys: making a store with {size:,} keys")
            services[size] = context.service(stack, f"keys-{size}", keys=size)
        calls = {size: [check_request(key) for key in service.keys] for size, service in services.items()}
        runs: dict[int, list[load.Load]] = {size: [] for size in sizes}
        for size, service in services.items():
            load.grpc(service.grpc, calls[size], cpu=service.server.cpu, seconds=1.0, in_flight=8, settled=service.settlement())
        for number in range(context.rounds):
            context.say(f"keys: round {number + 1} of {context.rounds}")
            for size, service in services.items():
                runs[size].append(
                    load.grpc(
                        service.grpc,
                        calls[size],
                        cpu=service.server.cpu,
                        seconds=context.seconds,
                        in_flight=8,
                        settled=service.settlement(),
                    )
                )
        memory = {size: service.server.memory() for size, service in services.items()}
    middle = {size: load.middle(of) for size, of in runs.items()}
    ratio = middle[sizes[1]].p50 / middle[sizes[0]].p50
    return Section(
        title="Few keys and many",
        method=(
            "Check and settlement with 8 calls in flight, so that latency is not queueing; up to 1,000 different keys of the store in turn, each used "
            "before, as after a minute of service."
        ),
        columns=("keys", "requests/s", "p50 ms", "p99 ms", "CPU µs per request", "MiB"),
        rows=[
            (f"{size:,}", f"{one.rate:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.cpu:.1f}", f"{memory[size] / 1024:.0f}")
            for size, one in middle.items()
        ],
        goals=[(f"latency flat: p50 within {GOAL} ×", ratio < GOAL, f"{ratio:.2f} ×")],
    )
