"""`python -m slm_authz.local.janitor [DIRECTORY]`: cleans up after a parent that was killed.

Enters: lines on stdin, `+PGID` for a process group that was started, `-PGID` for one that was stopped, `.` for an orderly end. Where
stdin ends without that, what is left is stopped and the directory removed: the end of a pipe is what a killed process still tells.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from typing import Final

GRACE_S: Final = 15.0


def groups_left(lines: Iterable[str]) -> set[int] | None:
    """The groups that were started and not stopped when the lines end; None after an orderly end. Unreadable lines are passed over."""
    groups: set[int] = set()
    for line in lines:
        if line.strip() == ".":
            return None
        sign, number = line[:1], line[1:].strip()
        if number.isdecimal() and int(number) > 1:
            (groups.add if sign == "+" else groups.discard)(int(number))
    return groups


def signal_group(group: int, number: int) -> bool:
    """False: there is no such group any more."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def stop_groups(groups: set[int], grace_s: float) -> None:
    """SIGTERM, then SIGKILL for what is left after the grace."""
    alive = {group for group in groups if signal_group(group, signal.SIGTERM)}
    deadline = time.monotonic() + grace_s
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = {group for group in alive if signal_group(group, 0)}
    for group in alive:
        signal_group(group, signal.SIGKILL)


def main() -> int:
    """Wait for the end of the parent, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups = groups_left(sys.stdin)
    if groups is None:
        return 0
    stop_groups(groups, GRACE_S)
    if len(sys.argv) > 1:
        shutil.rmtree(sys.argv[1], ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
