"""The life of a key, driven from two handles on one store, as two processes would."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from slm_authz.errors import NotFound, SlmAuthzError, StoreError, UsageError
from slm_authz.identity.key_format import parse
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import Pepper
from slm_authz.store.keys import SqliteKeyStore
from tests.identity.interrupted import Interrupted


def test_create(life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper) -> None:
    record, key = life.create(
        1000, client="acme", tier="free", tenant="t", name="CI", env="test", models=("m",), scopes=("a",), allow_ip=("10.0.0.1",),
        labels={"team": "x"}, expires_in=500,
    )  # fmt: skip
    parts = parse(key)
    assert parts is not None
    assert (parts.env, parts.id) == ("test", record.id)
    stored = Lifecycle(open_store(), pepper, os.urandom).show(record.id)
    assert stored.public(1000) == record.public(1000)
    assert (stored.expires_at, stored.version, stored.state(1000), stored.state(1500)) == (1500, 1, "active", "expired")
    assert (stored.pepper, stored.digest) == (pepper.name, record.digest)


def test_no_two_keys_are_alike(life: Lifecycle) -> None:
    made = [life.create(0, client="acme", tier="free") for _ in range(20)]
    assert len({key for _, key in made} | {record.id for record, _ in made} | {record.digest for record, _ in made}) == 60
    assert [record.id for record in life.every()] == sorted(record.id for record, _ in made)


def test_nothing_of_the_secret_is_stored(life: Lifecycle, tmp_path: Any) -> None:
    _, key = life.create(0, client="acme", tier="free")
    secret = key.rpartition("_")[2]
    life.verify(key)
    for file in (tmp_path / "data").iterdir():
        content = file.read_bytes()
        assert secret.encode() not in content, file
        assert secret[:16].encode() not in content, file


def test_verify_tells_the_record_whatever_its_state(life: Lifecycle) -> None:
    record, key = life.create(0, client="acme", tier="free")
    life.disable(record.id)
    found = life.verify(key)
    assert found is not None
    assert (found.id, found.state(0)) == (record.id, "disabled")
    assert life.verify(key[:-1] + ("0" if key[-1] != "0" else "1")) is None
    assert life.verify("slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq") is None
    assert life.verify("\udcff") is None


@pytest.mark.parametrize("around", ["{}", " {}", "Bearer {}", "'{}'", "{}0", "key={}\n"])
def test_a_key_in_place_of_an_id_is_told_its_id_and_not_repeated(life: Lifecycle, around: str) -> None:
    record, key = life.create(0, client="acme", tier="free")
    with pytest.raises(NotFound, match=f"That is a key, not an id. Its id is {record.id}") as caught:
        life.show(around.format(key))
    assert key[22:] not in str(caught.value)


def test_disable_and_enable(life: Lifecycle) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    assert life.disable(record.id).state(0) == "disabled" == life.show(record.id).state(0)
    assert life.disable(record.id).state(0) == "disabled"
    assert life.enable(record.id).state(0) == "active" == life.show(record.id).state(0)


def test_a_revoked_key_stays_revoked(life: Lifecycle) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    assert [done.id for done in life.revoke([record.id], 7)] == [record.id]
    with pytest.raises(SlmAuthzError, match="for good") as refused:
        life.enable(record.id)
    assert refused.value.exit_code == 1
    life.update(record.id, {"tier": "pro", "expires_at": None})
    life.disable(record.id)
    assert (life.show(record.id).state(9), life.show(record.id).revoked_at) == ("revoked", 7)
    assert life.revoke([record.id], 9) == []


def test_revoke_is_all_or_none(life: Lifecycle) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    with pytest.raises(NotFound):
        life.revoke([record.id, "nobody"], 7)
    assert life.show(record.id).state(7) == "active"
    assert len(life.revoke([record.id, record.id], 7)) == 1


def test_a_dry_run_changes_nothing(life: Lifecycle) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    assert [due.state(0) for due in life.revoke([record.id], 7, dry_run=True)] == ["active"]
    assert life.show(record.id).state(0) == "active"


def test_the_keys_of_a_client(life: Lifecycle) -> None:
    made = {tenant: life.create(0, client="acme", tier="free", tenant=tenant)[0].id for tenant in (None, "a", "b")}
    life.create(0, client="acme2", tier="free")
    assert {record.id for record in life.of_client("acme")} == set(made.values())
    assert [record.id for record in life.of_client("acme", "b")] == [made["b"]]
    with pytest.raises(NotFound):
        life.of_client("acm")


def test_update(life: Lifecycle) -> None:
    record, _ = life.create(0, client="acme", tier="free", scopes=("a",), labels={"x": "1"})
    changed = life.update(
        record.id,
        {"tier": "pro", "models": ("m",), "name": "N", "labels": {"y": "2"}, "allow_ip": ("10.0.0.1",), "scopes": (), "expires_at": 9},
    )
    assert changed.public(0) == life.show(record.id).public(0)
    assert (changed.tier, changed.models, changed.labels, changed.allow_ip) == ("pro", ("m",), {"y": "2"}, ("10.0.0.1/32",))
    assert (changed.client, changed.digest, changed.version) == (record.client, record.digest, 1)
    assert life.update(record.id, {"models": None, "expires_at": None}).models is None


@pytest.mark.parametrize(
    "changes", [{"tier": "a b"}, {"scopes": ("a,b",)}, {"models": ()}, {"client": "evil"}, {"version": 2}, {"digest": b""}]
)
def test_an_update_that_is_refused_changes_nothing(life: Lifecycle, changes: dict[str, Any]) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    with pytest.raises(UsageError):
        life.update(record.id, changes)
    assert life.show(record.id).public(0) == record.public(0)


def test_an_unknown_id(life: Lifecycle) -> None:
    for act in (life.show, life.disable, life.enable):
        with pytest.raises(NotFound, match="nobody"):
            act("nobody")


def test_a_key_in_place_of_its_id_is_not_repeated(life: Lifecycle) -> None:
    record, key = life.create(0, client="acme", tier="free")
    for word in (key, key[:-1]):
        with pytest.raises(NotFound) as refused:
            life.show(word)
        assert key.rpartition("_")[2][:8] not in str(refused.value)
    with pytest.raises(NotFound, match=record.id):
        life.show(key)


@pytest.mark.parametrize("act", ["update", "disable", "revoke", "rotate"])
def test_a_change_never_undoes_what_another_process_did_meanwhile(
    life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper, act: str
) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    late: Any = Interrupted(open_store(), [lambda: life.revoke([record.id], 5), lambda: life.update(record.id, {"tier": "pro"})])
    slow = Lifecycle(late, pepper, os.urandom)
    if act == "update":
        slow.update(record.id, {"name": "N"})
    elif act == "disable":
        slow.disable(record.id)
    elif act == "rotate":
        with pytest.raises(SlmAuthzError, match="for good"):
            slow.rotate(record.id, 9, grace=0)
        slow.update(record.id, {"labels": {}})
    else:
        slow.revoke([record.id], 9)
    after = life.show(record.id)
    assert (after.revoked_at, after.tier) == (5, "pro")
    assert (after.name == "N", after.disabled) == (act == "update", act == "disable")


def test_enabling_what_is_being_revoked_is_refused(life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    life.disable(record.id)
    late: Any = Interrupted(open_store(), [lambda: life.revoke([record.id], 5)])
    with pytest.raises(SlmAuthzError, match="for good"):
        Lifecycle(late, pepper, os.urandom).enable(record.id)
    assert life.show(record.id).state(6) == "revoked"


def test_who_never_gets_his_turn_is_told(life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper) -> None:
    record, _ = life.create(0, client="acme", tier="free")
    late: Any = Interrupted(open_store(), [lambda: life.update(record.id, {"name": "N"})] * 1000)
    with pytest.raises(StoreError, match="Retry"):
        Lifecycle(late, pepper, os.urandom).disable(record.id)
