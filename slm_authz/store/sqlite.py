"""CUPBOARD: how every SQLite file of ours is opened: private, versioned, in WAL mode. Foreign errors become StoreError here."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from slm_authz.errors import StoreError

BUSY_MS: Final = 5_000
_PAUSE_MS: Final = 10
_BROKEN: Final = "Restore it from a backup."
_FIXES: Final = {
    sqlite3.SQLITE_BUSY: "Another process keeps it locked: find it (`fuser` names it) and retry.",
    sqlite3.SQLITE_READONLY: "Make the file, its directory and its file system writable for this user.",
    sqlite3.SQLITE_CANTOPEN: "Make the file, its directory and its file system writable for this user.",
    sqlite3.SQLITE_FULL: "Free space on its file system.",
    sqlite3.SQLITE_CORRUPT: _BROKEN,
    sqlite3.SQLITE_NOTADB: _BROKEN,
}


def private_directory(path: Path) -> None:
    """Make `path` (0700) where it is missing; StoreError where others may read it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise StoreError(f"The data directory {path} cannot be used: {error.strerror}.") from error
    if mode & 0o077:
        raise StoreError(f"The data directory {path} is open to others (mode {mode:04o}).", f"Run: chmod 700 {path}")


def private_file(path: Path) -> None:
    """Make `path` (0600) where it is missing; StoreError where others may read it.

    A file that exists is never opened here: closing it would drop SQLite's POSIX locks on it in this process, and another process
    would then take itself for the last one and remove the write-ahead log under us.
    """
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}.") from error
    require_private(path)


def require_private(path: Path) -> None:
    """StoreError where a file that exists is no file, or is open to others."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a file.", "Name a file of its own in store.url.")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise StoreError(f"{path} is open to others (mode {mode:04o}).", f"Run: chmod 600 {path}")


def identity(path: str | Path) -> tuple[int, int] | None:
    """Which file bears that name now: (device, inode), or None. An open database is not told when its file loses its name."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a third of Path.stat's time, once per batch
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_database(path: Path, schema: str, version: int, *, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any one thread at a time; the schema is made where it is missing.

    StoreError: not a database, of a newer release, locked, read-only, or readable by others.
    """
    private_directory(path.parent)
    private_file(path)
    for companion in (f"{path}-wal", f"{path}-shm"):  # SQLite gives them the mode that the database had then
        require_private(Path(companion))
    connection = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        _enter_wal(connection)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            raise StoreError(
                f"{path} was written by a newer release (schema {found}, this one reads {version}).", "Install that release again."
            )
        if found < version:
            connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version:d}; COMMIT;")
    except (sqlite3.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StoreError):
            raise
        raise explained(f"{path} cannot be used as a database", error) from error
    return connection


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Two processes that open a new file at once: SQLite answers one of them "locked" without waiting. So we wait."""
    for attempt in range(BUSY_MS // _PAUSE_MS, -1, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or not attempt:
                raise
            time.sleep(_PAUSE_MS / 1000)
        else:
            return


def _code(error: sqlite3.Error) -> int | None:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if code is not None else None  # the primary one: https://sqlite.org/rescode.html


def explained(what: str, error: sqlite3.Error) -> StoreError:
    """SQLite's word for what went wrong, and what to do about it."""
    return StoreError(f"{what}: {error}.", _FIXES.get(_code(error) or 0))
