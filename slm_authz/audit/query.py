"""Reads the audit trail, streaming, in the order in which it was written. Enters: a directory, filters. Leaves: events as mappings.

Only whole lines count; a file that rotation removes meanwhile is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from slm_authz.audit.file_sink import end_of_last_line, trail_files
from slm_authz.audit.finish import time_of
from slm_authz.errors import StoreError

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
_BLOCK: Final = 1 << 16
Event = dict[str, Any]
Position = tuple[Path, int]
"""A file and an offset at which a line ends."""
Corrupt = Callable[[Path], None]
"""Told of each line that cannot be read, by its file."""


class Filter(msgspec.Struct, frozen=True):
    """What to look for; None: anything. `since` is Unix milliseconds, compared with the time of the decision."""

    since: int | None = None
    client: str | None = None
    outcome: str | None = None
    reason: str | None = None
    decision: str | None = None

    def matches(self, event: Event) -> bool:
        """Whether an event is looked for."""
        return (
            (self.since is None or str(event.get("time", "")) >= time_of(self.since))
            and (self.client is None or event.get("client") == self.client)
            and (self.outcome is None or event.get("outcome") == self.outcome)
            and (self.reason is None or event.get("reason") == self.reason)
            and (self.decision is None or event.get("decision_id") == self.decision)
        )


def files(directory: Path) -> list[Path]:
    """The trail's files, oldest first; none where there is no trail yet. StoreError: it cannot be read."""
    try:
        return trail_files(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"The audit directory {directory} cannot be read: {error.strerror}.") from error


def events(directory: Path, wanted: Filter, corrupt: Corrupt) -> Iterator[Event]:
    """All events that are looked for, in the order in which they were written. StoreError: a file cannot be read."""
    for path in files(directory):
        try:
            with path.open("rb") as file:
                # An event is written after its decision: a file that was last written before `since` has none of them.
                if wanted.since is not None and os.fstat(file.fileno()).st_mtime_ns // 1_000_000 < wanted.since:
                    continue
                for line in file:
                    event = _event(line, path, corrupt)
                    if event is not None and wanted.matches(event):
                        yield event
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"The audit file {path} cannot be read: {error.strerror}.") from error


def _event(line: bytes, path: Path, corrupt: Corrupt) -> Event | None:
    if not line.endswith(b"\n"):
        return None  # still being written
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        corrupt(path)
        return None


def newest(directory: Path, count: int, wanted: Filter, corrupt: Corrupt, end: Position | None = None) -> list[Event]:
    """The last `count` events that are looked for, oldest first, read backward from `end` (None: from where the trail ends)."""
    found: list[Event] = []
    for path in reversed(files(directory)):
        if count <= len(found) or (end is not None and path > end[0]):
            continue
        try:
            for line in _lines_backward(path, end[1] if end is not None and path == end[0] else None):
                event = _event(line, path, corrupt)
                if event is not None and wanted.matches(event):
                    found.append(event)
                    if len(found) >= count:
                        break
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"The audit file {path} cannot be read: {error.strerror}.") from error
    return found[::-1]


def _lines_backward(path: Path, end: int | None) -> Iterator[bytes]:
    """Lines from the last to the first; a torn last one comes without its line end."""
    with path.open("rb") as file:
        at, rest = file.seek(0, os.SEEK_END), b""
        at = at if end is None else min(at, end)
        while at:
            step = min(_BLOCK, at)
            at -= step
            file.seek(at)
            rest, *lines = (file.read(step) + rest).splitlines(keepends=True)
            yield from reversed(lines)
        if rest:
            yield rest


class Follower:
    """New lines of the trail, across rotation, from where it ended at construction: `start`, None where there was nothing."""

    def __init__(self, directory: Path, corrupt: Corrupt) -> None:
        self._directory = directory
        self._corrupt = corrupt
        present = files(directory)
        self.start: Position | None = (present[-1], _whole(present[-1])) if present else None
        self._path: Path | None = self.start[0] if self.start is not None else None
        self._offset = self.start[1] if self.start is not None else 0

    def poll(self) -> Iterator[Event]:
        """What came since the last call."""
        for path in files(self._directory):
            if self._path is not None and path < self._path:
                continue
            if path != self._path:
                self._path, self._offset = path, 0
            try:
                with path.open("rb") as file:
                    file.seek(self._offset)
                    for line in file:
                        if not line.endswith(b"\n"):
                            break
                        self._offset += len(line)
                        event = _event(line, path, self._corrupt)
                        if event is not None:
                            yield event
            except FileNotFoundError:
                continue


def _whole(path: Path) -> int:
    """Where the last whole line ends."""
    with path.open("rb") as file:
        return end_of_last_line(file.fileno())
