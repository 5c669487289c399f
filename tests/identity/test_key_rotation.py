"""A new secret under the same id: who is let in with which secret and until when, and that nothing else of the key changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from slm_authz.errors import NotFound, SlmAuthzError
from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.lifecycle import MAX_EARLIER, Lifecycle
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.principal import Principal
from slm_authz.reason import Denial
from slm_authz.store.keys import SqliteKeyStore
from tests.identity.interrupted import Interrupted


@pytest.fixture
def directory(watched: Any, pepper: Pepper) -> KeyDirectory:
    return KeyDirectory(watched, pepper)


@pytest.fixture
def ask(directory: KeyDirectory) -> Callable[[str, int], str]:
    """What one call with a key at a time is told."""

    def one(key: str, now: int) -> str:
        directory.refresh()
        answer = directory.authenticate(key, now)
        return answer.reason.value if isinstance(answer, Denial) else "ok"

    return one


Ask = Callable[[str, int], str]


def test_both_secrets_serve_until_the_grace_ends(life: Lifecycle, ask: Ask) -> None:
    record, old = life.create(0, client="acme", tier="free")
    assert ask(old, 1) == "ok"
    _, new = life.rotate(record.id, 100, grace=50)
    assert new != old
    for now in (100, 149):
        assert (ask(old, now), ask(new, now)) == ("ok", "ok")
    for now in (150, 10**15):
        assert (ask(old, now), ask(new, now)) == ("key_expired", "ok")


def test_without_grace_the_old_secret_is_refused_at_the_next_call(life: Lifecycle, ask: Ask) -> None:
    record, old = life.create(0, client="acme", tier="free")
    assert ask(old, 100) == "ok"
    _, new = life.rotate(record.id, 100, grace=0)
    assert (ask(old, 100), ask(new, 100)) == ("key_expired", "ok")


def test_what_belongs_to_the_key_stays(life: Lifecycle, directory: KeyDirectory) -> None:
    record, old = life.create(
        7, client="acme", tenant="t", tier="free", name="N", env="test", models=("m",), scopes=("a",), allow_ip=("10.0.0.0/8",),
        labels={"x": "y"}, expires_in=10_000,
    )  # fmt: skip
    rotated, new = life.rotate(record.id, 100, grace=50)
    assert new.startswith(f"slm_test_{record.id}_")
    same = msgspec.structs.replace(rotated, version=1, digest=record.digest, former=(), change_seq=0)
    assert same == msgspec.structs.replace(record, change_seq=0)
    assert (rotated.version, rotated.former) == (2, ((1, 150),))
    assert rotated.public(100) == {**record.public(100), "version": 2}
    directory.refresh()
    first, second = directory.authenticate(old, 101), directory.authenticate(new, 101)
    assert isinstance(first, Principal)
    assert isinstance(second, Principal)
    assert (first.key_id, first.client, first.tenant, first.scopes) == (second.key_id, second.client, second.tenant, second.scopes)


def test_a_later_rotation_ends_what_still_serves_and_prolongs_nothing(life: Lifecycle, ask: Ask) -> None:
    record, first = life.create(0, client="acme", tier="free")
    _, second = life.rotate(record.id, 100, grace=50)
    after, third = life.rotate(record.id, 110, grace=1000)
    assert after.former == ((1, 150), (2, 1110))
    assert [ask(key, 149) for key in (first, second, third)] == ["ok", "ok", "ok"]
    assert [ask(key, 150) for key in (first, second, third)] == ["key_expired", "ok", "ok"]
    after, fourth = life.rotate(record.id, 200, grace=0)
    assert after.former == ()
    assert [ask(key, 200) for key in (first, second, third, fourth)] == ["key_expired"] * 3 + ["ok"]


def test_the_key_ends_all_of_its_secrets(life: Lifecycle, ask: Ask) -> None:
    record, old = life.create(0, client="acme", tier="free", expires_in=120)
    _, new = life.rotate(record.id, 100, grace=50)
    assert (ask(old, 119), ask(new, 119)) == ("ok", "ok")
    assert (ask(old, 120), ask(new, 120)) == ("key_expired", "key_expired")
    life.update(record.id, {"expires_at": None, "tier": "pro"})
    assert (ask(old, 149), ask(new, 149)) == ("ok", "ok")
    life.disable(record.id)
    assert (ask(old, 149), ask(new, 149)) == ("key_disabled", "key_disabled")
    life.enable(record.id)
    life.revoke([record.id], 149)
    assert (ask(old, 149), ask(new, 149)) == ("key_revoked", "key_revoked")


def test_a_disabled_key_gets_a_secret_and_stays_disabled(life: Lifecycle, ask: Ask) -> None:
    """Stop a leak first, replace the secret, let the owner in again: the old one never serves in between."""
    record, old = life.create(0, client="acme", tier="free")
    life.disable(record.id)
    _, new = life.rotate(record.id, 100, grace=0)
    assert (ask(old, 100), ask(new, 100)) == ("key_disabled", "key_disabled")
    life.enable(record.id)
    assert (ask(old, 100), ask(new, 100)) == ("key_expired", "ok")


@pytest.mark.parametrize("disabled", [False, True])
def test_what_would_be_refused_anyway_gets_no_secret(life: Lifecycle, open_store: Callable[[], SqliteKeyStore], disabled: bool) -> None:
    revoked, expired = life.create(0, client="acme", tier="free")[0], life.create(0, client="acme", tier="free", expires_in=50)[0]
    life.revoke([revoked.id], 5)
    if disabled:
        life.disable(expired.id)
    before = open_store().digests()
    with pytest.raises(SlmAuthzError, match="revoked for good"):
        life.rotate(revoked.id, 100, grace=0)
    with pytest.raises(SlmAuthzError, match="has expired") as caught:
        life.rotate(expired.id, 50, grace=0)
    assert f"keys update {expired.id} --expires" in str(caught.value)
    with pytest.raises(NotFound):
        life.rotate("nobody000000", 100, grace=0)
    assert open_store().digests() == before


def test_few_secrets_serve_at_once(life: Lifecycle, ask: Ask) -> None:
    record, first = life.create(0, client="acme", tier="free")
    for _ in range(MAX_EARLIER):
        life.rotate(record.id, 100, grace=50)
    with pytest.raises(SlmAuthzError, match="--grace 0s"):
        life.rotate(record.id, 100, grace=50)
    assert ask(first, 149) == "ok"
    assert life.rotate(record.id, 150, grace=50)[0].former == ((MAX_EARLIER + 1, 200),)
    for _ in range(MAX_EARLIER - 1):
        life.rotate(record.id, 150, grace=50)
    assert life.rotate(record.id, 150, grace=0)[0].former == ()


def test_verify_tells_what_a_call_would_be_told(life: Lifecycle) -> None:
    record, old = life.create(0, client="acme", tier="free")
    _, new = life.rotate(record.id, 100, grace=50)
    for now, key, state, ends_at in ((149, old, "active", 150), (150, old, "expired", 150), (150, new, "active", None)):
        found = life.verify(key)
        assert found is not None
        assert (found.id, found.state(now), found.ends_at) == (record.id, state, ends_at)


def test_a_rotation_in_two_processes_at_once_loses_neither_secret(
    life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper, ask: Ask
) -> None:
    record, old = life.create(0, client="acme", tier="free")
    made: list[str] = []
    late: Any = Interrupted(open_store(), [lambda: made.append(life.rotate(record.id, 100, grace=50)[1])])
    after, newest = Lifecycle(late, pepper, os.urandom).rotate(record.id, 100, grace=50)
    assert (after.version, after.former) == (3, ((1, 150), (2, 150)))
    assert [ask(key, 149) for key in (old, *made, newest)] == ["ok", "ok", "ok"]
