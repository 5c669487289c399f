"""All keys in memory: what each answers, that a change is in force at once, that a guess costs no I/O, and what an outage means."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm_authz.errors import StoreError
from slm_authz.identity import directory as module
from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.key_format import checksum, mint, random_text
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.principal import Principal
from slm_authz.reason import Denial, Reason
from slm_authz.store.keys import SqliteKeyStore


@pytest.fixture
def directory(watched: Any, pepper: Pepper) -> KeyDirectory:
    return KeyDirectory(watched, pepper)


def reason(answer: Principal | Denial) -> str:
    return answer.reason.value if isinstance(answer, Denial) else "ok"


def ask(directory: KeyDirectory, key: str, now: int = 1000) -> str:
    """What one call is told, the way the corridor asks."""
    directory.refresh()
    return reason(directory.authenticate(key, now))


def forged() -> str:
    return mint("live", random_text(12, os.urandom), random_text(32, os.urandom))


def test_each_bad_key_has_its_reason_and_all_have_one_answer(life: Lifecycle, directory: KeyDirectory) -> None:
    made = {name: life.create(0, client=name, tier="free", expires_in=500 if name == "expired" else None) for name in
            ("active", "disabled", "expired", "revoked", "both")}  # fmt: skip
    life.disable(made["disabled"][0].id)
    life.disable(made["both"][0].id)
    life.revoke([made["revoked"][0].id, made["both"][0].id], 5)
    key = made["active"][1]
    keys = {name: made[name][1] for name in made} | {
        "unknown": forged(),
        "mistyped": key[:-7] + ("0" if key[-7] != "0" else "1") + key[-6:],
        "short": key[:-1],
        "long": key + "0",
        "empty": "slm_",
        "huge": "slm_" + "a" * 100_000,
        "not ascii": "slm_live_" + "ü" * 51,
        "surrogate": "\udcff" * 60,
    }
    directory.refresh()
    answers = {name: directory.authenticate(key, 1000) for name, key in keys.items()}
    assert {name: reason(answer) for name, answer in answers.items()} == {
        "active": "ok",
        "disabled": "key_disabled",
        "expired": "key_expired",
        "revoked": "key_revoked",
        "both": "key_revoked",
        "unknown": "unknown_key",
        "mistyped": "malformed_key",
        "short": "malformed_key",
        "long": "malformed_key",
        "empty": "malformed_key",
        "huge": "malformed_key",
        "not ascii": "malformed_key",
        "surrogate": "malformed_key",
    }
    shown = {
        (d.message, d.public_code, d.http_status, d.retry_after, d.should_retry, d.param, d.headers, d.limit)
        for d in answers.values()
        if isinstance(d, Denial)
    }
    assert len(shown) == 1
    about = {
        name: answer.about.client for name, answer in answers.items() if isinstance(answer, Denial) and isinstance(answer.about, Principal)
    }
    assert about == {name: name for name in ("disabled", "expired", "revoked", "both")}
    assert next(iter(shown))[1:3] == ("invalid_api_key", 401)


def test_a_principal_is_built_once(life: Lifecycle, directory: KeyDirectory) -> None:
    record, key = life.create(0, client="acme", tier="free", tenant="t", scopes=("a",), labels={"x": "y"}, allow_ip=("10.0.0.1",))
    directory.refresh()
    first, second = directory.authenticate(key, 1), directory.authenticate(key, 2)
    assert isinstance(first, Principal)
    assert first is second
    assert (first.method, first.client, first.tier, first.tenant, first.key_id) == ("api_key", "acme", "free", "t", record.id)
    assert (first.scopes, first.labels, [str(n) for n in first.allow_ip]) == (("a",), {"x": "y"}, ["10.0.0.1/32"])


def test_changes_are_in_force_for_the_next_call(life: Lifecycle, directory: KeyDirectory) -> None:
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key) == "ok"
    life.disable(record.id)
    assert ask(directory, key) == "key_disabled"
    life.enable(record.id)
    assert ask(directory, key) == "ok"
    life.update(record.id, {"expires_at": 2000, "tier": "pro", "models": ("m",), "labels": {"a": "b"}})
    assert ask(directory, key, 1999) == "ok"
    changed = directory.authenticate(key, 1999)
    assert isinstance(changed, Principal)
    assert (changed.tier, changed.models, changed.labels, changed.answer, changed.account) == ("pro", ("m",), {"a": "b"}, None, None)
    assert ask(directory, key, 2000) == "key_expired"
    life.update(record.id, {"expires_at": None})
    assert ask(directory, key, 2000) == "ok"
    life.revoke([record.id], 3000)
    assert ask(directory, key, 3000) == "key_revoked"


def test_a_batch_sees_one_state(life: Lifecycle, directory: KeyDirectory) -> None:
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key) == "ok"
    life.revoke([record.id], 5)
    assert reason(directory.authenticate(key, 6)) == "ok"  # the same batch: it began before
    assert ask(directory, key) == "key_revoked"


def test_its_own_store_may_be_the_one_that_is_written_to(open_store: Callable[[], SqliteKeyStore], pepper: Pepper) -> None:
    store = open_store()
    directory, life = KeyDirectory(store, pepper), Lifecycle(store, pepper, os.urandom)
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key) == "ok"
    life.revoke([record.id], 5)
    assert ask(directory, key) == "key_revoked"


@pytest.mark.slow
def test_a_million_guesses_cost_no_look_up(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    life.create(0, client="acme", tier="free")
    directory.refresh()
    watched.calls.clear()
    assert {reason(directory.authenticate(forged(), 1)) for _ in range(1_000_000)} == {"unknown_key"}
    assert watched.calls == {}
    assert len(directory._by_sha) == 0


def test_a_known_key_is_read_once(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    _, key = life.create(0, client="acme", tier="free")
    for _ in range(10):
        assert ask(directory, key) == "ok"
    assert watched.calls["find"] == 1
    assert watched.calls["changes"] == 1


def test_what_is_remembered_is_bounded(life: Lifecycle, directory: KeyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    made = [life.create(0, client=f"c{n}", tier="free") for n in range(10)]
    for _ in range(3):
        assert {ask(directory, key) for _, key in made} == {"ok"}
        assert len(directory._by_sha) <= 3
        assert len(directory._shas) <= 3
    life.revoke([record.id for record, _ in made[:5]], 5)
    assert [ask(directory, key) for _, key in made] == ["key_revoked"] * 5 + ["ok"] * 5


def test_what_could_not_be_read_is_read_when_it_can(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key) == "ok"
    life.revoke([record.id], 5)
    watched.failing = {"changes"}
    assert ask(directory, key) == "ok"
    assert not directory.ok
    watched.failing = set()
    assert ask(directory, key) == "key_revoked"
    assert directory.ok


def test_a_broken_reading_of_the_database_loses_no_change(
    life: Lifecycle, open_store: Callable[[], SqliteKeyStore], pepper: Pepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slm_authz.store import keys as sqlite_keys

    store = open_store()
    directory = KeyDirectory(store, pepper)
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key) == "ok"
    life.revoke([record.id], 5)
    with monkeypatch.context() as patched:
        patched.setattr(sqlite_keys, "_CHANGES", "SELECT * FROM nowhere WHERE ?")
        assert ask(directory, key) == "ok"
        assert not directory.ok
    assert ask(directory, key) == "key_revoked"
    assert directory.ok


def test_an_older_state_that_is_restored_is_read_whole(
    life: Lifecycle, directory: KeyDirectory, open_store: Callable[[], SqliteKeyStore], tmp_path: Path
) -> None:
    """`sqlite3`'s backup into the live file: its change_seq is behind what has been seen, and begins to grow again from there."""
    kept, old = life.create(0, client="kept", tier="free")
    backup = sqlite3.connect(tmp_path / "backup.db")
    live = open_store()._writer
    live.backup(backup)
    _, lost = life.create(0, client="lost", tier="free")
    life.disable(kept.id)
    assert (ask(directory, old), ask(directory, lost)) == ("key_disabled", "ok")
    backup.backup(live)
    backup.close()
    assert (ask(directory, old), ask(directory, lost)) == ("ok", "unknown_key")
    _, new = life.create(0, client="new", tier="free")
    life.revoke([kept.id], 5)
    assert (ask(directory, old), ask(directory, new)) == ("key_revoked", "ok")
    assert directory.ok


def test_an_outage_is_noticed_without_calls_and_so_is_its_end(
    life: Lifecycle, directory: KeyDirectory, watched: Any, caplog: pytest.LogCaptureFixture
) -> None:
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key) == "ok"
    watched.failing = {"changed"}
    for _ in range(3):
        directory.look()
    assert (directory.up, directory.ok) == (False, True)
    assert ask(directory, key) == "ok"
    assert not directory.ok
    assert len(caplog.records) == 1, "one line, whoever notices"
    life.revoke([record.id], 5)
    watched.failing = set()
    directory.look()
    assert (directory.up, directory.ok) == (True, False), "ready, and the first call learns what has changed"
    assert ask(directory, key) == "key_revoked"
    assert (directory.up, directory.ok) == (True, True)


def test_an_outage(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    _, known = life.create(0, client="acme", tier="free")
    _, new = life.create(0, client="new", tier="free")
    assert ask(directory, known) == "ok"
    watched.failing = {"changed", "find"}
    assert ask(directory, known, 5000) == "ok"
    assert ask(directory, new, 5000) == "store_unavailable"
    assert ask(directory, forged(), 5000) == "unknown_key"
    assert (directory.ok, directory.down_since) == (False, 5000)
    assert ask(directory, known, 5000 + module.MAX_STALE) == "ok"
    assert ask(directory, known, 5001 + module.MAX_STALE) == "store_unavailable"
    watched.failing = set()
    assert ask(directory, known, 5002 + module.MAX_STALE) == "ok"
    assert (directory.ok, directory.down_since) == (True, None)


def test_an_outage_does_not_revive_what_was_refused(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    record, key = life.create(0, client="acme", tier="free")
    life.revoke([record.id], 5)
    assert ask(directory, key) == "key_revoked"
    watched.failing = {"changed", "find"}
    assert ask(directory, key, 10**9) == "key_revoked"


def test_last_uses_are_written_rarely_and_tell_nobody(
    life: Lifecycle, directory: KeyDirectory, watched: Any, open_store: Callable[[], SqliteKeyStore]
) -> None:
    record, key = life.create(0, client="acme", tier="free")
    start = 10**12
    for now in range(start, start + 200_000, 1000):
        assert ask(directory, key, now) == "ok"
    before = open_store().digests()[1]
    directory.flush_used()
    directory.flush_used()
    assert watched.calls["used"] == 1
    last = life.show(record.id).last_used_at
    assert last is not None
    assert start + 200_000 - 61_000 <= last <= start + 200_000
    assert open_store().digests()[1] == before
    assert ask(directory, key, start) == "ok"
    assert watched.calls["find"] == 1


def test_a_refused_key_is_not_used(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    record, key = life.create(0, client="acme", tier="free")
    life.disable(record.id)
    assert ask(directory, key, 10**12) == "key_disabled"
    directory.flush_used()
    assert "used" not in watched.calls


def test_last_uses_that_could_not_be_written_are_kept(life: Lifecycle, directory: KeyDirectory, watched: Any) -> None:
    record, key = life.create(0, client="acme", tier="free")
    assert ask(directory, key, 10**12) == "ok"
    watched.failing = {"used"}
    with pytest.raises(StoreError):
        directory.flush_used()
    watched.failing = set()
    directory.flush_used()
    assert life.show(record.id).last_used_at == 10**12


def test_a_forged_checksum_is_no_key(directory: KeyDirectory) -> None:
    body = "slm_live_000000000000_" + "0" * 32
    assert reason(directory.authenticate(body + checksum(body), 1)) == Reason.UNKNOWN_KEY
