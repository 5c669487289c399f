"""`slm-authz audit tail|query`: what happened, from the audit files."""

from __future__ import annotations

import argparse
from typing import Any

from slm_authz.cli.main import add_common, config_path

HELP = "Follow or search the audit trail: one event per decided call."
EXAMPLES = """\
  slm-authz audit tail
  slm-authz audit query --since 1h --client acme --outcome deny
  slm-authz audit query --decision 0199c3f1a2b44c1d9e8f7a6b5c4d3e2f --output json
"""
_COLUMNS = (
    "time",
    "event",
    "outcome",
    "reason",
    "status",
    "client",
    "model",
    "input_tokens",
    "output_tokens",
    "usage_source",
    "cost",
    "limit",
    "decision_id",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """tail, query."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="tail|query")
    raw = argparse.RawDescriptionHelpFormatter
    example = "example:\n  slm-authz audit tail --output json"
    tail = actions.add_parser("tail", help="follow new events", description="Follow new events.", epilog=example, formatter_class=raw)
    example = "example:\n  slm-authz audit query --since 1h --reason unknown_key"
    query = actions.add_parser("query", help="search", description="Search events, oldest first.", epilog=example, formatter_class=raw)
    for action in (tail, query):
        add_common(action)
        action.add_argument("--client", metavar="C")
        action.add_argument("--outcome", choices=("allow", "deny", "error"))
        action.add_argument("--reason", metavar="R")
    query.add_argument("--since", metavar="1h", help="how far back")
    query.add_argument("--decision", metavar="ID", help="the event of one decision")


def run(args: argparse.Namespace) -> int:
    """0; 1 where --decision finds nothing."""
    import os
    import sys
    import time

    from slm_authz.audit.finish import time_of
    from slm_authz.audit.query import Filter, Follower, events
    from slm_authz.cli.output import json_line, table
    from slm_authz.errors import UsageError
    from slm_authz.settings.load import load
    from slm_authz.settings.schema import FileSink
    from slm_authz.units import parse_duration

    settings = load(config_path(args), os.environ).settings
    directory = next((sink.file for sink in settings.audit.sinks if isinstance(sink, FileSink)), None)
    if directory is None:
        raise UsageError("This configuration writes no audit files.", "Add {file: ./var/audit} to audit.sinks.")
    since = None
    if getattr(args, "since", None) is not None:
        try:
            since = time_of(time.time_ns() // 1_000_000 - parse_duration(args.since))
        except ValueError as error:
            raise UsageError(f"--since: {error}.") from None
    wanted = Filter(since, args.client, args.outcome, args.reason, getattr(args, "decision", None))
    if args.action == "tail":
        follower = Follower(directory)
        while True:
            for event in follower.poll():
                if wanted.matches(event):
                    _line(args, event)
            sys.stdout.flush()
            time.sleep(0.2)
    corrupt: list[str] = []
    found: list[dict[str, Any]] = []
    count = 0
    for event in events(directory, wanted, lambda path, number: corrupt.append(f"{path}:{number}")):
        count += 1
        if args.output == "json":
            json_line(event)
        else:
            found.append(event)
    if args.output == "table":
        table(_COLUMNS, [[event.get(name) for name in _COLUMNS] for event in found])
    if corrupt:
        print(f"slm-authz: {len(corrupt)} lines cannot be read, the first at {corrupt[0]}", file=sys.stderr)
    return 1 if wanted.decision is not None and not count else 0


def _line(args: argparse.Namespace, event: dict[str, Any]) -> None:
    from slm_authz.cli.output import cell, json_line, paint

    if args.output == "json":
        json_line(event)
        return
    colour = {"allow": "green", "deny": "yellow"}.get(str(event.get("outcome")), "red")
    rest = "  ".join(cell(event.get(name)) for name in _COLUMNS[3:])
    print(f"{event.get('time')}  {paint(cell(event.get('outcome')), colour)}  {rest}")
