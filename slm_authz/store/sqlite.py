"""CUPBOARD: how every SQLite file of ours is opened: private, versioned, in WAL mode. Foreign errors become StoreError here."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from slm_authz.errors import StoreError

BUSY_MS: Final = 5_000


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
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}.") from error
    if mode & 0o077:
        raise StoreError(f"{path} is open to others (mode {mode:04o}).", f"Run: chmod 600 {path}")


def open_database(path: Path, schema: str, version: int, *, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any one thread at a time; the schema is made where it is missing.

    StoreError: not a database, of a newer release, locked, or readable by others.
    """
    private_directory(path.parent)
    private_file(path)
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > version:
            connection.close()
            raise StoreError(
                f"{path} was written by a newer release (schema {found}, this one reads {version}).", "Install that release again."
            )
        if found < version:
            connection.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version:d}; COMMIT;")
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be used as a database: {error}.") from error
    return connection
