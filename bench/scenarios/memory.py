"""Does memory stay flat over a million requests?"""

from __future__ import annotations

from bench import load
from bench.context import Context, Section
from bench.requests import check_request

GROWTH_GOAL = 0.05
"""Of the resident memory in the middle of the run: what comes before warms caches and fills the allocator's holes."""


def run(context: Context) -> Section:
    count = 30_000 if context.quick else 2_000_000
    marks = [count * tenths // 10 for tenths in range(1, 11)]
    seen: list[tuple[int, int]] = []
    with context.servers() as stack:
        service = context.service(stack, "memory")

        def watch(answered: int) -> None:
            if len(seen) < len(marks) and answered >= marks[len(seen)]:
                seen.append((answered, service.server.memory()))
                context.say(f"memory: {answered:,} of {count:,} requests, {seen[-1][1] / 1024:.0f} MiB")

        calls = [check_request(key) for key in service.keys]
        load.grpc(service.grpc, calls, cpu=service.server.cpu, count=count, settled=service.settlement(), progress=watch)
        seen.append((count, service.server.memory()))
    growth = seen[-1][1] / seen[len(marks) // 2 - 1][1] - 1
    return Section(
        title=f"Memory over {count:,} requests",
        method="Check and settlement as above, from one run; resident memory of the service. The first half warms it, the second is judged.",
        columns=("requests", "MiB"),
        rows=[(f"{answered:,}", f"{memory / 1024:.1f}") for answered, memory in seen],
        notes=["The last row is after all settlements."],
        # A quick run ends before it is warm: it shows figures, and judges nothing.
        goals=[]
        if context.quick
        else [
            (f"memory flat: under {GROWTH_GOAL:.0%} more after another million requests", growth < GROWTH_GOAL, f"{growth * 100:+.1f} %")
        ],
    )
