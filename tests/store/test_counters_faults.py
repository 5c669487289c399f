"""What the embedded counters keep when the process dies, the disk fails or an upstream lies: one test per way to lose something."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from slm_authz.errors import StoreError
from slm_authz.quota.counters import Grant, Refusal
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.window import Calendar
from slm_authz.store.journal import FileJournal
from slm_authz.store.memory import MemoryCounters
from tests.conftest import LEASE, Bench

MINUTE, DAY = 60_000, 86_400_000
Make = Callable[..., Bench]


@pytest.fixture
def durable(tmp_path: Path) -> Make:
    """Makes a `Bench` whose files outlive it; of two snapshots the second writes what the first has met."""
    tmp_path.chmod(0o700)
    return lambda limits, **more: Bench(limits, lambda: FileJournal(tmp_path / "j", tmp_path / "c.db", generation=1), **more)


def journal(bench: Bench) -> Any:
    return bench.counters._journal


def die(bench: Bench, lease: int = LEASE) -> None:
    """kill -9, and the next process."""
    journal(bench).close()
    bench.counters = MemoryCounters(bench.signer, Calendar(), lease, bench._open())


def admit(bench: Bench, now: int, **call: Any) -> Grant:
    (result,) = bench.counters.admit([bench.admission(**call)], now)
    bench.counters.commit()
    assert isinstance(result, Grant)
    return result


def end(bench: Bench, grant: Grant, tokens_in: int, tokens_out: int) -> Evidence:
    hold = bench.signer.sign(grant.pending, grant.quoted)
    return Evidence(
        hold, status=200, details="via_upstream", reached=True, complete=True, attempts=1, input_tokens=tokens_in, output_tokens=tokens_out
    )


def fill(bench: Bench, step: str) -> Callable[[], None]:
    """From now on that step of the journal's files (`append`, `begin`, `sync`, `drop`) finds a full disk; returns what makes room."""

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    setattr(journal(bench)._log, step, fail)
    return lambda: delattr(journal(bench)._log, step)


# -- a process that dies


@pytest.mark.parametrize("late", [False, True])
def test_a_model_that_broke_its_bound_stays_distrusted(durable: Make, noon: int, *, late: bool) -> None:
    b = durable([{"tokens": 1000, "per": "day"}])
    entry = end(b, admit(b, noon), 5, 500)
    if late:
        b.counters.lapse(noon + LEASE)
    b.counters.settle([entry], noon + LEASE)
    assert b.counters.distrusted == {"m"}
    die(b)
    assert b.counters.distrusted == {"m"}


def test_a_shorter_lease_after_a_restart_ends_in_time(durable: Make, noon: int) -> None:
    b = durable([{"concurrent": 2}])
    admit(b, noon)
    die(b, lease=MINUTE)
    admit(b, noon + 1)
    assert len(b.counters.lapse(noon + 1 + MINUTE)) == 1
    admit(b, noon + 1 + MINUTE)


def test_a_shorter_lease_ends_in_time_although_the_clock_went_back(durable: Make, noon: int) -> None:
    b = durable([{"concurrent": 2}])
    admit(b, noon + 10 * MINUTE)
    b.counters.set_lease(MINUTE, noon)
    admit(b, noon)
    assert b.counters.lapse(noon + 10 * MINUTE) == []
    assert len(b.counters.lapse(noon + 16 * MINUTE)) == 1


def test_a_late_entry_is_waited_for_from_the_lapse_on(durable: Make, noon: int) -> None:
    """The service was down for two days: the record lapses when it is back, and waits its 24 hours from then."""
    b = durable([{"tokens": 100, "per": "month"}])
    entry = end(b, admit(b, noon, tokens=50), 1, 1)
    die(b)
    b.counters.lapse(noon + 2 * DAY)
    assert b.counters.settle([entry], noon + 2 * DAY + MINUTE)[0].result == "corrected"


# -- a disk that fails


@pytest.mark.parametrize("step", ["begin", "sync"])
def test_a_journal_that_cannot_be_begun_or_synced_leaves_no_ghosts(durable: Make, noon: int, step: str) -> None:
    """What settles while no snapshot can be written must not be found pending by the next process."""
    b = durable([{"tokens": 1000, "per": "day"}, {"concurrent": 1}])
    entry = end(b, admit(b, noon), 1, 1)
    b.counters.snapshot()
    make_room = fill(b, step)
    with pytest.raises(StoreError):
        b.counters.snapshot()
    make_room()
    b.counters.settle([entry], noon + 1)
    assert not b.counters.healthy
    b.counters.snapshot()
    assert journal(b).healthy
    die(b)
    assert b.counters.outstanding == 0
    b.counters.lapse(noon + 2 * LEASE)
    assert [state for key in b.counters.keys() if (state := b.counters.states([key])[0]) and state[2] < 0] == []  # noqa: SIM118
    assert [event.event for event in b.counters.pending(10)] == ["decision"]


def test_a_commit_that_happened_but_reported_a_failure_leaves_no_ghosts(durable: Make, noon: int) -> None:
    b = durable([{"concurrent": 1}])
    entry = end(b, admit(b, noon), 1, 1)
    b.counters.snapshot()
    real = journal(b)._snapshots

    def lost(sql: str, *rest: Any) -> Any:
        real.execute(sql, *rest)
        if sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return real

    journal(b)._snapshots = SimpleNamespace(execute=lost, executemany=real.executemany, rollback=real.rollback)
    with pytest.raises(StoreError):
        b.counters.snapshot()
    journal(b)._snapshots = real
    b.counters.settle([entry], noon + 1)
    assert not b.counters.healthy
    b.counters.snapshot()
    die(b)
    assert b.counters.outstanding == 0


@pytest.mark.parametrize("other", ["settle", "snapshot"])
def test_whoever_meets_the_failure_the_deciding_thread_is_told(durable: Make, noon: int, other: str) -> None:
    """Another thread's commit takes a decision along and fails: the decision's own commit must not report success."""
    b = durable([{"tokens": 1000, "per": "day"}])
    entry = end(b, admit(b, noon), 1, 1)
    b.counters.admit([b.admission()], noon + 1)
    make_room = fill(b, "append")
    if other == "settle":
        b.counters.settle([entry], noon + 2)
        assert not b.counters.healthy
    else:
        journal(b).capture = lambda *_, **__: None  # the snapshot has not come to writing yet
        b.counters.snapshot()
    make_room()
    with pytest.raises(StoreError):
        b.counters.commit()


def test_a_clean_end_writes_what_a_failing_journal_refused(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}])
    entry = end(b, admit(b, noon), 1, 1)
    make_room = fill(b, "append")
    b.counters.settle([entry], noon + 1)
    assert not b.counters.healthy
    make_room()
    b.counters.note([("decision", b"refused meanwhile", 1)], noon + 2)
    b.counters.close(noon + 3)
    die(b)
    assert b.counters.outstanding == 0
    assert [event.memo for event in b.counters.pending(10)] == [b"memo 1", b"refused meanwhile"]


@pytest.mark.parametrize("row", [b"\x01", b"\xff\xff", b"", msgspec.msgpack.encode([["a"]]), msgspec.msgpack.encode([[]])])
def test_a_damaged_row_is_explained(durable: Make, noon: int, row: bytes) -> None:
    b = durable([{"requests": 5, "per": "minute"}])
    admit(b, noon)
    journal(b)._log.append(journal(b)._seq + 1, row)
    journal(b).close()
    with pytest.raises(StoreError, match="journal cannot be read"):
        b.reopen()


# -- an upstream that lies


@pytest.mark.parametrize(
    ("limit", "price"),
    [
        ({"tokens": 1000, "per": "week", "algorithm": "gcra", "burst": 1000}, 0),
        ({"cost": "1000", "per": "day"}, 2_000),
        ({"cost": "1000", "per": "day"}, 10**9),
    ],
)
def test_an_absurd_figure_stops_neither_snapshots_nor_the_next_start(durable: Make, noon: int, limit: Any, price: int) -> None:
    b = durable([limit])
    admission = b.admission()
    admission.pending.price_input = admission.pending.price_output = price
    admission.amounts = (1, 10, admission.pending.cost(1, 9) or 0, 1)
    (grant,) = b.counters.admit([admission], noon)
    b.counters.commit()
    assert isinstance(grant, Grant)
    b.counters.settle([end(b, grant, 2**53 - 1, 9)], noon + 1)
    b.counters.snapshot()
    (refused,) = b.counters.admit([b.admission()], noon + 2)
    assert isinstance(refused, Refusal)
    die(b)
    (refused,) = b.counters.admit([b.admission()], noon + 3)
    assert isinstance(refused, Refusal)
    b.counters.snapshot()


# -- limits that share a counter


def test_of_limits_that_share_a_counter_file_order_breaks_the_tie(durable: Make, noon: int) -> None:
    same = {"requests": 1, "per": "day", "by": "client"}
    b = durable([{**same, "models": ["m"]}], model_limits=[same])
    admit(b, noon)
    (refused,) = b.counters.admit([b.admission()], noon + 1)
    assert isinstance(refused, Refusal)
    assert refused.line.limit.name == "m.requests.day.client"  # models stand before tiers


# -- young records


def rows(bench: Bench) -> list[str]:
    return [row[0] for row in journal(bench)._snapshots.execute("SELECT id FROM pending")]


def test_a_call_that_is_over_between_two_snapshots_or_soon_after_never_has_a_row(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}])
    grant = admit(b, noon)
    b.counters.snapshot()
    assert rows(b) == []
    b.counters.settle([end(b, grant, 1, 1)], noon + 1)
    for _ in range(3):
        b.counters.snapshot()
        assert rows(b) == []


def test_a_young_record_outlives_its_process_with_its_hold_counted_once(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}, {"concurrent": 5}])
    first, second = admit(b, noon), admit(b, noon + 1)
    b.counters.settle([end(b, first, 1, 1)], noon + 2)
    before = {key: b.counters.states([key]) for key in b.counters.keys()}  # noqa: SIM118
    b.counters.snapshot()
    die(b)
    assert {key: b.counters.states([key]) for key in b.counters.keys()} == before  # noqa: SIM118
    assert b.counters.outstanding == 1
    assert [one.result for one in b.counters.settle([end(b, first, 1, 1), end(b, second, 2, 2)], noon + 3)] == ["ignored", "settled"]


def test_a_young_record_that_lapsed_is_corrected_by_the_next_process(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}])
    grant = admit(b, noon)
    b.counters.lapse(noon + LEASE)
    b.counters.snapshot()
    die(b)
    assert b.counters.outstanding == 0
    assert b.counters.settle([end(b, grant, 1, 1)], noon + LEASE + 1)[0].result == "corrected"


def test_a_young_record_keeps_its_renewed_lease(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}])
    entry = end(b, admit(b, noon), 1, 1)
    b.counters.settle([msgspec.structs.replace(entry, kind="periodic")], noon + LEASE - 1)
    b.counters.snapshot()
    die(b)
    assert b.counters.lapse(noon + LEASE + 1) == []
    assert len(b.counters.lapse(noon + 2 * LEASE)) == 1


def test_a_clean_end_leaves_nothing_to_be_replayed(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}])
    grant = admit(b, noon)
    b.counters.close(noon)
    b.counters = MemoryCounters(b.signer, Calendar(), LEASE, b._open())
    assert rows(b) == [grant.pending.id]
    assert list(journal(b)._log.read()) == []


def test_a_capture_that_another_overtakes_loses_no_record(durable: Make, noon: int) -> None:
    """Two threads: what the first has captured, and dropped from the young, is written by the second."""
    b = durable([{"concurrent": 5}])
    admit(b, noon)
    b.counters.snapshot()
    for _ in range(2):
        journal(b).capture(b.counters._ledger)
    journal(b).write()
    die(b)
    assert b.counters.outstanding == 1


# -- a journal that is not whole


def cut_off(bench: Bench, keep: int) -> None:
    """A disk that has lost the journal's end, or all of it."""
    journal(bench).close()
    for file in Path(journal(bench)._place).parent.glob("j.0*"):
        file.write_bytes(file.read_bytes()[:keep])


def test_where_young_records_are_lost_nobody_keeps_what_they_held(durable: Make, noon: int, caplog: pytest.LogCaptureFixture) -> None:
    b = durable([{"concurrent": 5}, {"tokens": 1000, "per": "day"}, {"tokens": 10, "per": "minute", "algorithm": "gcra", "burst": 500}])
    b.counters.settle([end(b, admit(b, noon), 30, 4)], noon)
    admit(b, noon)
    b.counters.snapshot()
    cut_off(b, 0)
    b.counters = MemoryCounters(b.signer, Calendar(), LEASE, b._open())
    assert "are missing from the counters' journal" in caplog.text
    states = {key.split("\t")[0:2][1]: state for key in b.counters.keys() if (state := b.counters.states([key])[0])}  # noqa: SIM118
    assert states["slots"][2] == 0
    assert states["fixed"][1:] == [34, 0], "what was used is known all the same"
    assert states["gcra"][1] > 0
    admit(b, noon + 1)


def test_records_that_are_left_hold_what_they_held(durable: Make, noon: int) -> None:
    b = durable([{"concurrent": 5}])
    admit(b, noon)
    b.counters.snapshot(whole=True)
    admit(b, noon + 1)
    b.counters.snapshot()
    cut_off(b, 0)
    b.counters = MemoryCounters(b.signer, Calendar(), LEASE, b._open())
    assert b.counters.outstanding == 1
    (key,) = b.counters.keys()
    assert b.counters.states([key]) == [[0, 0, 1]]


def test_a_journal_that_does_not_fit_its_snapshot_is_refused(durable: Make, noon: int) -> None:
    b = durable([{"concurrent": 5}])
    for step in range(3):
        admit(b, noon + step)
        b.counters.snapshot(whole=True)
    admit(b, noon + 9)
    journal(b)._snapshots.execute("UPDATE meta SET value = 1 WHERE name IN ('horizon', 'journal_seq')")
    journal(b).close()
    with pytest.raises(StoreError, match="it begins with batch 4, and the snapshot is of batch 1"):
        b.reopen()


def test_the_journal_is_on_disk_before_a_snapshot_that_counts_what_it_holds(durable: Make, noon: int) -> None:
    b = durable([{"concurrent": 5}])
    admit(b, noon)
    make_room = fill(b, "sync")
    with pytest.raises(StoreError):
        b.counters.snapshot()
    assert dict(journal(b)._snapshots.execute("SELECT name, value FROM meta").fetchall())["journal_seq"] == 0
    make_room()
    b.counters.snapshot()
    assert b.counters.healthy


def test_a_call_whose_settlement_is_lost_is_not_charged_twice(durable: Make, noon: int) -> None:
    b = durable([{"tokens": 1000, "per": "day"}, {"concurrent": 3}])
    entry = end(b, admit(b, noon), 1, 1)
    (file,) = Path(journal(b)._place).parent.glob("j.0*")
    kept = file.stat().st_size
    b.counters.settle([entry], noon + 1)
    b.counters._journal._generation = 9  # type: ignore[attr-defined]  # it stays young
    b.counters.snapshot()
    before = {key: b.counters.states([key]) for key in b.counters.keys()}  # noqa: SIM118
    cut_off(b, kept)
    b.counters = MemoryCounters(b.signer, Calendar(), LEASE, b._open())
    b.counters.lapse(noon + 2 * LEASE)
    assert {key: b.counters.states([key]) for key in b.counters.keys()} == before  # noqa: SIM118
    assert [event.memo for event in b.counters.pending(9)] == [b"memo 1"]
