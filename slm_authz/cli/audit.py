"""`slm-authz audit tail|query`: what happened, from the audit files. Works beside a running service and without one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_authz.cli.main import add_common, config_path

if TYPE_CHECKING:
    from slm_authz.audit.query import Filter

HELP = "Follow or search the audit trail: one event per decided call."
EXAMPLES = """\
  slm-authz audit tail
  slm-authz audit query --since 1h --client acme --outcome deny
  slm-authz audit query --decision 0199c3f1a2b44c1d9e8f7a6b5c4d3e2f --output json
"""
_COLUMNS = {
    "time": 24, "event": 10, "outcome": 7, "reason": 17, "status": 6, "client": 16, "model": 16, "input_tokens": 12, "output_tokens": 13,
    "usage_source": 12, "cost": 12, "limit": 32, "decision_id": 32,
}  # fmt: skip
"""Columns and their least widths: lines are printed as they are found, so no width is known beforehand."""
_NUMBERS = frozenset({"status", "input_tokens", "output_tokens", "cost"})
_POLL_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """tail, query."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="tail|query")
    raw = argparse.RawDescriptionHelpFormatter
    example = "example:\n  slm-authz audit tail -n 20 --output json"
    tail = actions.add_parser("tail", help="follow new events", description="Follow new events.", epilog=example, formatter_class=raw)
    example = "example:\n  slm-authz audit query --since 1h --reason unknown_key"
    line = "Search events. They are shown in the order in which they were written."
    query = actions.add_parser("query", help="search", description=line, epilog=example, formatter_class=raw)
    for action in (tail, query):
        add_common(action)
        action.add_argument("--client", metavar="C", help="only events of this client")
        action.add_argument("--outcome", choices=("allow", "deny", "error"), help="only events that ended so")
        action.add_argument("--reason", metavar="R", help="a reason code, like rate_limited")
    tail.add_argument("-n", metavar="N", dest="lines", type=_count, default=10, help="begin with the last N events (default: 10)")
    query.add_argument("--since", metavar="1h", help="how far back")
    query.add_argument("--decision", metavar="ID", help="the events of one decision")
    query.add_argument("--limit", metavar="N", type=_count, help="only the last N that were written")


def _count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= 1_000_000:
        raise argparse.ArgumentTypeError("a number from 0 to 1000000")
    return count


def run(args: argparse.Namespace) -> int:
    """0; 1 where --decision finds nothing; 2: no such reason, or no files are written; 3 where they cannot be read."""
    import os
    import sys

    from slm_authz.audit.query import Filter
    from slm_authz.compose import load_all
    from slm_authz.errors import UsageError
    from slm_authz.reason import Reason
    from slm_authz.settings.schema import FileSink

    if args.reason is not None and args.reason not in set(Reason):
        raise UsageError(f"There is no reason {args.reason!r}.", f"Reason codes: {', '.join(Reason)}.")
    settings = load_all(config_path(args), os.environ).settings
    directory = next((sink.file for sink in settings.audit.sinks if isinstance(sink, FileSink)), None)
    if directory is None:
        raise UsageError("This configuration writes no audit files.", "Add {file: ./var/audit} to audit.sinks.")
    if not directory.is_dir():
        print(f"slm-authz: there is no audit trail in {directory} yet", file=sys.stderr)
    corrupt: list[Path] = []
    if args.action == "tail":
        return _tail(args, directory, Filter(None, args.client, args.outcome, args.reason), corrupt)
    return _query(args, directory, Filter(_since(args.since), args.client, args.outcome, args.reason, args.decision), corrupt)


def _since(text: str | None) -> int | None:
    import time

    from slm_authz.errors import UsageError
    from slm_authz.units import parse_duration

    if text is None:
        return None
    try:
        return max(0, time.time_ns() // 1_000_000 - parse_duration(int(text) if text.isascii() and text.isdigit() else text))
    except ValueError as error:
        raise UsageError(f"--since: {error}.") from None


def _query(args: argparse.Namespace, directory: Path, wanted: Filter, corrupt: list[Path]) -> int:
    from slm_authz.audit.query import events, newest

    limit = args.limit
    found = events(directory, wanted, corrupt.append) if limit is None else newest(directory, limit, wanted, corrupt.append)
    count = _print(args, found, heading=True)
    _tell(corrupt)
    return 1 if wanted.decision is not None and not count else 0


def _tail(args: argparse.Namespace, directory: Path, wanted: Filter, corrupt: list[Path]) -> int:
    import time

    from slm_authz.audit.query import Follower, newest

    follower = Follower(directory, corrupt.append)
    last = newest(directory, args.lines, wanted, corrupt.append, follower.start) if follower.start is not None else []
    _print(args, last, heading=True)
    while True:
        _print(args, (event for event in follower.poll() if wanted.matches(event)), heading=False)
        _tell(corrupt)
        corrupt.clear()
        time.sleep(_POLL_S)


def _tell(corrupt: Sequence[Path]) -> None:
    import sys

    if corrupt:
        lines = "1 line" if len(corrupt) == 1 else f"{len(corrupt)} lines"
        print(f"slm-authz: {lines} cannot be read, the first in {corrupt[0]}", file=sys.stderr)


def _print(args: argparse.Namespace, found: Iterable[dict[str, Any]], *, heading: bool) -> int:
    """Print events as they come; how many there were."""
    import sys

    from slm_authz.cli.output import json_line, paint

    if heading and args.output == "table":
        print(paint(_row([name.upper() for name in _COLUMNS]), "bold"))
    count = 0
    for event in found:
        count += 1
        if args.output == "json":
            json_line(event)
        else:
            colour = {"allow": "green", "deny": "yellow"}.get(str(event.get("outcome")), "red")
            line = _row([event.get(name) for name in _COLUMNS])
            print(line.replace(f"  {event.get('outcome')}", "  " + paint(str(event.get("outcome")), colour), 1))
    if sys.stdout is not None:
        sys.stdout.flush()
    return count


def _row(values: Sequence[object]) -> str:
    from slm_authz.cli.output import cell

    cells = (
        cell(value).rjust(width) if name in _NUMBERS else cell(value).ljust(width)
        for (name, width), value in zip(_COLUMNS.items(), values, strict=True)
    )
    return "  ".join(cells).rstrip()
