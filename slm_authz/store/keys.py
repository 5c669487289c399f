"""CUPBOARD: keys in SQLite, the embedded default. Implements `identity.store.KeyStore`.

WAL with synchronous=FULL: what a command has reported done survives power loss. Tables: `keys`, `key_versions` (a secret each), `key_use`.
`change_seq` only grows, so that a reader asks for what came after what it knows; `PRAGMA data_version` tells cheaply that anyone wrote.
Readers have a connection of their own: no decision ever waits for a disk to have written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final, ParamSpec, TypeVar

import msgspec

from slm_authz.errors import StoreError, UsageError
from slm_authz.identity.key_format import Env
from slm_authz.identity.record import KeyRecord
from slm_authz.store.sqlite import explained, identity, open_database

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY, client TEXT NOT NULL, tenant TEXT, tier TEXT NOT NULL, details BLOB NOT NULL,
  version INTEGER NOT NULL, change_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS keys_by_change ON keys (change_seq);
CREATE INDEX IF NOT EXISTS keys_by_client ON keys (client);
CREATE TABLE IF NOT EXISTS key_versions (
  digest BLOB PRIMARY KEY, id TEXT NOT NULL, version INTEGER NOT NULL, pepper TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS key_versions_by_id ON key_versions (id);
CREATE TABLE IF NOT EXISTS key_use (id TEXT PRIMARY KEY, last_used_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (seq INTEGER NOT NULL);
INSERT INTO change SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM change);
"""
_SELECT: Final = """
SELECT k.id, k.client, k.tenant, k.tier, k.details, k.version, k.change_seq, v.digest, v.pepper, v.version, u.last_used_at
FROM keys k {} JOIN key_versions v ON v.id = k.id LEFT JOIN key_use u ON u.id = k.id
"""
_BY_SECRET: Final = _SELECT.format("") + "WHERE v.digest = ?"
_BY_KEY: Final = _SELECT.format("CROSS") + "WHERE v.version = k.version AND"
"""CROSS: in the order of the keys, which are asked for by id; else SQLite sorts all of them for every page."""
_REPLACE: Final = """
UPDATE keys SET client = ?, tenant = ?, tier = ?, details = ?, version = ?, change_seq = ? WHERE id = ? AND change_seq = ?
"""
_NEW_VERSION: Final = """
INSERT INTO key_versions SELECT ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM key_versions WHERE id = ? AND version = ?)
"""
_CHANGES: Final = """
SELECT k.id, v.digest, k.change_seq FROM keys k JOIN key_versions v ON v.id = k.id WHERE k.change_seq > ? ORDER BY k.change_seq
"""
_USED: Final = """
INSERT INTO key_use VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET last_used_at = max(last_used_at, excluded.last_used_at)
"""
_PAGE: Final = 1000

P = ParamSpec("P")
T = TypeVar("T")


class _Details(msgspec.Struct, array_like=True):
    """Members that nobody selects by. Appending is compatible."""

    name: str | None
    env: Env
    models: tuple[str, ...] | None
    scopes: tuple[str, ...]
    allow_ip: tuple[str, ...]
    labels: dict[str, str]
    created_at: int
    expires_at: int | None
    disabled: bool
    revoked_at: int | None
    former: tuple[tuple[int, int], ...] = ()


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Details).decode


def _mapped(function: Callable[P, T]) -> Callable[P, T]:
    """Foreign errors become StoreError at this edge."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except sqlite3.IntegrityError as error:
            raise StoreError("A key with this id or secret exists already.") from error
        except sqlite3.Error as error:
            raise explained("The key store cannot answer", error) from error
        except UnicodeEncodeError:
            raise UsageError("An id, client, tenant or tier is text; this is none.") from None
        except msgspec.MsgspecError as error:
            raise StoreError("The key store holds a record that this release cannot read.", "Restore it from a backup.") from error

    return wrapped


class _ChangedMeanwhile(Exception):
    """Another process was faster; the transaction is undone."""


class SqliteKeyStore:
    """Keys in one SQLite file; usable from any thread."""

    def __init__(self, path: Path) -> None:
        self._writer = open_database(path, _SCHEMA, SCHEMA_VERSION, synchronous="FULL")
        self._reader = open_database(path, _SCHEMA, SCHEMA_VERSION, synchronous="FULL")
        self._writing, self._reading = Lock(), Lock()
        self._seen_version = -1
        self.change_seq()  # from the first reading on SQLite's companion files are there, and stay for as long as anybody is connected
        self._names = (str(path), f"{os.path.realpath(path)}-shm")  # without its -wal, SQLite itself fails
        self._files = [identity(name) for name in self._names]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                self._writer.rollback()
                raise

    @_mapped
    def insert(self, record: KeyRecord) -> None:
        """Add a key. All keys name one pepper, or some of them could not be verified."""
        with self._transaction() as connection:
            _require_pepper(connection, record)
            seq = _next_seq(connection)
            row = (record.id, record.client, record.tenant, record.tier, _packed(record), record.version, seq)
            connection.execute("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("INSERT INTO key_versions VALUES (?, ?, ?, ?)", (record.digest, record.id, record.version, record.pepper))

    @_mapped
    def replace(self, records: Iterable[KeyRecord]) -> bool:
        """Write changed keys and their new secrets in one transaction, if none of them has changed since it was read."""
        try:
            with self._transaction() as connection:
                for record in records:
                    row = (record.client, record.tenant, record.tier, _packed(record), record.version, _next_seq(connection))
                    if connection.execute(_REPLACE, (*row, record.id, record.change_seq)).rowcount != 1:
                        raise _ChangedMeanwhile
                    _require_pepper(connection, record)
                    secret = (record.digest, record.id, record.version, record.pepper)
                    connection.execute(_NEW_VERSION, (*secret, record.id, record.version))
        except _ChangedMeanwhile:
            return False
        return True

    def _rows(self, select: str, values: Sequence[Any]) -> list[KeyRecord]:
        with self._reading:
            rows = self._reader.execute(select, values).fetchall()
        return [_record(row) for row in rows]

    @_mapped
    def get(self, key_id: str) -> KeyRecord | None:
        """One key by id."""
        return next(iter(self._rows(f"{_BY_KEY} k.id = ?", (key_id,))), None)

    @_mapped
    def find(self, digest: bytes) -> KeyRecord | None:
        """The key of which a secret, the current one or one before it, has that digest."""
        return next(iter(self._rows(_BY_SECRET, (digest,))), None)

    @_mapped
    def select(
        self, *, client: str | None = None, tenant: str | None = None, tier: str | None = None, after: str = "", limit: int = _PAGE
    ) -> Sequence[KeyRecord]:
        """A page of keys in order of id."""
        select, values = f"{_BY_KEY} k.id > ?", [after]
        for column, value in (("client", client), ("tenant", tenant), ("tier", tier)):
            if value is not None:
                select += f" AND k.{column} = ?"
                values.append(value)
        return self._rows(f"{select} ORDER BY k.id LIMIT {limit:d}", values)

    @_mapped
    def changed(self) -> bool:
        """Whether anyone has written since `changes` was read (PRAGMA data_version: a few microseconds).

        StoreError: one of its files has lost its name; whoever revokes a key now does so in others.
        """
        for name, file in zip(self._names, self._files, strict=True):
            if identity(name) != file:
                raise StoreError(f"{name} has been moved, removed or replaced while it was in use.", "Put it back, or restart the service.")
        with self._reading:
            return bool(self._version() != self._seen_version)

    def _version(self) -> int:
        version: int = self._reader.execute("PRAGMA data_version").fetchone()[0]
        return version

    @_mapped
    def changes(self, after: int) -> Sequence[tuple[str, bytes, int]] | None:
        """(id, digest, change_seq) of the keys above that change_seq; None: the store's own is below it, so an older state has been restored."""
        with self._reading:
            version = self._version()
            rows = self._reader.execute(_CHANGES, (after,)).fetchall() if self._seq() >= after else None
            self._seen_version = version  # only now: what could not be read has not been seen
            return rows

    def _seq(self) -> int:
        seq: int = self._reader.execute("SELECT seq FROM change").fetchone()[0]
        return seq

    @_mapped
    def change_seq(self) -> int:
        """The latest."""
        with self._reading:
            return self._seq()

    @_mapped
    def digests(self) -> tuple[set[bytes], int]:
        """All digests, and the change_seq that they are current for."""
        with self._reading:
            seq = self._seq()
            return {row[0] for row in self._reader.execute("SELECT digest FROM key_versions")}, seq

    @_mapped
    def used(self, seen: Iterable[tuple[str, int]]) -> None:
        """Note last uses; nobody has to be told."""
        with self._transaction() as connection:
            connection.executemany(_USED, seen)

    @_mapped
    def tiers(self) -> frozenset[str]:
        """Names of the tiers of all keys."""
        with self._reading:
            return frozenset(row[0] for row in self._reader.execute("SELECT DISTINCT tier FROM keys"))

    @_mapped
    def peppers(self) -> frozenset[str]:
        """Names of the peppers of all secrets."""
        with self._reading:
            return frozenset(row[0] for row in self._reader.execute("SELECT DISTINCT pepper FROM key_versions"))

    def close(self) -> None:
        """Close both connections."""
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()


def _require_pepper(connection: sqlite3.Connection, record: KeyRecord) -> None:
    other = connection.execute("SELECT pepper FROM key_versions LIMIT 1").fetchone()
    if other is not None and other[0] != record.pepper:
        raise StoreError(f"The keys of this store name pepper {other[0]}, this one {record.pepper}.", "Use the store's own pepper.")


def _next_seq(connection: sqlite3.Connection) -> int:
    seq: int = connection.execute("UPDATE change SET seq = seq + 1 RETURNING seq").fetchone()[0]
    return seq


def _packed(record: KeyRecord) -> bytes:
    return _encode(
        _Details(
            record.name,
            record.env,
            record.models,
            record.scopes,
            record.allow_ip,
            record.labels,
            record.created_at,
            record.expires_at,
            record.disabled,
            record.revoked_at,
            record.former,
        )
    )


def _record(row: Sequence[Any]) -> KeyRecord:
    key_id, client, tenant, tier, details, version, change_seq, digest, pepper, found, last_used_at = row
    more = _decode(details)
    return KeyRecord(
        id=key_id,
        client=client,
        tenant=tenant,
        tier=tier,
        name=more.name,
        env=more.env,
        models=more.models,
        scopes=more.scopes,
        allow_ip=more.allow_ip,
        labels=more.labels,
        created_at=more.created_at,
        expires_at=more.expires_at,
        last_used_at=last_used_at,
        disabled=more.disabled,
        revoked_at=more.revoked_at,
        version=version,
        pepper=pepper,
        digest=digest,
        change_seq=change_seq,
        former=more.former,
        ends_at=dict(more.former).get(found, 0) if found != version else None,
    )
