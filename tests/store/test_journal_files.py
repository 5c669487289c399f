"""The journal's files: bounded also while nobody pauses, and missed when they are gone."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest

from slm_authz.errors import StoreError
from slm_authz.store.journal import GENERATION, FileJournal
from slm_authz.store.ledger import Ledger, Operation

NOTE: Operation = ("n", b"x" * 20_000)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir(mode=0o700)
    return path


def opened(directory: Path) -> FileJournal:
    journal = FileJournal(directory / "journal", directory / "counters.db")
    journal.recover()
    return journal


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("journal.*"))


def test_what_it_keeps_is_bounded_also_where_something_is_always_written(directory: Path) -> None:
    journal = opened(directory)
    stop, written = Event(), 0

    def keep_writing() -> None:
        nonlocal written
        while not stop.is_set():
            with lock:  # as the counters do
                journal.append([NOTE])
            written += 1

    lock, most, before = Lock(), 0, 0
    writer = Thread(target=keep_writing)
    writer.start()
    try:
        while written < 2000:
            with lock:
                journal.capture(Ledger())
            journal.write()
            most, before = max(most, len(files(directory))), written
    finally:
        stop.set()
        writer.join()
    assert most <= 3, "this generation's, the one before, and the one that is being begun"
    for _ in range(2 * GENERATION):
        journal.capture(Ledger())
        journal.write()
    journal.close()
    assert before
    assert sum(file.stat().st_size for file in files(directory)) == 0


def test_a_journal_that_was_taken_away_is_missed_and_begun_anew(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = opened(directory)
    (file,) = files(directory)
    file.rename(directory / "elsewhere")
    journal.capture(Ledger())
    journal.write()
    assert "moved or removed" in caplog.text
    journal.append([NOTE])
    journal.close()
    (again,) = files(directory)
    assert again.stat().st_size > len(NOTE[1])


def test_files_that_cannot_be_removed_are_said_once_and_stop_nobody(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = opened(directory)

    def busy(_: int) -> None:
        raise OSError(16, "Device or resource busy")

    log: Any = journal._log
    log.drop = busy
    for _ in range(3):
        journal.capture(Ledger(), whole=True)
        journal.write()
        journal.append([NOTE])
    assert caplog.text.count("cannot be removed") == 1
    journal.close()


def test_a_database_that_was_taken_away_is_missed_until_it_is_back(directory: Path) -> None:
    journal = opened(directory)
    (directory / "counters.db").rename(directory / "elsewhere")
    journal.capture(Ledger())
    for _ in range(2):
        with pytest.raises(StoreError, match="moved or removed"):
            journal.write()
    with pytest.raises(StoreError, match="not writable"):
        journal.append([NOTE])
    (directory / "elsewhere").rename(directory / "counters.db")
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
    assert FileJournal(directory / "journal", directory / "counters.db").recover().counters == {"c": [0, 2**62, 0]}
