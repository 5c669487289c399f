"""How keys are told: once with their secret, and ever after without. Enters: records. Leaves: lines, or one JSON document."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def require_reader() -> None:
    """DependencyError where there is no standard output: before a secret is made that nobody would see."""
    import sys

    from slm_authz.errors import DependencyError

    if sys.stdout is None:
        raise DependencyError("Standard output is closed: nobody would see the key.", "Nothing was changed.")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait: between the commit of a secret and the line that shows it, they would lose it without a word."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():  # which alone is ever interrupted
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for missed in came[:1]:
            signal.raise_signal(missed)


def tell(args: argparse.Namespace, record: Any, key: str, now: int, lost: str, fix: str) -> None:
    """A key with its secret, this once. `lost` and `fix`: what to say where it cannot be written."""
    import sys

    from slm_authz.cli.output import json_line, paint
    from slm_authz.cli.streams import Unwritten
    from slm_authz.errors import DependencyError

    public = record.public(now)
    try:
        if args.output == "json":
            json_line({**public, "key": key})
        else:
            print(paint(key, "bold"))
            until = f", valid until {public['expires_at']}" if record.expires_at is not None else ""
            print(f"\nThis is the only time that the key is shown. Id {record.id}, client {record.client}, tier {record.tier}{until}.")
            if record.version > 1:
                print(f"{_earlier(record, now) or 'Earlier secrets are refused from now on'}.")
        sys.stdout.flush()
    except Unwritten as error:  # whatever the reason: a key that nobody knows must not live on unnoticed
        raise DependencyError(f"{lost}: {error}.", fix) from error


def judged(record: Any, now: int) -> str:
    """What a secret is worth, and whether it is its key's current one."""
    from slm_authz.identity.record import rfc3339

    state, of = record.state(now), f"id {record.id}, client {record.client}, tier {record.tier}"
    if record.ends_at is None:
        return f"{'valid' if state == 'active' else 'not valid'}: {state}, {of}"
    if state == "active":
        return f"valid: {state}, {of}; a secret from before a rotation, it ends {rfc3339(record.valid_until)}"
    if state == "expired" and record.ends_at <= now:
        return f"not valid: a secret from before a rotation, whose time has ended; {of}"
    return f"not valid: {state}, {of}; a secret from before a rotation"


def _earlier(record: Any, now: int) -> str | None:
    """Until when the secrets before the current one serve, where any does."""
    from slm_authz.identity.record import rfc3339

    if record.state(now) in ("revoked", "expired"):
        return None
    ends = [(version, min(end, record.expires_at or end)) for version, end in record.former if end > now]
    serving = ", ".join(f"version {version} until {rfc3339(end)}" for version, end in ends)
    return f"Earlier secrets serve on{', once the key is enabled' if record.disabled else ''}: {serving}" if serving else None


def shown(args: argparse.Namespace, records: Sequence[Any], now: int, *, many: bool) -> int:
    """Keys without their secrets: a table for people, stable JSON for programs. Always 0, the exit code."""
    from slm_authz.cli.output import json_line, table

    public = [record.public(now) for record in records]
    if args.output == "json":
        json_line({"data": public, "next_cursor": None} if many else public[0])
        return 0
    if not many:
        table(("member", "value"), [(name, value) for name, value in public[0].items()])
        earlier = _earlier(records[0], now)
        if earlier is not None:
            print(f"{earlier}.")
        return 0
    columns = ("id", "client", "tenant", "tier", "name", "env", "state", "created_at", "expires_at", "last_used_at")
    table(columns, [[item[column] for column in columns] for item in public])
    return 0
