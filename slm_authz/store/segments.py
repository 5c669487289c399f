"""CUPBOARD: a log of numbered records in append-only files. One write per record; what a killed process has written is there.

A file is named after the number of its first record. A record is its length, a checksum, its number and its bytes, so that the end that a
power cut left torn is known for what it is: reading stops at the first record that is damaged or out of turn.
Forbidden here: what a record means.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final
from zlib import crc32

from slm_authz.store.sqlite import private_directory, require_private

_HEAD: Final = struct.Struct("<IIQ")  # bytes that follow; CRC-32 of number and bytes; number
_NUMBER: Final = struct.Struct("<Q")
_DIGITS: Final = 16
_sync: Final = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Segments:
    """Files `BASE.NUMBER`. `append` and `begin` under the caller's lock; `sync` and `drop` on any one thread beside it."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._path: Path | None = None
        self._file = -1
        self._size = 0
        self._whole = True
        self._retired: list[int] = []  # files that were followed by another, and may not be synced yet
        self._named = True  # whether the directory's entry for the newest file is on disk
        private_directory(base.parent)
        for path in self._paths():
            require_private(path)

    def _paths(self) -> list[Path]:
        """All files, oldest first."""
        stem = f"{self._base.name}."
        return sorted(
            path
            for path in self._base.parent.iterdir()
            if path.name.startswith(stem) and len(number := path.name.removeprefix(stem)) == _DIGITS and number.isdecimal()
        )

    def _first(self, path: Path) -> int:
        return int(path.name[-_DIGITS:])

    # -- reading, before anything is written

    def read(self, after: int = 0) -> Iterator[tuple[int, bytes]]:
        """Records (number, bytes), up to the first that is damaged or out of turn. OSError: a file cannot be read.

        It begins with the file that holds the one after `after`: older ones are not needed, and may be torn remains that a power cut has
        brought back.
        """
        paths = self._paths()
        old = sum(self._first(path) <= after + 1 for path in paths)
        expected = None
        for path in paths[max(0, old - 1) :]:
            if expected is not None and self._first(path) != expected:
                return
            expected = self._first(path)
            data = path.read_bytes()
            at = 0
            while at < len(data):
                row = _record(data, at, expected)
                if row is None:
                    return
                yield expected, row
                at += _HEAD.size + len(row)
                expected += 1

    # -- writing

    def begin(self, number: int) -> None:
        """What is appended from now on, from `number` on, goes into a file of its own. OSError: it does not, and nothing has changed."""
        if self._path is not None and self._first(self._path) == number and self._size == 0 and self._whole and self.in_place:
            return
        path = self._base.with_name(f"{self._base.name}.{number:0{_DIGITS}d}")
        # A file of that name holds nothing that could be read: its first record would have that number.
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if self._file >= 0:
            self._retired.append(self._file)
        self._path, self._file, self._size, self._whole, self._named = path, file, 0, True, False

    def append(self, number: int, row: bytes) -> None:
        """Write one record. OSError: it is not there, and nothing can follow it in this file."""
        if not self._whole:
            raise OSError("the last record is torn")
        head = _HEAD.pack(len(row), crc32(row, crc32(_NUMBER.pack(number))), number)
        self._whole = False
        try:
            written = os.writev(self._file, (head, row))
            if written != len(head) + len(row):
                raise OSError("No space left on device")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._whole = True
        self._size += written

    def sync(self) -> None:
        """What has been appended survives a power cut. OSError: it may not."""
        while self._retired:
            file = self._retired.pop(0)
            try:
                _sync(file)
            finally:
                os.close(file)  # an error is told once: what follows it is a snapshot of everything, which needs this file no more
        _sync(self._file)
        if not self._named:
            self._named = True
            try:
                directory = os.open(self._base.parent, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
            except OSError:
                self._named = False
                raise

    def cut(self, after: int) -> None:
        """Before anything is written: remove the files that a damaged record before them has cut off. OSError."""
        for path in self._paths():
            if self._first(path) > after + 1:
                path.unlink()

    def drop(self, upto: int) -> None:
        """Remove the files that hold nothing beyond that number; never the newest. OSError."""
        for path, following in pairwise(self._paths()):
            if self._first(following) > upto + 1:
                return
            path.unlink()

    @property
    def in_place(self) -> bool:
        """Whether the file that is written still has its name."""
        try:
            return self._path is not None and os.path.samestat(self._path.stat(), os.fstat(self._file))
        except OSError:
            return False

    def close(self) -> None:
        """Release all files."""
        for file in (*self._retired, self._file):
            if file >= 0:
                os.close(file)
        self._retired, self._file, self._path = [], -1, None


def _record(data: bytes, at: int, number: int) -> bytes | None:
    """The bytes of the record that begins there; None where it is torn, damaged or another one."""
    if at + _HEAD.size > len(data):
        return None
    length, checksum, found = _HEAD.unpack_from(data, at)
    row = data[at + _HEAD.size : at + _HEAD.size + length]
    if found != number or len(row) != length or crc32(row, crc32(_NUMBER.pack(number))) != checksum:
        return None
    return row
