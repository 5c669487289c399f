"""Any interleaving of commands in other processes, calls, outages and restarts: the directory answers as a plain model of keys would."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from slm_authz.errors import SlmAuthzError, StoreError
from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import of
from slm_authz.reason import Denial
from slm_authz.store.keys import SqliteKeyStore


class Faulty:
    """The service's handle on the store, which fails while `down`."""

    def __init__(self, inner: SqliteKeyStore) -> None:
        self.inner = inner
        self.down = False

    def __getattr__(self, name: str) -> Any:
        if self.down:
            raise StoreError("down")
        return getattr(self.inner, name)


class Keys(RuleBasedStateMachine):
    """`expected`: key → [id, state, tier, expires_at], as the commands have left it, shared by all secrets of an id; `ends`: key → when its
    secret ends."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.pepper = of(b"p" * 32)
        self.now = 1000

    @initialize()
    def begin(self) -> None:
        self.lives = [Lifecycle(SqliteKeyStore(self.path), self.pepper, os.urandom) for _ in range(2)]
        self.expected: dict[str, list[Any]] = {}
        self.ends: dict[str, int] = {}
        self.restart()

    @property
    def path(self) -> Path:
        return Path(self.folder.name) / "data" / "keys.db"

    @rule()
    def restart(self) -> None:
        self.store = Faulty(SqliteKeyStore(self.path))
        self.directory = KeyDirectory(self.store, self.pepper)

    @rule(process=st.integers(0, 1), expires=st.none() | st.integers(1, 50))
    def create(self, process: int, expires: int | None) -> None:
        record, key = self.lives[process].create(self.now, client="acme", tier="free", expires_in=expires)
        self.expected[key] = [record.id, "active", "free", record.expires_at]

    @precondition(lambda self: self.expected)
    @rule(process=st.integers(0, 1), act=st.sampled_from(["disable", "enable", "revoke", "pro", "expires"]), data=st.data())
    def change(self, process: int, act: str, data: st.DataObject) -> None:
        life = self.lives[process]
        known = self.expected[data.draw(st.sampled_from(sorted(self.expected)))]
        key_id, revoked = known[0], known[1] == "revoked"
        if act == "pro":
            known[2] = life.update(key_id, {"tier": "pro"}).tier
        elif act == "expires":
            known[3] = life.update(key_id, {"expires_at": data.draw(st.none() | st.integers(900, 1200))}).expires_at
        elif act == "revoke":
            assert len(life.revoke([key_id], self.now)) == (0 if revoked else 1)
            known[1] = "revoked"
        elif act == "disable":
            life.disable(key_id)
            known[1] = "revoked" if revoked else "disabled"
        elif act == "enable" and revoked:
            try:
                life.enable(key_id)
                raise AssertionError
            except SlmAuthzError:
                pass
        else:
            life.enable(key_id)
            known[1] = "active"

    @precondition(lambda self: self.expected)
    @rule(process=st.integers(0, 1), grace=st.sampled_from([0, 1, 40, 400]), data=st.data())
    def rotate(self, process: int, grace: int, data: st.DataObject) -> None:
        known = self.expected[data.draw(st.sampled_from(sorted(self.expected)))]
        try:
            record, key = self.lives[process].rotate(known[0], self.now, grace=grace)
        except SlmAuthzError:
            assert known[1] == "revoked" or known[3] <= self.now
            return
        assert known[1] != "revoked"
        assert record.id == known[0]
        for earlier in [other for other, shared in self.expected.items() if shared is known]:
            self.ends[earlier] = min(self.ends.get(earlier, 2**53), self.now + grace)
        self.expected[key] = known

    @rule(passed=st.integers(0, 100))
    def wait(self, passed: int) -> None:
        self.now += passed

    @rule()
    def flush(self) -> None:
        self.directory.flush_used()

    @rule()
    def stumble(self) -> None:
        """A batch during an outage: whoever gets an answer gets one that was true once; what changed is not forgotten."""
        self.store.down = True
        self.directory.refresh()
        for key in self.expected:
            self.directory.authenticate(key, self.now)
        self.store.down = False

    @invariant()
    def everybody_is_told_the_truth(self) -> None:
        if not hasattr(self, "directory"):
            return
        self.directory.refresh()
        assert self.directory.ok
        for key, (key_id, state, tier, expires_at) in self.expected.items():
            answer = self.directory.authenticate(key, self.now)
            if state == "active" and (expires_at is None or self.now < expires_at) and self.now < self.ends.get(key, 2**53):
                assert not isinstance(answer, Denial)
                assert (answer.key_id, answer.tier) == (key_id, tier)
            else:
                assert isinstance(answer, Denial)
                assert answer.reason.value == f"key_{'expired' if state == 'active' else state}"

    def teardown(self) -> None:
        self.folder.cleanup()


Keys.TestCase.settings = settings(max_examples=15, stateful_step_count=20, suppress_health_check=list(HealthCheck))
TestKeys = Keys.TestCase
