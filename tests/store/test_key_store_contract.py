"""What every cupboard for keys must do (`identity.store.KeyStore`). A backend is one more line in `BACKENDS`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from slm_authz.errors import StoreError
from slm_authz.identity.record import KeyRecord
from slm_authz.identity.store import KeyStore
from slm_authz.store.keys import SqliteKeyStore

BACKENDS: dict[str, Callable[[Path], KeyStore]] = {"sqlite": lambda directory: SqliteKeyStore(directory / "data" / "keys.db")}
Open = Callable[[], KeyStore]


@pytest.fixture(params=sorted(BACKENDS))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one more handle on the same keys, as another process would."""
    handles: list[KeyStore] = []

    def one_more() -> KeyStore:
        handles.append(BACKENDS[request.param](tmp_path))
        return handles[-1]

    yield one_more
    for handle in handles:
        handle.close()


def record(number: int, **changes: Any) -> KeyRecord:
    """A key with every member filled, each with something of its own."""
    full = KeyRecord(
        id=f"{number:012d}",
        client="acme",
        tenant="t",
        tier="free",
        name="Ä name; 'quoted'",
        env="test",
        models=("m", "phi-*"),
        scopes=("a", "b"),
        allow_ip=("10.0.0.0/8", "::/0"),
        labels={"team": "x", "empty": ""},
        created_at=1_700_000_000_123,
        expires_at=2**53,
        last_used_at=None,
        disabled=False,
        revoked_at=None,
        version=1,
        pepper="p",
        digest=number.to_bytes(32, "big"),
    )
    return msgspec.structs.replace(full, **changes)


def same(found: KeyRecord | None, expected: KeyRecord) -> bool:
    return found is not None and msgspec.structs.replace(found, change_seq=0) == msgspec.structs.replace(expected, change_seq=0)


def fresh(store: KeyStore, number: int) -> KeyRecord:
    found = store.get(f"{number:012d}")
    assert found is not None
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tenant": None, "name": None, "models": None, "scopes": (), "allow_ip": (), "labels": {}, "expires_at": None},
        {"disabled": True, "revoked_at": 7, "env": "live", "models": ()},
    ],
)
def test_what_goes_in_comes_out(opened: Open, changes: dict[str, Any]) -> None:
    store, other = opened(), opened()
    key = record(1, **changes)
    store.insert(key)
    for handle in (store, other):
        assert same(handle.get(key.id), key)
        assert same(handle.find(key.digest), key)
        assert [same(found, key) for found in handle.select()] == [True]
    assert store.get("nobody") is None
    assert store.find(b"\0" * 32) is None


def test_an_id_or_secret_is_there_once(opened: Open) -> None:
    store = opened()
    store.insert(record(1))
    for twin in (record(2, id=record(1).id), record(2, digest=record(1).digest)):
        with pytest.raises(StoreError, match="exists"):
            store.insert(twin)
    assert len(store.select()) == 1
    assert same(store.get(record(1).id), record(1))
    store.insert(record(2))


def test_all_keys_name_one_pepper(opened: Open) -> None:
    store = opened()
    assert store.peppers() == frozenset()
    store.insert(record(1))
    with pytest.raises(StoreError, match="pepper"):
        opened().insert(record(2, pepper="other"))
    assert store.peppers() == {"p"}


def test_pages_in_order_of_id(opened: Open) -> None:
    store = opened()
    for number in (5, 3, 4, 1, 2):
        store.insert(record(number, client="even" if number % 2 == 0 else "odd", tenant=None if number == 1 else "t", tier=f"tier{number}"))
    ids = [f"{number:012d}" for number in range(1, 6)]
    assert [key.id for key in store.select()] == ids
    assert [key.id for key in store.select(limit=2)] == ids[:2]
    assert [key.id for key in store.select(after=ids[1], limit=2)] == ids[2:4]
    assert [key.id for key in store.select(client="odd")] == [ids[0], ids[2], ids[4]]
    assert [key.id for key in store.select(client="odd", tenant="t")] == [ids[2], ids[4]]
    assert [key.id for key in store.select(tier="tier4")] == [ids[3]]
    assert store.select(client="' OR 1=1 --") == []
    assert store.select(after=ids[4]) == []


def test_replace_is_all_or_none(opened: Open) -> None:
    store, other = opened(), opened()
    for number in (1, 2):
        store.insert(record(number))
    one, two = fresh(store, 1), fresh(store, 2)
    assert other.replace([msgspec.structs.replace(fresh(other, 2), tier="pro")])
    assert not store.replace([msgspec.structs.replace(one, disabled=True), msgspec.structs.replace(two, disabled=True)])
    assert [(fresh(store, n).disabled, fresh(store, n).tier) for n in (1, 2)] == [(False, "free"), (False, "pro")]
    assert store.replace([msgspec.structs.replace(fresh(store, n), disabled=True) for n in (1, 2)])
    assert [(fresh(other, n).disabled, fresh(other, n).tier) for n in (1, 2)] == [(True, "free"), (True, "pro")]
    assert store.replace([])


def test_a_new_version_brings_its_secret(opened: Open) -> None:
    store, other = opened(), opened()
    store.insert(record(1))
    store.insert(record(2))
    _, seq = other.digests()
    first = fresh(store, 1)
    second = msgspec.structs.replace(first, version=2, digest=b"2" * 32, former=((1, 500),))
    assert store.replace([second])
    assert {(key_id, digest) for key_id, digest, _ in other.changes(seq) or ()} == {(first.id, first.digest), (first.id, b"2" * 32)}
    assert other.digests()[0] == {first.digest, b"2" * 32, record(2).digest}
    assert same(other.get(first.id), second)
    assert same(other.find(b"2" * 32), second)
    assert [same(key, second) for key in other.select(client="acme")] == [True, False]
    assert same(other.find(first.digest), msgspec.structs.replace(second, digest=first.digest, ends_at=500))
    third = msgspec.structs.replace(fresh(store, 1), version=3, digest=b"3" * 32, former=((2, 900),))
    assert store.replace([third])
    ended = store.find(first.digest)
    assert ended is not None
    assert (ended.ends_at, ended.state(0)) == (0, "expired")
    assert store.replace([msgspec.structs.replace(fresh(store, 1), name="N")])
    assert fresh(store, 1).digest == b"3" * 32


def test_a_new_version_whose_secret_is_taken_or_of_another_pepper_is_refused_whole(opened: Open) -> None:
    store = opened()
    store.insert(record(1))
    store.insert(record(2))
    before = fresh(store, 1)
    for wrong in ({"digest": record(2).digest}, {"digest": b"2" * 32, "pepper": "other"}):
        with pytest.raises(StoreError):
            store.replace([msgspec.structs.replace(before, version=2, former=((1, 500),), **wrong)])
        assert same(fresh(store, 1), before)
        assert len(store.digests()[0]) == 2


def test_replace_makes_no_key(opened: Open) -> None:
    store = opened()
    assert not store.replace([record(1)])
    assert store.select() == []


def test_changes_are_told_to_every_handle_once(opened: Open) -> None:
    store, other = opened(), opened()
    seqs = {}
    for handle in (store, other):
        digests, seqs[id(handle)] = handle.digests()
        assert digests == set()
        list(handle.changes(0) or ())
    store.insert(record(1))
    other.insert(record(2))
    for handle in (store, other):
        assert handle.changed()
        told = list(handle.changes(seqs[id(handle)]) or ())
        assert [(key_id, digest) for key_id, digest, _ in told] == [(record(n).id, record(n).digest) for n in (1, 2)]
        assert [seq for *_, seq in told] == sorted({seq for *_, seq in told})
        seqs[id(handle)] = told[-1][2]
        assert not handle.changed()
        assert list(handle.changes(seqs[id(handle)]) or ()) == []
        assert handle.digests() == ({record(1).digest, record(2).digest}, seqs[id(handle)])
    assert other.replace([msgspec.structs.replace(fresh(other, 1), disabled=True)])
    for handle in (store, other):
        assert handle.changed()
        told = list(handle.changes(seqs[id(handle)]) or ())
        assert [key_id for key_id, *_ in told] == [record(1).id]
        assert told[0][2] > seqs[id(handle)]


def test_what_was_refused_is_no_change(opened: Open) -> None:
    store = opened()
    store.insert(record(1))
    seq = store.digests()[1]
    assert not store.replace([record(1)])
    with pytest.raises(StoreError):
        store.insert(record(1))
    assert store.digests()[1] == seq
    assert list(store.changes(seq) or ()) == []


def test_last_uses_keep_the_latest_and_are_no_change(opened: Open) -> None:
    store, other = opened(), opened()
    store.insert(record(1))
    seq = store.digests()[1]
    store.used([(record(1).id, 50), ("nobody", 60)])
    other.used([(record(1).id, 40)])
    assert fresh(other, 1).last_used_at == 50
    assert list(other.changes(seq) or ()) == []
    assert store.replace([msgspec.structs.replace(fresh(store, 1), tier="pro")])
    assert fresh(store, 1).last_used_at == 50
    store.used([])


def test_keys_outlive_their_process(opened: Open) -> None:
    store = opened()
    store.insert(record(1))
    store.close()
    assert same(opened().get(record(1).id), record(1))


def test_a_closed_store_says_so(opened: Open) -> None:
    store = opened()
    store.close()
    for act in (store.changed, store.digests, store.peppers, lambda: store.get("a"), lambda: store.insert(record(1))):
        with pytest.raises(StoreError):
            act()


def test_many_threads_on_two_handles(opened: Open) -> None:
    """No lost key, no lost change, no exception: writers that collide wait or are told."""
    handles = [opened(), opened()]
    handles[0].insert(record(0, labels={"count": "0"}))
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        store = handles[worker % 2]
        try:
            for step in range(5):
                store.insert(record(100 * worker + step + 1))
                while True:
                    key = fresh(store, 0)
                    if store.replace([msgspec.structs.replace(key, labels={"count": str(int(key.labels["count"]) + 1)})]):
                        break
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert fresh(handles[0], 0).labels == {"count": "20"}
    assert len(handles[1].select()) == 21
    digests, seq = handles[1].digests()
    assert len(digests) == 21
    assert seq == 41
