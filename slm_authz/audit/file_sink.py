"""Audit events as JSON lines in a private directory: one object per line, rotated by size, bounded by age and total size.

A batch is written whole or not at all: after a short write the file is cut back to its last whole line, and the batch is offered again.
At the start a torn last line, left by a crash, is cut off; its event is still in the outbox.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from slm_authz.audit.event import AuditEvent
from slm_authz.errors import StoreError

_encode: Final = msgspec.json.Encoder().encode
PATTERN: Final = "audit-*.jsonl"
_TAIL: Final = 8 << 20


class FileSink:
    """`rotate` and `max_total` in bytes, `keep` and the clock in milliseconds. Files sort by time."""

    def __init__(self, directory: Path, *, rotate: int, keep: int, max_total: int, clock: Callable[[], int]) -> None:
        self._directory = directory
        self._rotate = rotate
        self._keep = keep
        self._max_total = max_total
        self._clock = clock
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_mode & 0o077:
                raise StoreError(f"The audit directory {directory} is open to others.", f"Run: chmod 700 {directory}")
            self._open(self._newest() or self._fresh())
        except OSError as error:
            raise StoreError(f"The audit directory {directory} cannot be used: {error.strerror}.") from error

    def _newest(self) -> Path | None:
        return max(self._directory.glob(PATTERN), default=None)

    def _fresh(self) -> Path:
        stamp = self._clock()
        return self._directory / f"audit-{stamp:014d}.jsonl"

    def _open(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = _end_of_last_line(self._file)
        os.ftruncate(self._file, self._size)
        os.lseek(self._file, self._size, os.SEEK_SET)

    def recent_ids(self) -> set[str]:
        """Decision ids of decision events in the last lines: after a crash, those are not written again."""
        ids: set[str] = set()
        for path in sorted(self._directory.glob(PATTERN))[-2:]:
            for line in _last_lines(path, _TAIL):
                try:
                    event = msgspec.json.decode(line, type=_Identity)
                except msgspec.MsgspecError:
                    continue
                if event.decision_id is not None:
                    ids.add(f"{event.event} {event.decision_id}")
        return ids

    def write(self, events: Sequence[AuditEvent]) -> None:
        """Append all events, or raise OSError and leave the file as it was."""
        data = b"".join([_encode(event) + b"\n" for event in events])
        if self._size and self._size + len(data) > self._rotate:
            os.close(self._file)
            fresh = self._fresh()
            while fresh <= self._path:
                fresh = fresh.with_name(f"audit-{int(self._path.stem.removeprefix('audit-')) + 1:014d}.jsonl")
            self._open(fresh)
            self._prune()
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                written += os.write(self._file, view[written:])
        except OSError:
            os.ftruncate(self._file, self._size)
            os.lseek(self._file, self._size, os.SEEK_SET)
            raise
        self._size += len(data)

    def _prune(self) -> None:
        """Remove what is older than `keep`, and the oldest beyond `max_total`; never the file in use."""
        oldest = self._clock() - self._keep
        total = 0
        for path in sorted(self._directory.glob(PATTERN), reverse=True):
            status = path.stat()
            total += status.st_size
            if path != self._path and (status.st_mtime_ns // 1_000_000 < oldest or total > self._max_total):
                path.unlink()

    def close(self) -> None:
        """Flush to disk and close."""
        os.fsync(self._file)
        os.close(self._file)


class _Identity(msgspec.Struct):
    event: str
    decision_id: str | None


def _end_of_last_line(descriptor: int) -> int:
    """The size of the file without a torn last line."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _last_lines(path: Path, most: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most))
        if size > most:
            file.readline()
        yield from file
