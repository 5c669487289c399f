"""CUPBOARD: what makes the embedded counters survive kill -9: a journal in append-only files, and snapshots in SQLite.

Every batch is one record of the journal, written before its answers leave (no fsync: a killed process loses nothing). A snapshot writes
what changed since the last one, in one transaction with fsync, after the journal has been synced: power loss costs at most a second.
Most calls are over within seconds, so a young record has no row in the snapshot: it stays in the journal alone, which is dropped up to
the horizon, before which no record is young. Recovery takes records from the horizon on, and all else from the snapshot on.
Once an append has failed, the journal takes no more until a snapshot of everything has begun it anew.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, Protocol

import msgspec

from slm_authz.errors import StoreError
from slm_authz.quota.hold import Pending
from slm_authz.quota.outcome import Outcome
from slm_authz.store.ledger import Ledger, Operation
from slm_authz.store.segments import Segments
from slm_authz.store.sqlite import identity, open_database

log = logging.getLogger(__name__)

SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, a INTEGER, b INTEGER, c INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (id TEXT PRIMARY KEY, lease_end INTEGER, record BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lapsed (id TEXT PRIMARY KEY, lease_end INTEGER, record BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, record BLOB);
"""
_ROWS: Final = 500
GENERATION: Final = 4
"""Snapshots until the young records grow up: at one a second a record gets a row when it is four to eight seconds old."""
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode
_decode_pending: Final = msgspec.msgpack.Decoder(Pending).decode
_decode_outcome: Final = msgspec.msgpack.Decoder(Outcome).decode


class Journal(Protocol):
    """Where the embedded counters put what must not be lost."""

    healthy: bool

    def recover(self) -> Ledger:
        """The state as of the last append."""
        ...

    def append(self, operations: Sequence[Operation]) -> None:
        """Keep one batch. StoreError: it is not kept, and nothing is until a snapshot succeeds."""
        ...

    def capture(self, ledger: Ledger, *, whole: bool = False) -> None:
        """Copy what changed since the last snapshot; quick, called under the counters' lock. `whole`: young records too."""
        ...

    def write(self) -> None:
        """Write what was captured. StoreError: it stays due."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class NoJournal:
    """Counters that live as long as their process: for tests and measurements."""

    healthy = True

    def recover(self) -> Ledger:
        """A blank state."""
        return Ledger()

    def append(self, operations: Sequence[Operation]) -> None:
        """Keep nothing."""

    def capture(self, ledger: Ledger, *, whole: bool = False) -> None:  # noqa: ARG002 - the protocol's
        """Copy nothing."""
        ledger.dirty.clear()
        ledger.dirty_pending.clear()
        ledger.dirty_lapsed.clear()

    def write(self) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Nothing is open."""


class _Changes(msgspec.Struct):
    """A snapshot's worth of changes.

    Records are encoded when they are written, outside the counters' lock: a lease that was renewed in between is renewed again by the
    replay, to the same end.
    """

    horizon: int
    refused: int
    acknowledged: int
    meta: list[tuple[str, Any]]
    counters: list[tuple[str, int, int, int]]
    gone_counters: list[tuple[str]]
    pending: list[Pending]
    gone_pending: list[tuple[str]]
    lapsed: list[Pending]
    gone_lapsed: list[tuple[str]]
    outbox: list[Outcome]


class FileJournal:
    """`journal` names the append-only files, `snapshots` the database. `append` runs on the deciding thread, `write` on the housekeeper's."""

    def __init__(self, journal: Path, snapshots: Path, generation: int = GENERATION) -> None:
        self.healthy = True
        self._generation = generation
        self._log = Segments(journal)
        self._snapshots = open_database(snapshots, _SCHEMA, SCHEMA_VERSION, synchronous="FULL")
        self._place = snapshots
        self._file = identity(snapshots)
        self._seq = 0
        self._written_outbox = 0
        self._captured: _Changes | None = None
        self._refused = 0
        self._stored: set[str] = set()  # pending calls that have a row
        # Changed records that no snapshot has yet: the older ones of rows up to `_boundary`, the younger ones of later rows.
        self._older: set[str] = set()
        self._younger: set[str] = set()
        self._boundary = 0
        self._horizon = 0
        self._captures = 0
        self._writing = Lock()
        self._judging = Lock()  # of `healthy` and `_refused`: between them a refusal must not be overlooked
        self._undropped = False

    def recover(self) -> Ledger:
        """Load the last snapshot and replay the journal; what lies in the files afterwards is a snapshot again."""
        ledger = Ledger()
        try:
            self._load(ledger)
            self._replay(ledger)
            self._log.cut(self._seq)
        except (sqlite3.Error, msgspec.MsgspecError, OSError, OverflowError, ValueError, TypeError, LookupError) as error:
            raise StoreError(
                f"The counters' journal cannot be read: {error}.", "Restore it from a backup, or move it away to begin at zero."
            ) from error
        self.capture(ledger, whole=True)
        self.write()
        return ledger

    def _replay(self, ledger: Ledger) -> None:
        snapshot, known = self._seq, self._horizon
        for seq, row in self._log.read(self._horizon):
            if seq <= self._horizon:
                continue
            if seq != known + 1:
                raise ValueError(f"it begins with batch {seq}, and the snapshot is of batch {snapshot}")
            operations = [_revive(operation) for operation in _decode(row)]
            if seq <= snapshot:
                ledger.recall(operations)
            else:
                ledger.replay(operations)
            known = seq
        if known < snapshot:
            log.error("batches %d to %d are missing from the counters' journal: calls that ran then are not accounted", known + 1, snapshot)
            # Nobody knows which of them were settled in what is lost: what has no row is forgotten, rather than charged twice.
            ledger.forget_pending(self._stored)
            ledger.recount()
        self._seq = max(known, snapshot)

    def _load(self, ledger: Ledger) -> None:
        run = self._snapshots.execute
        meta = dict(run("SELECT name, value FROM meta").fetchall())
        ledger.floor = meta.get("floor", 0)
        ledger.seq = meta.get("seq", 0)
        ledger.acknowledged = meta.get("acknowledged", 0)
        ledger.distrusted.update(_decode(meta["distrusted"]) if "distrusted" in meta else ())
        self._seq = meta.get("journal_seq", 0)
        self._horizon = meta.get("horizon", self._seq)
        for name, a, b, c in run("SELECT name, a, b, c FROM counters"):
            ledger.counters[name] = [a, b, c]
        for decision_id, _, record in run("SELECT id, lease_end, record FROM pending ORDER BY lease_end"):
            ledger.pending[decision_id] = _decode_pending(record)
            self._stored.add(decision_id)
        for decision_id, _, record in run("SELECT id, lease_end, record FROM lapsed ORDER BY lease_end"):
            ledger.lapsed[decision_id] = _decode_pending(record)
        for seq, record in run("SELECT seq, record FROM outbox ORDER BY seq"):
            ledger.outbox.append(_decode_outcome(record))
            ledger.seq = max(ledger.seq, seq)

    def append(self, operations: Sequence[Operation]) -> None:
        """One row, one commit."""
        with self._judging:
            if not self.healthy:
                self._refused += 1
                raise StoreError("The counters' journal is not writable.")
        try:
            self._log.append(self._seq + 1, _encode(operations))
        except (OSError, OverflowError, msgspec.MsgspecError) as error:
            with self._judging:
                self.healthy = False
                self._refused += 1
            raise StoreError(f"The counters' journal cannot be written: {error}.") from error
        self._seq += 1

    def capture(self, ledger: Ledger, *, whole: bool = False) -> None:
        """Copy the changed rows. What an earlier, failed write had captured is merged into the ledger's marks first."""
        whole = whole or not self.healthy or self._captured is not None or self._missing()
        if self._captured is not None:
            self._mark_due(ledger, self._captured)
        counters, pending, lapsed = ledger.counters, ledger.pending, ledger.lapsed
        written = self._written_outbox
        grown = self._grow_up(ledger.dirty_pending, whole=whole)
        self._captured = _Changes(
            horizon=self._horizon,
            refused=self._refused,
            acknowledged=ledger.acknowledged,
            meta=[
                ("floor", ledger.floor),
                ("seq", ledger.seq),
                ("acknowledged", ledger.acknowledged),
                ("journal_seq", self._seq),
                ("horizon", self._horizon),
                ("distrusted", _encode(sorted(ledger.distrusted))),
            ],
            counters=[(name, *counters[name]) for name in ledger.dirty if name in counters],  # type: ignore[misc]
            gone_counters=[(name,) for name in ledger.dirty if name not in counters],
            pending=[pending[i] for i in grown if i in pending],
            gone_pending=[(i,) for i in ledger.dirty_pending & self._stored if i not in pending],
            lapsed=[lapsed[i] for i in ledger.dirty_lapsed if i in lapsed],
            gone_lapsed=[(i,) for i in ledger.dirty_lapsed if i not in lapsed],
            outbox=[outcome for outcome in ledger.outbox if outcome.seq > written],
        )
        # At once: an attempt that reports a failure may have written them, and what has no row is deleted for nothing.
        self._stored.update(pending.id for pending in self._captured.pending)
        ledger.dirty.clear()
        ledger.dirty_pending.clear()
        ledger.dirty_lapsed.clear()

    def _missing(self) -> bool:
        """Whether the journal's file has lost its name: what is in it survives nothing, so a snapshot of everything begins it anew."""
        missing = self._captures > 0 and not self._log.in_place
        if missing:
            log.error("a file of the counters' journal was moved or removed while it was in use; it is begun anew")
        return missing

    def _grow_up(self, changed: set[str], *, whole: bool) -> set[str]:
        """The records that are to have a row from now on, and with them the horizon. What no row of the journal holds is never young."""
        ends = self._captures % self._generation == self._generation - 1
        if whole or ends:
            self._begin()
        self._captures += 1
        self._younger |= changed
        if whole:
            grown, self._older, self._younger = self._older | self._younger, set(), set()
            self._horizon = self._boundary = self._seq
        elif ends:
            grown, self._older, self._younger = self._older, self._younger, set()
            self._horizon, self._boundary = self._boundary, self._seq
        else:
            grown = set()
        return grown

    def _begin(self) -> None:
        """A new file for the next generation's rows: the old one can then be dropped whole."""
        try:
            self._log.begin(self._seq + 1)
        except OSError as error:
            self.healthy = False
            raise StoreError(f"The counters' journal cannot be continued: {error}.") from error

    def _mark_due(self, ledger: Ledger, changes: _Changes) -> None:
        ledger.dirty.update(row[0] for row in changes.counters)
        ledger.dirty.update(row[0] for row in changes.gone_counters)
        ledger.dirty_pending.update(pending.id for pending in changes.pending)
        ledger.dirty_pending.update(row[0] for row in changes.gone_pending)
        ledger.dirty_lapsed.update(lapsed.id for lapsed in changes.lapsed)
        ledger.dirty_lapsed.update(row[0] for row in changes.gone_lapsed)

    def write(self) -> None:
        """One transaction: the changed rows in, the journal before the horizon out."""
        with self._writing:
            changes = self._captured
            if changes is None:
                return
            self._require_files()
            try:
                self._log.sync()  # first: a hold that the snapshot counts must have its record, also after a power cut
                self._transact(changes)
            except (sqlite3.Error, OSError, OverflowError, msgspec.MsgspecError) as error:
                self.healthy = False
                raise StoreError(
                    f"The counters' snapshot cannot be written: {error}.", "Make room on the disk; it is tried again every second."
                ) from error
            if self._captured is changes:
                self._captured = None
            self._stored.difference_update(row[0] for row in changes.gone_pending)
            self._written_outbox = max([outcome.seq for outcome in changes.outbox], default=self._written_outbox)
            with self._judging:
                # Batches that were refused after the capture are in the state, but in no row yet: only the next snapshot is whole.
                self.healthy = self.healthy or changes.refused == self._refused
            self._drop(changes.horizon)

    def _drop(self, horizon: int) -> None:
        """Old files that cannot be removed are in nobody's way."""
        try:
            self._log.drop(horizon)
        except OSError as error:
            if not self._undropped:
                log.error("old files of the counters' journal cannot be removed: %s", error)
            self._undropped = True
        else:
            self._undropped = False

    def _require_files(self) -> None:
        """What is written to a file that has no name any more survives nothing."""
        if not self._log.in_place:
            self.healthy = False
            raise StoreError("A file of the counters' journal has been moved or removed while it was in use.", "It is begun anew.")
        if identity(self._place) != self._file:
            self.healthy = False
            raise StoreError(f"{self._place} has been moved or removed while it was in use.", "Put it back, or restart the service.")

    def _transact(self, changes: _Changes) -> None:
        many, run = self._snapshots.executemany, self._snapshots.execute
        run("BEGIN IMMEDIATE")
        try:
            many("INSERT OR REPLACE INTO meta VALUES (?, ?)", changes.meta)
            _insert(run, "counters", changes.counters)
            many("DELETE FROM counters WHERE name = ?", changes.gone_counters)
            _insert(run, "pending", _by_id(changes.pending))
            many("DELETE FROM pending WHERE id = ?", sorted(changes.gone_pending))
            _insert(run, "lapsed", _by_id(changes.lapsed))
            many("DELETE FROM lapsed WHERE id = ?", changes.gone_lapsed)
            run("DELETE FROM outbox WHERE seq <= ?", (changes.acknowledged,))
            _insert(run, "outbox", [(one.seq, _encode(one)) for one in changes.outbox if one.seq > changes.acknowledged])
            run("COMMIT")
        except BaseException:
            self._snapshots.rollback()
            raise
        run("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Close all files."""
        self._log.close()
        self._snapshots.close()


def _by_id(records: Sequence[Pending]) -> list[tuple[str, int, bytes]]:
    """Rows in the order of their key: ids begin with the time, so new rows go to the end of the tree; in any other order they cost five times."""
    return sorted((one.id, one.lease_end, _encode(one)) for one in records)


def _insert(run: Callable[..., Any], table: Literal["counters", "pending", "lapsed", "outbox"], rows: Sequence[tuple[Any, ...]]) -> None:
    """Many rows per statement: sqlite3 lets go of the interpreter's lock at every statement, and getting it back under load is slow."""
    for at in range(0, len(rows), _ROWS):
        chunk = rows[at : at + _ROWS]
        places = ",".join([f"({','.join('?' * len(chunk[0]))})"] * len(chunk))
        run(f"INSERT OR REPLACE INTO {table} VALUES {places}", [value for row in chunk for value in row])  # noqa: S608 - our own table names


def _revive(operation: list[Any]) -> Operation:
    """An operation as it was before it became bytes."""
    kind = operation[0]
    if kind in ("a", "c"):
        operation[1] = msgspec.convert(operation[1], Pending)
    if kind not in ("r", "a") and operation[-1] is not None:
        operation[-1] = msgspec.convert(operation[-1], Outcome)
    return tuple(operation)
