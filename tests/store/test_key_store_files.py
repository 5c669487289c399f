"""The key file itself: private, recognised, and clear about what is wrong with it."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from slm_authz.errors import StoreError, UsageError
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import of
from slm_authz.store import sqlite
from slm_authz.store.keys import SCHEMA_VERSION, SqliteKeyStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "keys.db"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make(path: Path) -> str:
    """A store with one key; its id."""
    store = SqliteKeyStore(path)
    try:
        return Lifecycle(store, of(b"p" * 32), os.urandom).create(0, client="acme", tier="free")[0].id
    finally:
        store.close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_everything_is_private_from_birth(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = SqliteKeyStore(path)
        Lifecycle(store, of(b"p" * 32), os.urandom).create(0, client="acme", tier="free")
    finally:
        os.umask(before)
    files = {file.name: mode(file) for file in path.parent.iterdir()}
    store.close()
    assert files == dict.fromkeys(("keys.db", "keys.db-shm", "keys.db-wal"), 0o600)
    assert mode(path.parent) == 0o700


@pytest.mark.parametrize("wide", [0o755, 0o750, 0o701, 0o770])
def test_a_directory_that_others_can_enter(path: Path, wide: int) -> None:
    make(path)
    path.parent.chmod(wide)
    with pytest.raises(StoreError, match=f"chmod 700 {path.parent}"):
        SqliteKeyStore(path)


@pytest.mark.parametrize("name", ["keys.db", "keys.db-wal", "keys.db-shm"])
@pytest.mark.parametrize("wide", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_open(path: Path, name: str, wide: int) -> None:
    make(path)
    file = path.with_name(name)
    file.touch()
    file.chmod(wide)
    with pytest.raises(StoreError, match=f"chmod 600 {file}"):
        SqliteKeyStore(path)


def test_a_directory_in_the_files_place(path: Path) -> None:
    path.mkdir(parents=True, mode=0o700)
    path.parent.chmod(0o700)
    with pytest.raises(StoreError, match="is not a file"):
        SqliteKeyStore(path)


def test_a_file_in_the_directorys_place(path: Path) -> None:
    path.parent.write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        SqliteKeyStore(path)


def test_something_else_in_the_files_place(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"this is no database" * 100)
    path.chmod(0o600)
    with pytest.raises(StoreError, match=r"not a database.*backup"):
        SqliteKeyStore(path)


def test_a_file_of_a_newer_release(path: Path) -> None:
    make(path)
    newer = sqlite3.connect(path, isolation_level=None)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError, match="newer release"):
        SqliteKeyStore(path)
    assert newer.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    newer.close()


def test_a_file_that_is_kept_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 50)
    make(path)
    store = SqliteKeyStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    life = Lifecycle(store, of(b"p" * 32), os.urandom)
    with pytest.raises(StoreError, match=r"locked.*retry"):
        life.create(0, client="late", tier="free")
    assert [key.client for key in life.every()] == ["acme"]  # reading goes on
    assert store.changed() in (True, False)
    other.execute("ROLLBACK")
    other.close()
    life.create(0, client="late", tier="free")
    store.close()


def test_a_file_that_cannot_be_written(path: Path) -> None:
    make(path)
    store = SqliteKeyStore(path)
    store._writer.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match=r"readonly.*writable"):
        Lifecycle(store, of(b"p" * 32), os.urandom).create(0, client="late", tier="free")
    store.close()


def test_a_file_that_loses_its_name_is_no_longer_asked_whether_it_changed(path: Path) -> None:
    """`keys revoke` opens what has the name now: what we would answer from is not what anyone changes."""
    key_id = make(path)
    store = SqliteKeyStore(path)
    store.changes(0)
    aside = path.parent.rename(path.parent.with_name("aside"))
    with pytest.raises(StoreError, match="moved or replaced") as caught:
        store.changed()
    assert str(path) in str(caught.value)
    assert "Put it back" in str(caught.value)
    make(path)  # another process, which finds nothing and begins a store
    with pytest.raises(StoreError, match="moved or replaced"):
        store.changed()
    path.parent.rename(path.parent.with_name("other"))
    aside.rename(path.parent)
    assert not store.changed()
    assert store.get(key_id)
    store.close()


@pytest.mark.parametrize("ends", [["-shm"], ["-wal", "-shm"]], ids=str)
def test_a_log_that_is_removed_while_it_is_written(path: Path, ends: list[str]) -> None:
    make(path)
    store = SqliteKeyStore(path)
    store.changes(0)
    assert not store.changed()
    for end in ends:
        path.with_name(path.name + end).unlink()
    with pytest.raises(StoreError, match=r"keys\.db-shm has been moved, removed or replaced"):
        store.changed()
    store.close()


def test_a_broken_page(path: Path) -> None:
    make(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreError, match=r"malformed.*backup"):
        SqliteKeyStore(path).select()


def test_a_broken_record_spoils_only_itself(path: Path) -> None:
    broken, good = make(path), make(path)
    store = SqliteKeyStore(path)
    store._writer.execute("UPDATE keys SET details = x'c1' WHERE id = ?", (broken,))
    assert store.get(good) is not None
    assert len(list(store.changes(0) or ())) == 2
    with pytest.raises(StoreError, match="cannot read"):
        store.get(broken)
    store.close()


def test_what_a_later_release_adds_to_a_record_is_passed_over(path: Path) -> None:
    key_id = make(path)
    store = SqliteKeyStore(path)
    details = store._reader.execute("SELECT details FROM keys").fetchone()[0]
    longer = msgspec.msgpack.encode([*msgspec.msgpack.decode(details), "something new"])
    store._writer.execute("UPDATE keys SET details = ?", (longer,))
    assert store.get(key_id) is not None
    store.close()


def test_what_an_earlier_release_wrote_is_read_and_knows_of_no_earlier_secrets(path: Path) -> None:
    """The release before rotation wrote records without `former`; one that it has changed since serves the current secret alone."""
    key_id = make(path)
    store = SqliteKeyStore(path)
    life = Lifecycle(store, of(b"p" * 32), os.urandom)
    life.rotate(key_id, 10, grace=1000)
    details = store._reader.execute("SELECT details FROM keys").fetchone()[0]
    shorter = msgspec.msgpack.encode(msgspec.msgpack.decode(details)[:10])
    store._writer.execute("UPDATE keys SET details = ?", (shorter,))
    assert life.show(key_id).former == ()
    states = []
    for (digest,) in store._reader.execute("SELECT digest FROM key_versions ORDER BY version").fetchall():
        found = store.find(digest)
        assert found is not None
        states.append(found.state(11))
    assert states == ["expired", "active"]
    store.close()


def test_words_that_are_no_text(path: Path) -> None:
    store = SqliteKeyStore(path)
    with pytest.raises(UsageError):
        store.get("\udcff")
    with pytest.raises(UsageError):
        store.select(client="\udcff")
    store.close()


def _open(path: str) -> str:
    try:
        SqliteKeyStore(Path(path)).close()
    except StoreError as error:
        return str(error)
    return "ok"


def test_processes_that_make_it_at_the_same_time(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(_open, [str(tmp_path / "warm" / "keys.db")] * 4)
        for turn in range(8):
            told = pool.map(_open, [str(tmp_path / f"data{turn}" / "keys.db")] * 8, chunksize=1)
            assert told == ["ok"] * 8


def _create(arguments: tuple[str, int]) -> list[str]:
    path, count = arguments
    store = SqliteKeyStore(Path(path))
    life = Lifecycle(store, of(b"p" * 32), os.urandom)
    made = [life.create(0, client="acme", tier="free")[0].id for _ in range(count)]
    store.close()
    return made


def test_keys_of_several_processes_are_all_there(path: Path) -> None:
    create: Callable[[tuple[str, int]], list[str]] = _create
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = [key_id for ids in pool.map(create, [(str(path), 10)] * 3) for key_id in ids]
    store = SqliteKeyStore(path)
    assert sorted(made) == [record.id for record in store.select()]
    assert store.digests()[1] == 30
    store.close()
