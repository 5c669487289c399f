"""Reads the audit trail: lines of the files in time order, streaming. Enters: a directory, filters. Leaves: events as mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from slm_authz.audit.file_sink import PATTERN

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode
Event = dict[str, Any]


class Filter(msgspec.Struct, frozen=True):
    """What to look for; None: anything. `since` is an RFC 3339 time in UTC."""

    since: str | None = None
    client: str | None = None
    outcome: str | None = None
    reason: str | None = None
    decision: str | None = None

    def matches(self, event: Event) -> bool:
        """Whether an event is looked for."""
        return (
            (self.since is None or str(event.get("time", "")) >= self.since)
            and (self.client is None or event.get("client") == self.client)
            and (self.outcome is None or event.get("outcome") == self.outcome)
            and (self.reason is None or event.get("reason") == self.reason)
            and (self.decision is None or event.get("decision_id") == self.decision)
        )


def files(directory: Path) -> list[Path]:
    """The trail's files, oldest first."""
    return sorted(directory.glob(PATTERN))


def events(directory: Path, wanted: Filter, corrupt: Callable[[Path, int], None]) -> Iterator[Event]:
    """Events in the order in which they were written. `corrupt` is told of a line that cannot be read (file, number)."""
    for path in files(directory):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # still being written
                try:
                    event = _decode(line)
                except msgspec.MsgspecError:
                    corrupt(path, number)
                    continue
                if wanted.matches(event):
                    yield event


class Follower:
    """New lines of the trail, across rotation. `poll` returns what came since the last call."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        newest = files(directory)
        self._path = newest[-1] if newest else None
        self._offset = self._path.stat().st_size if self._path is not None else 0

    def poll(self) -> list[Event]:
        """Whole lines only; a line that cannot be read is passed over."""
        found: list[Event] = []
        for path in files(self._directory):
            if self._path is not None and path < self._path:
                continue
            if path != self._path:
                self._path, self._offset = path, 0
            with path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    try:
                        found.append(_decode(line))
                    except msgspec.MsgspecError:
                        continue
        return found
