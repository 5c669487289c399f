"""The results as a page: docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Sequence

from bench.context import Section

HEAD = """\
# Benchmarks

<!-- Written by `python -m bench`. Do not edit. -->

Measured in one run by `{command}` on {date}. Read the figures as ratios inside this run: another machine, or this one on another day, has others.

**Method.** The server that is measured is pinned to one core (sched_setaffinity), the load to another. The load is a closed loop in Python: raw HTTP/2
frames on one connection (`bench/http2.py`), a new call for each that is answered. CPU is what the kernel counts for the server's process, all threads
together (/proc/PID/stat), divided by the answered calls. Runs alternate, so that whatever else the machine does meets all servers alike; figures are
medians over the rounds.
"""


def render(sections: Sequence[Section], environment: Sequence[tuple[str, str]], command: str, date: str) -> str:
    """The whole page."""
    parts = [HEAD.format(command=command, date=date)]
    goals = [goal for section in sections for goal in section.goals]
    if goals:
        rows = [(what, measured, "reached" if reached else "**not reached**") for what, reached, measured in goals]
        parts.append("## Goals\n\n" + table(("goal", "measured", ""), rows))
    parts.extend(_section(section) for section in sections)
    parts.append("## Environment\n\n" + table(("", ""), environment))
    return "\n".join(parts)


def _section(section: Section) -> str:
    notes = "".join(f"\n{note}\n" for note in section.notes)
    return f"## {section.title}\n\n{section.method}\n\n{table(section.columns, section.rows)}{notes}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---" if number == 0 else "--:" for number in range(len(columns))], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
