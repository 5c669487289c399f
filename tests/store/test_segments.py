"""The journal's files: what is read back from whatever a kill, a power cut or a bad disk has left of them."""

from __future__ import annotations

import os
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.errors import StoreError
from slm_authz.store import segments
from slm_authz.store.segments import Segments


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    return directory / "journal"


def written(base: Path, *generations: list[bytes]) -> Segments:
    """A log with one file per generation."""
    log, number = Segments(base), 1
    for rows in generations:
        log.begin(number)
        for row in rows:
            log.append(number, row)
            number += 1
    return log


def rows(base: Path) -> list[bytes]:
    found = list(Segments(base).read())
    assert all(after[0] == before[0] + 1 for before, after in pairwise(found))
    return [row for _, row in found]


def files(base: Path) -> list[Path]:
    return sorted(base.parent.glob("journal.*"))


def test_what_was_appended_is_read_in_order_over_all_files(base: Path) -> None:
    written(base, [b"one", b""], [], [b"three"])
    assert list(Segments(base).read()) == [(1, b"one"), (2, b""), (3, b"three")]


def test_files_are_the_owners_alone(base: Path) -> None:
    written(base, [b"one"])
    (file,) = files(base)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    with pytest.raises(StoreError, match="open to others"):
        Segments(base)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.data())
def test_whatever_the_end_was_cut_to_all_whole_records_before_it_are_read(tmp_path_factory: Any, kept: list[bytes], data: Any) -> None:
    directory = tmp_path_factory.mktemp("log")
    directory.chmod(0o700)
    base = directory / "journal"
    written(base, kept)
    (file,) = files(base)
    size = file.stat().st_size
    cut = data.draw(st.integers(0, size))
    os.truncate(file, cut)
    whole, at = [], 0
    for row in kept:
        at += 16 + len(row)
        if at <= cut:
            whole.append(row)
    assert rows(base) == whole


@given(st.integers(0, 3 * 20 - 1), st.integers(1, 255))
def test_a_damaged_byte_ends_the_reading_before_its_record(tmp_path_factory: Any, place: int, change: int) -> None:
    directory = tmp_path_factory.mktemp("log")
    directory.chmod(0o700)
    base = directory / "journal"
    written(base, [b"aaaa", b"bbbb", b"cccc"])
    (file,) = files(base)
    content = bytearray(file.read_bytes())
    content[place] ^= change
    file.write_bytes(content)
    assert rows(base) == [b"aaaa", b"bbbb", b"cccc"][: place // 20]


def test_what_lies_behind_a_hole_is_never_read_nor_found_again_later(base: Path) -> None:
    """A power cut may keep the newest file and lose the end of the one before."""
    log = written(base, [b"1", b"2"], [b"3"], [b"4"])
    log.close()
    os.truncate(files(base)[0], 17)
    again = Segments(base)
    assert [number for number, _ in again.read()] == [1]
    again.cut(1)
    again.begin(2)
    again.drop(1)
    again.append(2, b"new")
    assert [file.name[-2:] for file in files(base)] == ["02"]
    assert rows(base) == [b"new"]


def test_files_that_are_needed_no_more_are_dropped_and_no_others(base: Path) -> None:
    log = written(base, [b"1", b"2"], [b"3"], [b"4"])
    log.drop(1)
    assert rows(base) == [b"1", b"2", b"3", b"4"]
    log.drop(2)
    assert [row for _, row in Segments(base).read()] == [b"3", b"4"]
    log.drop(99)
    assert [row for _, row in Segments(base).read()] == [b"4"]


def test_other_files_beside_it_are_left_alone(base: Path) -> None:
    others = [base.parent / name for name in ("journal.db", "journal.0001", "journal.000000000000000x", "other.0000000000000001")]
    for other in others:
        other.touch(mode=0o600)
    log = written(base, [b"1"], [b"2"])
    log.drop(9)
    assert all(other.exists() for other in others)
    assert rows(base) == [b"2"]


def test_a_torn_record_is_taken_back_and_nothing_follows_it_in_its_file(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(base, [b"one"])
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: real(file, [b"".join(parts)[:7]]))
    with pytest.raises(OSError, match="space"):
        log.append(2, b"two")
    monkeypatch.setattr(os, "writev", real)
    with pytest.raises(OSError, match="torn"):
        log.append(2, b"two")
    assert rows(base) == [b"one"]
    log.begin(2)
    log.append(2, b"two")
    assert rows(base) == [b"one", b"two"]


def test_a_torn_first_record_is_begun_anew_under_the_same_name(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(base, [])
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda file, parts: real(file, [b"".join(parts)[:7]]))
    monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError("Input/output error")))
    with pytest.raises(OSError, match="space"):
        log.append(1, b"one")
    monkeypatch.undo()
    assert rows(base) == []
    log.begin(1)
    log.append(1, b"one")
    log.sync()
    assert rows(base) == [b"one"]


def test_a_file_that_was_replaced_is_noticed(base: Path) -> None:
    log = written(base, [b"1"])
    (file,) = files(base)
    seen = [log.in_place]
    file.rename(base.parent / "elsewhere")
    seen.append(log.in_place)
    file.touch()
    seen.append(log.in_place)
    assert seen == [True, False, False]


def test_a_torn_file_that_a_power_cut_has_brought_back_hides_nothing(base: Path) -> None:
    """The directory's entries are not synced when a file is dropped: it may be there again."""
    log = written(base, [b"1", b"2"], [b"3"])
    os.truncate(files(base)[0], 17)
    assert list(log.read(after=2)) == [(3, b"3")]
    assert [number for number, _ in log.read(after=1)] == [1]


def test_a_file_that_cannot_be_synced_is_told_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = written(base, [b"1"], [b"2"])
    failures = [OSError("Input/output error")]

    def sync(_: int) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(segments, "_sync", sync)
    with pytest.raises(OSError, match="Input"):
        log.sync()
    log.sync()
    assert log._retired == []
