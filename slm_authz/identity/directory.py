"""All keys, as the deciding thread knows them. Enters: a key. Leaves: a principal or a refusal, without I/O for a guess.

Every digest is in memory; a record is read when its key is first used, and kept. `refresh`, once per batch, forgets what any process has
changed since: a change is in force for every call that arrives after it was made.
"""

from __future__ import annotations

import logging
from collections import deque
from hashlib import sha256
from typing import Final

import msgspec

from slm_authz.errors import StoreError
from slm_authz.identity.key_format import LENGTH, parse
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.principal import Principal
from slm_authz.identity.store import KeyStore
from slm_authz.reason import Denial, Reason

log = logging.getLogger(__name__)

MAX_STALE: Final = 600_000
"""How long, in ms, known keys serve while the store cannot be read: then nobody can know any more which of them were revoked."""
_REMEMBERED: Final = 50_000
"""Used keys that are kept in memory; beyond that all are read anew."""
_USE_MS: Final = 60_000
"""A use is noted once a minute per key."""

_MESSAGE: Final = "The API key is not valid. Send a valid key as `Authorization: Bearer <key>`, or ask the operator for one."


def _bad(reason: Reason) -> Denial:
    # One indistinguishable answer: the audit event tells them apart, and whose key it was.
    return Denial(reason, _MESSAGE)


MALFORMED: Final = _bad(Reason.MALFORMED_KEY)
UNKNOWN: Final = _bad(Reason.UNKNOWN_KEY)
EXPIRED: Final = _bad(Reason.KEY_EXPIRED)
_BY_STATE: Final = {"disabled": _bad(Reason.KEY_DISABLED), "revoked": _bad(Reason.KEY_REVOKED)}
UNAVAILABLE: Final = Denial(Reason.STORE_UNAVAILABLE, "Keys cannot be looked up just now; retry in a moment.", retry_after=1)


class _Known(msgspec.Struct, eq=False):
    """A key that was used. refusal: why not, if not for its expiry; used_at: last use that was noted, in ms."""

    id: str
    principal: Principal
    refusal: Denial | None
    expires_at: int | None
    used_at: int = 0


class KeyDirectory:
    """Keys of one store under one pepper. Used by the deciding thread; `flush_used` and `look` by the housekeeper's.

    ok:         whether the store could be read at the last `refresh`
    up:         whether it could when it was last looked at, with a call or without
    down_since: the first call (ms) that found it otherwise, else None
    """

    def __init__(self, store: KeyStore, pepper: Pepper, max_stale: int = MAX_STALE) -> None:
        self._store = store
        self.pepper = pepper
        self._max_stale = max_stale
        self._digests, self._seq = store.digests()
        self._by_sha: dict[bytes, _Known] = {}
        self._shas: dict[str, list[bytes]] = {}
        self._used: deque[tuple[str, int]] = deque()
        self._unwritten: dict[str, int] = {}
        self.ok = self.up = True
        self.down_since: int | None = None

    def __len__(self) -> int:
        return len(self._digests)

    def refresh(self) -> None:
        """Learn what changed. Where the store cannot be read, known keys go on serving, and `ok` is False until it can."""
        try:
            if self._store.changed():
                changes = self._store.changes(self._seq)
                if changes is None:
                    self._begin_anew()
                for key_id, digest, seq in changes or ():
                    self._digests.add(digest)
                    for sha in self._shas.pop(key_id, ()):
                        del self._by_sha[sha]
                    self._seq = seq
        except StoreError as error:
            if self.up:
                log.error("the key store cannot be read, known keys go on serving: %s", error)
            self.ok = self.up = False
        else:
            if not self.ok:
                log.warning("the key store can be read again")
            self.ok, self.up, self.down_since = True, True, None

    def look(self) -> None:
        """Whether the store can be read, where no call asks: a gateway that heeds our health sends none while we are down."""
        try:
            self._store.changed()
        except StoreError as error:
            if self.up:
                log.error("the key store cannot be read, known keys go on serving: %s", error)
            self.up = False
        else:
            self.up = True

    def _begin_anew(self) -> None:
        self._digests, self._seq = self._store.digests()
        self._by_sha.clear()
        self._shas.clear()
        log.warning("an older state of the key store has been restored: all keys are read anew")

    def authenticate(self, key: str, now: int) -> Principal | Denial:
        """The caller behind a key, or why not. `now` is Unix milliseconds."""
        if len(key) != LENGTH:
            return MALFORMED
        sha = sha256(key.encode("utf-8", "surrogatepass")).digest()
        known = self._by_sha.get(sha)
        if known is None:
            found = self._look_up(key, sha)
            if isinstance(found, Denial):
                return found
            known = found
        if known.refusal is not None:
            return known.refusal
        if known.expires_at is not None and known.expires_at <= now:
            return msgspec.structs.replace(EXPIRED, about=known.principal)
        if not self.ok and self._too_old(now):
            return UNAVAILABLE
        if now - known.used_at > _USE_MS:
            known.used_at = now
            self._used.append((known.id, now))
        return known.principal

    def _too_old(self, now: int) -> bool:
        if self.down_since is None:
            self.down_since = now
        return now - self.down_since > self._max_stale

    def _look_up(self, key: str, sha: bytes) -> _Known | Denial:
        if parse(key) is None:
            return MALFORMED
        digest = self.pepper.digest(sha)
        if digest not in self._digests:
            return UNKNOWN
        try:
            record = self._store.find(digest)
        except StoreError as error:
            log.error("a key could not be looked up: %s", error)
            return UNAVAILABLE
        if record is None:
            return UNKNOWN
        if len(self._by_sha) >= _REMEMBERED:
            self._by_sha.clear()
            self._shas.clear()
        principal = record.principal()
        refusal = _BY_STATE.get(record.state(0))
        if refusal is not None:
            refusal = msgspec.structs.replace(refusal, about=principal)
        known = _Known(record.id, principal, refusal, record.valid_until)
        self._by_sha[sha] = known
        self._shas.setdefault(record.id, []).append(sha)
        return known

    def flush_used(self) -> None:
        """Write when keys were last used; StoreError: tried again with the next flush. For one thread at a time."""
        while self._used:
            key_id, now = self._used.popleft()
            self._unwritten[key_id] = now
        if self._unwritten:
            self._store.used(list(self._unwritten.items()))
            self._unwritten.clear()
