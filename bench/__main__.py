"""`python -m bench`: run the scenarios and write docs/benchmarks.md. A full run exits 1 where a goal is not reached, so that a regression is noticed."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from bench import environment, page
from bench.context import Context, Section
from bench.scenarios import ALL

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute, for a first look; writes no page")
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="NAME", help=f"some of: {', '.join(ALL)}; writes no page")
    parser.add_argument("--page", type=Path, help=f"where to write the results (default: {PAGE.name} after a full run)")
    args = parser.parse_args()
    if not hasattr(os, "sched_setaffinity"):
        print("bench needs Linux: it pins servers to cores and reads /proc.", file=sys.stderr)
        return 3
    described = environment.describe()
    server_core, other_core = environment.cores()
    os.sched_setaffinity(0, {other_core})
    if server_core == other_core:
        print("There is one core: the load shares it with the server, and throughput says little.", file=sys.stderr)
    gc.disable()  # the load generator makes no cycles, and must not pause while it measures
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="slm-authz-bench-") as directory:
        for name in args.only or ALL:
            scenario = importlib.import_module(f"bench.scenarios.{name}")
            own = Path(directory) / name
            own.mkdir()
            context = Context(own, quick=args.quick, server_core=server_core, other_core=other_core, say=say)
            section: Section = scenario.run(context)
            sections.append(section)
            gc.collect()
    command = " ".join(["python -m bench", *(["--quick"] if args.quick else []), *(["--only", *args.only] if args.only else [])])
    text = page.render(sections, described, command, datetime.now(UTC).strftime("%Y-%m-%d"))
    print(text)
    target = args.page or (None if args.quick or args.only else PAGE)
    if target is not None:
        target.write_text(text)
        say(f"written to {target}")
    missed = any(not reached for section in sections for _, reached, _ in section.goals)
    return int(missed and not args.quick)  # a quick run is too short to judge by


sys.exit(main())
