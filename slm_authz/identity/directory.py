"""All keys, as the deciding thread knows them. Enters: a key. Leaves: a principal or a refusal, without I/O for a guess.

Every digest is in memory; a record is read when its key is first used, and kept. `refresh`, once per batch, reads what any process has
changed since: a change is in force for every call that arrives after it was made.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import Final

import msgspec

from slm_authz.errors import StoreError
from slm_authz.identity.key_format import parse
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.principal import Principal
from slm_authz.identity.record import KeyRecord
from slm_authz.identity.store import KeyStore
from slm_authz.reason import Denial, Reason

log = logging.getLogger(__name__)

_REMEMBERED: Final = 200_000
"""Used keys that are kept in memory; beyond that all are read anew."""

_MESSAGE: Final = "The API key is not valid. Send a valid key as `Authorization: Bearer <key>`, or ask the operator for one."


def _bad(reason: Reason) -> Denial:
    # One indistinguishable answer: the audit event tells them apart.
    return Denial(reason, _MESSAGE)


MALFORMED: Final = _bad(Reason.MALFORMED_KEY)
UNKNOWN: Final = _bad(Reason.UNKNOWN_KEY)
EXPIRED: Final = _bad(Reason.KEY_EXPIRED)
_BY_STATE: Final = {"disabled": _bad(Reason.KEY_DISABLED), "revoked": _bad(Reason.KEY_REVOKED)}


class _Known(msgspec.Struct, eq=False):
    """A key that was used. refusal: why not, if not for its expiry; used_at: last use, in ms, not yet written."""

    id: str
    principal: Principal
    refusal: Denial | None
    expires_at: int | None
    used_at: int = 0

    def learn(self, record: KeyRecord) -> None:
        """Take over a changed record; what other rooms remembered on the principal is gone with it."""
        self.principal = record.principal()
        self.refusal = _BY_STATE.get(record.state(0))
        self.expires_at = record.expires_at


class KeyDirectory:
    """Keys of one store under one pepper. Used by the deciding thread; `flush_used` by the housekeeper's."""

    def __init__(self, store: KeyStore, pepper: Pepper) -> None:
        self._store = store
        self.pepper = pepper
        self._digests, self._seq = store.digests()
        self._by_sha: dict[bytes, _Known] = {}
        self._by_id: dict[str, _Known] = {}
        self._used: dict[str, _Known] = {}
        self.ok = True

    def __len__(self) -> int:
        return len(self._digests)

    def refresh(self) -> None:
        """Learn what changed. Where the store cannot be read, known keys go on serving, and `ok` is False until it can."""
        try:
            if not self._store.changed():
                return
            for record in self._store.changes(self._seq):
                self._digests.add(record.digest)
                self._seq = max(self._seq, record.change_seq)
                known = self._by_id.get(record.id)
                if known is not None:
                    known.learn(record)
            self.ok = True
        except StoreError as error:
            if self.ok:
                log.error("the key store cannot be read, known keys go on serving: %s", error)
            self.ok = False

    def authenticate(self, key: str, now: int) -> Principal | Denial:
        """The caller behind a key, or why not. `now` is Unix milliseconds."""
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
            return EXPIRED
        if now - known.used_at > 60_000:
            known.used_at = now
            self._used[known.id] = known
        return known.principal

    def _look_up(self, key: str, sha: bytes) -> _Known | Denial:
        if parse(key) is None:
            return MALFORMED
        digest = self.pepper.digest(sha)
        if digest not in self._digests:
            return UNKNOWN
        try:
            record = self._store.find(digest)
        except StoreError:
            return Denial(Reason.STORE_UNAVAILABLE, "Keys cannot be looked up just now; retry in a moment.", retry_after=1)
        if record is None:
            return UNKNOWN
        if len(self._by_sha) >= _REMEMBERED:
            self._by_sha.clear()
            self._by_id.clear()
        known = self._by_id.get(record.id)
        if known is None:
            known = self._by_id[record.id] = _Known(record.id, record.principal(), _BY_STATE.get(record.state(0)), record.expires_at)
        self._by_sha[sha] = known
        return known

    def flush_used(self) -> None:
        """Write when keys were last used; StoreError: tried again with the next flush."""
        used, self._used = self._used, {}
        if used:
            try:
                self._store.used([(key_id, known.used_at) for key_id, known in used.items()])
            except StoreError:
                self._used = {**used, **self._used}
                raise
