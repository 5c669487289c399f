"""Audit events as JSON lines in a private directory: one object per line, rotated by size and day, bounded by age and total size.

A batch is on disk whole (written and synced) or not at all: after a failed write the file is cut back to its last whole line, and the
recorder offers the batch again. What the newest lines already hold is not written twice, so a batch that a crash left unacknowledged does no harm.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from slm_authz.audit.event import AuditEvent
from slm_authz.errors import PortTaken, StoreError

log = logging.getLogger(__name__)

_encode: Final = msgspec.json.Encoder().encode
_NAME: Final = re.compile(r"audit-(\d{14})\.jsonl", re.ASCII)
_TAIL: Final = 32 << 20
"""Bytes of the newest lines whose ids are known at start: more than can be waiting for an acknowledgement after a crash."""
_DAY_MS: Final = 86_400_000


def trail_files(directory: Path) -> list[Path]:
    """The trail's files, oldest first. OSError: the directory cannot be read."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


class FileSink:
    """`rotate` and `max_total` in bytes, `keep` and the clock in milliseconds. StoreError: the directory cannot be used as it is.

    A file is closed when it reaches `rotate`, half of `max_total` or the age of a day; closed files go when their last line is older
    than `keep`, or, oldest first, when all files together would exceed `max_total`.
    """

    def __init__(self, directory: Path, *, rotate: int, keep: int, max_total: int, clock: Callable[[], int]) -> None:
        self._directory = directory
        self._rotate = max(1, min(rotate, max_total // 2))
        self._keep = keep
        self._max_total = max_total
        self._clock = clock
        self._torn = False
        self._closed = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = _checked(directory)
            self._lock = _locked(directory)
            self._path, self._file = self._resume(files[-1]) if files else self._begin(clock())
            self._size = end_of_last_line(self._file)
            os.ftruncate(self._file, self._size)
            self._prune(clock())
            self._known = self.recent_ids()
        except OSError as error:
            raise StoreError(f"The audit directory {directory} cannot be used: {error.strerror}.") from error

    def recent_ids(self) -> set[str]:
        """`EVENT DECISION_ID` of the newest lines."""
        ids: set[str] = set()
        left = _TAIL
        for path in reversed(trail_files(self._directory)):
            for line in _last_lines(path, left):
                with suppress(msgspec.MsgspecError):
                    event = _identity(line)
                    if event.decision_id is not None:
                        ids.add(f"{event.event} {event.decision_id}")
            left -= path.stat().st_size
            if left <= 0:
                break
        return ids

    def write(self, events: Sequence[AuditEvent]) -> None:
        """Append and sync all events, or raise OSError and leave the file as it was."""
        known = self._known
        data = b"".join([_encode(event) + b"\n" for event in events if not known or f"{event.event} {event.decision_id}" not in known])
        if not data:
            return
        if self._torn:
            self._mend()
        now = self._clock()
        if not self._in_place():
            name = self._path.name
            self._turn(now)
            log.error("the audit file %s has been moved or removed; a new one has been begun", name)
        if self._size and (self._size + len(data) > self._rotate or now - _began(self._path) >= _DAY_MS):
            self._turn(now)
        self._append(data)

    def _in_place(self) -> bool:
        """Whether the file that is written is still the one that readers find."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def _append(self, data: bytes) -> None:
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                written += os.pwrite(self._file, view[written:], self._size + written)
            os.fsync(self._file)
        except OSError:
            self._torn = True
            with suppress(OSError):  # what cannot be cut now is cut before the next write
                self._mend()
            raise
        self._size += len(data)

    def _mend(self) -> None:
        os.ftruncate(self._file, self._size)
        self._torn = False

    def _resume(self, path: Path) -> tuple[Path, int]:
        return path, os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _begin(self, now: int) -> tuple[Path, int]:
        """A new file. Its name sorts after all others, even where the clock went back."""
        files = trail_files(self._directory)
        stamp = max(now, _began(files[-1]) + 1) if files else now
        path = self._directory / f"audit-{stamp:014d}.jsonl"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        parent = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(parent)  # else the name could be lost with the power, and the lines with it
        finally:
            os.close(parent)
        return path, descriptor

    def _turn(self, now: int) -> None:
        # The new file first: were the old one closed and the disk full, its number would soon belong to somebody else's file.
        path, descriptor = self._begin(now)
        os.close(self._file)
        self._path, self._file, self._size = path, descriptor, 0
        self._prune(now)

    def _prune(self, now: int) -> None:
        """Remove closed files that are too old, and the oldest beyond the total; never the one in use."""
        left = self._max_total - max(self._rotate, self._size)
        for path in reversed(trail_files(self._directory)):
            if path == self._path:
                continue
            try:
                status = path.stat()
                left -= status.st_size
                if left < 0 or status.st_mtime_ns // 1_000_000 < now - self._keep:
                    path.unlink()
            except OSError as error:
                log.warning("the old audit file %s cannot be removed: %s", path.name, error.strerror)

    def close(self) -> None:
        """Release the file; all of it is on disk already."""
        if not self._closed:
            self._closed = True
            os.close(self._file)
            os.close(self._lock)


class _Identity(msgspec.Struct):
    event: str
    decision_id: str | None


_identity: Final = msgspec.json.Decoder(_Identity).decode


def _began(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match is not None else 0


def _locked(directory: Path) -> int:
    """The directory is one service's: two would write over each other's lines. The lock ends with the process, or with `close`."""
    descriptor = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise PortTaken(f"Another slm-authz writes its audit trail to {directory}.", "Give this one a directory of its own.") from None
    return descriptor


def _checked(directory: Path) -> list[Path]:
    """The files, after a look at who may read them."""
    if directory.stat().st_mode & 0o077:
        raise StoreError(f"The audit directory {directory} is open to others.", f"Run: chmod 700 {directory}")
    files = trail_files(directory)
    for path in files:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise StoreError(f"{path} is no regular file.", "Remove it: only this service writes there.")
        if mode & 0o077:
            raise StoreError(f"The audit file {path} is open to others.", f"Run: chmod 600 {path}")
    return files


def end_of_last_line(descriptor: int) -> int:
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
