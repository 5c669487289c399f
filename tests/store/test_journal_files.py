"""The journal's files: bounded also while nobody pauses, and missed when they are gone."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread

import pytest

from slm_authz.errors import StoreError
from slm_authz.store import journal as module
from slm_authz.store.journal import SqliteJournal
from slm_authz.store.ledger import Ledger, Operation

NOTE: Operation = ("n", b"x" * 20_000)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def opened(directory: Path) -> SqliteJournal:
    return SqliteJournal(directory / "journal.db", directory / "counters.db")


def test_its_log_is_bounded_also_where_something_is_always_written(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is begun anew only at a moment when all of it is in the file: under load that moment never comes by itself."""
    monkeypatch.setattr(module, "_LONGEST_LOG", 1 << 20)
    journal = opened(directory)
    stop, written = Event(), 0

    def keep_writing() -> None:
        nonlocal written
        while not stop.is_set():
            journal.append([NOTE])
            written += 1

    writer = Thread(target=keep_writing)
    writer.start()
    log, largest = directory / "journal.db-wal", 0
    try:
        while written < 4000:
            journal.capture(Ledger())
            journal.write()
            largest = max(largest, log.stat().st_size)
    finally:
        stop.set()
        writer.join()
        journal.close()
    assert largest < 24 << 20, "of eighty that were written"


@pytest.mark.parametrize("name", ["journal.db", "counters.db"])
def test_files_that_were_taken_away_are_missed(directory: Path, name: str) -> None:
    journal = opened(directory)
    (directory / name).rename(directory / "elsewhere")
    journal.capture(Ledger())
    with pytest.raises(StoreError, match="moved or removed"):
        journal.write()
    with pytest.raises(StoreError, match="not writable"):
        journal.append([NOTE])
    (directory / "elsewhere").rename(directory / name)
    journal.capture(Ledger())
    journal.write()
    journal.append([NOTE])
    journal.close()


def test_a_figure_that_no_file_can_hold_is_an_outage_and_no_crash(directory: Path) -> None:
    journal = opened(directory)
    ledger = Ledger()
    ledger.counters["c"] = [0, 2**64, 0]
    ledger.dirty.add("c")
    journal.capture(ledger)
    with pytest.raises(StoreError):
        journal.write()
    assert not journal.healthy
    ledger.counters["c"] = [0, 2**62, 0]
    journal.capture(ledger)
    journal.write()
    journal.close()
    assert opened(directory).recover().counters == {"c": [0, 2**62, 0]}
