"""The file sink: private, whole lines, rotation, bounds, full disks, restarts."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from slm_authz.audit.file_sink import FileSink, trail_files
from slm_authz.errors import PortTaken, StoreError

DAY = 86_400_000


class Clock:
    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(made: Any) -> Clock:
    return Clock(made.noon)


@pytest.fixture
def sink_of(tmp_path: Path, clock: Clock) -> Callable[..., FileSink]:
    def make(rotate: int = 1 << 20, keep: int = 30 * DAY, max_total: int = 1 << 30) -> FileSink:
        return FileSink(tmp_path / "audit", rotate=rotate, keep=keep, max_total=max_total, clock=clock)

    return make


def lines(directory: Path) -> list[int]:
    """Serials of all lines; every one of them must be whole."""
    found = []
    for path in trail_files(directory):
        data = path.read_bytes()
        assert not data or data.endswith(b"\n")
        found += [int(msgspec.json.decode(line)["decision_id"], 16) for line in data.splitlines()]
    return found


def test_directory_and_files_are_private(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of()
    sink.write([made.event(1)])
    sink.close()
    (path,) = trail_files(tmp_path / "audit")
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.name == f"audit-{made.noon:014d}.jsonl"


def test_a_directory_that_others_can_read_is_refused(sink_of: Any, tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir(mode=0o755)
    with pytest.raises(StoreError, match="chmod 700"):
        sink_of()


def test_a_file_that_others_can_read_is_refused(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink_of().close()
    (path,) = trail_files(tmp_path / "audit")
    path.chmod(0o640)
    with pytest.raises(StoreError, match="chmod 600"):
        sink_of()


def test_a_link_in_the_place_of_a_file_is_refused(sink_of: Any, tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir(mode=0o700)
    (tmp_path / "victim").touch(mode=0o600)
    (tmp_path / "audit" / "audit-99999999999999.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="no regular file"):
        sink_of()


def test_rotation_by_size_keeps_every_line_in_order(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of(rotate=2000)
    for serial in range(1, 21):
        sink.write([made.event(serial)])
    sink.close()
    assert len(trail_files(tmp_path / "audit")) > 4
    assert lines(tmp_path / "audit") == list(range(1, 21))


def test_a_file_is_closed_after_a_day_so_that_keep_can_remove_it(sink_of: Any, made: Any, tmp_path: Path, clock: Clock) -> None:
    sink = sink_of(keep=2 * DAY)
    sink.write([made.event(1)])
    (first,) = trail_files(tmp_path / "audit")
    os.utime(first, (clock.now / 1000, clock.now / 1000))
    clock.now += DAY
    sink.write([made.event(2)])
    assert lines(tmp_path / "audit") == [1, 2]
    clock.now += 2 * DAY
    sink.write([made.event(3)])
    assert 1 not in lines(tmp_path / "audit")
    sink.close()


def test_all_files_together_stay_below_the_maximum(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of(rotate=1 << 20, max_total=5000)
    for serial in range(1, 101):
        sink.write([made.event(serial)])
        assert sum(path.stat().st_size for path in trail_files(tmp_path / "audit")) <= 5000
    kept = lines(tmp_path / "audit")
    assert len(kept) >= 4  # at least half of it is history
    assert kept == list(range(101 - len(kept), 101))
    sink.close()


def test_names_sort_by_time_even_where_the_clock_goes_back(sink_of: Any, made: Any, tmp_path: Path, clock: Clock) -> None:
    sink = sink_of(rotate=1)
    for serial in range(1, 6):
        sink.write([made.event(serial)])
        clock.now -= 5000
    sink.close()
    assert lines(tmp_path / "audit") == [1, 2, 3, 4, 5]


def _fails_after(monkeypatch: pytest.MonkeyPatch, budget: int, code: int = errno.ENOSPC) -> list[int]:
    """`pwrite` takes `budget` bytes more, then the disk is full."""
    real, left = os.pwrite, [budget]

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        if left[0] <= 0:
            raise OSError(code, os.strerror(code))
        written = real(descriptor, data[: left[0]], offset)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", pwrite)
    return left


@pytest.mark.parametrize("budget", [0, 1, 100, 700])
def test_a_full_disk_leaves_no_torn_line_and_the_batch_comes_again(
    sink_of: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    sink = sink_of()
    sink.write([made.event(1)])
    left = _fails_after(monkeypatch, budget)
    with pytest.raises(OSError, match="No space"):
        sink.write([made.event(2), made.event(3)])
    assert lines(tmp_path / "audit") == [1]
    left[0] = 1 << 20
    sink.write([made.event(2), made.event(3)])
    sink.close()
    assert lines(tmp_path / "audit") == [1, 2, 3]


def test_what_cannot_be_cut_at_once_is_cut_before_the_next_write(
    sink_of: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = sink_of()
    sink.write([made.event(1)])
    left = _fails_after(monkeypatch, 100, errno.EIO)
    real = os.ftruncate

    def refuse(descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(OSError, match="error"):
        sink.write([made.event(2)])
    monkeypatch.setattr(os, "ftruncate", real)
    left[0] = 1 << 20
    sink.write([made.event(3)])
    assert lines(tmp_path / "audit") == [1, 3]
    sink.close()


def test_a_failed_sync_is_a_failed_write(sink_of: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = sink_of()
    real = os.fsync

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="error"):
        sink.write([made.event(1)])
    monkeypatch.setattr(os, "fsync", real)
    assert lines(tmp_path / "audit") == []
    sink.close()


def test_a_rotation_that_fails_keeps_the_old_file_open(sink_of: Any, made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = sink_of(rotate=500)
    sink.write([made.event(1)])
    real = os.open

    def refuse(path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            sink.write([made.event(2)])
    monkeypatch.setattr(os, "open", real)
    sink.write([made.event(2)])
    assert lines(tmp_path / "audit") == [1, 2]
    sink.close()


def test_a_torn_last_line_is_cut_off_at_start_and_its_event_written_again(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of()
    sink.write([made.event(1), made.event(2)])
    sink.close()
    (path,) = trail_files(tmp_path / "audit")
    path.write_bytes(path.read_bytes()[:-7])
    sink = sink_of()
    sink.write([made.event(1), made.event(2), made.event(3)])
    sink.close()
    assert lines(tmp_path / "audit") == [1, 2, 3]


def test_after_a_restart_no_decision_is_written_twice_not_even_across_files(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of(rotate=1500)
    sink.write([made.event(serial) for serial in range(1, 4)])
    sink.write([made.event(4)])
    sink.close()
    assert len(trail_files(tmp_path / "audit")) == 2
    sink = sink_of(rotate=1500)
    sink.write([made.event(serial) for serial in range(1, 7)])
    sink.close()
    assert lines(tmp_path / "audit") == [1, 2, 3, 4, 5, 6]


def test_a_correction_is_not_taken_for_its_decision(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of()
    sink.write([made.event(1)])
    sink.close()
    sink = sink_of()
    sink.write([msgspec.structs.replace(made.event(1), event="correction")])
    sink.close()
    assert lines(tmp_path / "audit") == [1, 1]


def test_foreign_files_are_left_alone(sink_of: Any, made: Any, tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir(mode=0o700)
    foreign = tmp_path / "audit" / "audit-notes.jsonl"
    foreign.write_text("mine")
    sink = sink_of(rotate=1, max_total=10)
    for serial in range(1, 5):
        sink.write([made.event(serial)])
    sink.close()
    assert foreign.read_text() == "mine"


def test_a_directory_is_one_services(sink_of: Any, made: Any, tmp_path: Path) -> None:
    first = sink_of()
    with pytest.raises(PortTaken, match="a directory of its own"):
        sink_of()
    first.write([made.event(1)])
    first.close()
    second = sink_of()
    second.write([made.event(2)])
    second.close()
    assert lines(tmp_path / "audit") == [1, 2]


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_file_that_was_taken_away_is_begun_anew(sink_of: Any, made: Any, tmp_path: Path, how: str) -> None:
    sink = sink_of()
    sink.write([made.event(1)])
    (path,) = trail_files(tmp_path / "audit")
    if how == "moved":
        path.rename(tmp_path / "kept.jsonl")
    else:
        path.unlink()
    sink.write([made.event(2)])
    assert lines(tmp_path / "audit") == [2]
    sink.close()


def test_a_directory_that_was_taken_away_takes_no_events(sink_of: Any, made: Any, tmp_path: Path) -> None:
    sink = sink_of()
    (tmp_path / "audit").rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="No such file"):
        sink.write([made.event(1)])
    (tmp_path / "elsewhere").rename(tmp_path / "audit")
    sink.write([made.event(1)])
    assert lines(tmp_path / "audit") == [1]
    sink.close()
