"""The life of a key: create, show, list, update, verify, disable, enable, rotate, revoke. Enters: what a person wants. Leaves: records.

A secret leaves once, when it is made. A change is in force for every call that arrives after the function has returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from slm_authz.errors import ConfigError, NotFound, SlmAuthzError, StoreError, UsageError
from slm_authz.identity import key_format
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.record import KeyRecord, labelled, model_list, named, networks, scope_list, visible
from slm_authz.identity.store import KeyStore

MAX_EARLIER: Final = 16
"""Secrets before the current one that may serve at the same time."""
RESTORE: Final = "Set SLM_AUTHZ_PEPPER (or …_FILE) to the store's own, or restore the file `pepper` beside the store."


def check_pepper(store: KeyStore, pepper: Pepper) -> None:
    """A wrong pepper is an error at the start, not a wall of 401s."""
    named_by_records = store.peppers()
    if named_by_records and pepper.name not in named_by_records:
        others = ", ".join(sorted(named_by_records))
        raise ConfigError(
            f"The pepper does not belong to this key store: its keys name pepper {others}, this one is {pepper.name}. {RESTORE}"
        )


_TRIES: Final = 100
"""How often a change is applied anew because another process changed the same key at the same time."""

_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "tier": lambda value: visible("--tier", value),
    "models": model_list,
    "name": named,
    "labels": labelled,
    "allow_ip": networks,
    "scopes": scope_list,
    "expires_at": lambda value: value,
}
"""What `update` can change, and how the value is checked: as at creation."""


class Lifecycle:
    """Works on one store with one pepper. `random_bytes` and the time of each call are arguments."""

    def __init__(self, store: KeyStore, pepper: Pepper, random_bytes: Callable[[int], bytes]) -> None:
        self._store = store
        self._pepper = pepper
        self._random_bytes = random_bytes

    def create(
        self,
        now: int,
        *,
        client: str,
        tier: str,
        tenant: str | None = None,
        name: str | None = None,
        env: key_format.Env = "live",
        models: tuple[str, ...] | None = None,
        scopes: tuple[str, ...] = (),
        allow_ip: tuple[str, ...] = (),
        labels: Mapping[str, str] | None = None,
        expires_in: int | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key: its record and, this once, the key itself. `expires_in` is milliseconds."""
        key_id = key_format.random_text(key_format.ID_LENGTH, self._random_bytes)
        key = self._mint(env, key_id)
        record = KeyRecord(
            id=key_id,
            client=visible("--client", client),
            tenant=visible("--tenant", tenant) if tenant is not None else None,
            tier=visible("--tier", tier),
            name=named(name),
            env=env,
            models=model_list(models),
            scopes=scope_list(scopes),
            allow_ip=networks(allow_ip),
            labels=labelled(labels or {}),
            created_at=now,
            expires_at=now + expires_in if expires_in is not None else None,
            last_used_at=None,
            disabled=False,
            revoked_at=None,
            version=1,
            pepper=self._pepper.name,
            digest=self._digest(key),
        )
        self._store.insert(record)
        return record, key

    def _mint(self, env: key_format.Env, key_id: str) -> str:
        return key_format.mint(env, key_id, key_format.random_text(key_format.SECRET_LENGTH, self._random_bytes))

    def _digest(self, key: str) -> bytes:
        return self._pepper.digest(hashlib.sha256(key.encode()).digest())

    def show(self, key_id: str) -> KeyRecord:
        """One key; NotFound."""
        record = self._store.get(key_id)
        if record is not None:
            return record
        raise unknown(key_id)

    def update(self, key_id: str, changes: Mapping[str, Any]) -> KeyRecord:
        """Change tier, models, name, labels, allow_ip, scopes or expires_at (Unix ms or None). The values are checked as at creation."""
        foreign = changes.keys() - _CHECKS.keys()
        if foreign:
            raise UsageError(f"{', '.join(sorted(foreign))} of a key cannot be changed.")
        checked = {member: _CHECKS[member](value) for member, value in changes.items()}
        return self._change((key_id,), lambda record: msgspec.structs.replace(record, **checked))[0]

    def _change(self, key_ids: Sequence[str], change: Callable[[KeyRecord], KeyRecord]) -> list[KeyRecord]:
        """Apply a change to keys, all or none. It is made to what is stored, never to what another process has changed meanwhile."""
        for _ in range(_TRIES):
            before = [self.show(key_id) for key_id in key_ids]
            after = [change(record) for record in before]
            if self._store.replace([new for old, new in zip(before, after, strict=True) if new is not old]):
                return after
        raise StoreError("Other processes change the same keys all the time.", "Retry.")

    def verify(self, key: str) -> KeyRecord | None:
        """The record of a key, whatever its state; None for a string that is no key of ours."""
        if key_format.parse(key) is None:
            return None
        return self._store.find(self._digest(key))

    def disable(self, key_id: str) -> KeyRecord:
        """Refuse the key until it is enabled."""
        return self._change((key_id,), lambda record: msgspec.structs.replace(record, disabled=True))[0]

    def enable(self, key_id: str) -> KeyRecord:
        """Accept the key again. A revoked key stays revoked: SlmAuthzError."""
        return self._change((key_id,), _enabled)[0]

    def rotate(self, key_id: str, now: int, *, grace: int) -> tuple[KeyRecord, str]:
        """A new secret under the same id, to which limits, usage and audit stay attached: the record and, this once, the key.

        Every secret before it ends `grace` milliseconds from now, or when it would have ended anyway. A key that is disabled stays so.
        SlmAuthzError: the key is revoked, or has expired, and the new secret would be refused as well.
        """
        key = self._mint(self.show(key_id).env, key_id)
        digest = self._digest(key)

        def rotated(record: KeyRecord) -> KeyRecord:
            if record.revoked_at is not None:
                raise SlmAuthzError(f"The key {key_id} is revoked for good.", "Create a new one.")
            if record.expires_at is not None and record.expires_at <= now:
                raise SlmAuthzError(
                    f"The key {key_id} has expired.", f"Give it time first: `slm-authz keys update {key_id} --expires 90d`."
                )
            until = now + grace
            if grace and sum(end > now for _, end in record.former) >= MAX_EARLIER:
                raise SlmAuthzError(f"{MAX_EARLIER} earlier secrets of {key_id} serve already.", "`--grace 0s` ends them all.")
            before = (*record.former, (record.version, until))
            former = tuple((version, min(end, until)) for version, end in before if min(end, until) > now)
            return msgspec.structs.replace(record, version=record.version + 1, digest=digest, pepper=self._pepper.name, former=former)

        return self._change((key_id,), rotated)[0], key

    def revoke(self, key_ids: Sequence[str], now: int, *, dry_run: bool = False) -> list[KeyRecord]:
        """Refuse keys for good, all or none. Those that were not revoked before; with `dry_run` they are only named."""
        unique = tuple(dict.fromkeys(key_ids))
        due = [record for record in map(self.show, unique) if record.revoked_at is None]
        if dry_run or not due:
            return due
        return self._change([record.id for record in due], lambda record: _revoked(record, now))

    def of_client(self, client: str, tenant: str | None = None) -> list[KeyRecord]:
        """All keys of a client. NotFound where it has none."""
        records = self.every(client=client, tenant=tenant)
        if not records:
            raise NotFound(f"The client {client!r} has no keys.", "`slm-authz keys list` shows all clients.")
        return records

    def every(self, *, client: str | None = None, tenant: str | None = None, tier: str | None = None) -> list[KeyRecord]:
        """All keys that match, in order of id."""
        return list(self.each(client=client, tenant=tenant, tier=tier))

    def each(self, *, client: str | None = None, tenant: str | None = None, tier: str | None = None) -> Iterator[KeyRecord]:
        """The same one by one, where there may be many: a page of them is read at a time."""
        after = ""
        while page := self._store.select(client=client, tenant=tenant, tier=tier, after=after):
            yield from page
            after = page[-1].id

    def homeless(self, tiers: Container[str], now: int) -> list[str]:
        """Tiers that are not among these, and that keys which could be used name: their calls are 403 `client_blocked`."""
        gone = sorted(tier for tier in self._store.tiers() if tier not in tiers)
        return [tier for tier in gone if self._used(tier, now)]

    def _used(self, tier: str, now: int) -> bool:
        try:
            return any(record.state(now) in ("active", "disabled") for record in self.each(tier=tier))
        except StoreError:  # a record that cannot be read must not hide what can be told of others
            return True


def unknown(key_id: str) -> NotFound:
    """What to say of an id that is none. A key in its place, whatever stands around it, must not be repeated on a screen or in a log."""
    _, prefix, rest = key_id.partition(key_format.PREFIX)
    if not prefix:
        return NotFound(f"There is no key with the id {key_id!r}.", "`slm-authz keys list` shows all ids.")
    parts = key_format.parse((prefix + rest)[: key_format.LENGTH])
    return NotFound("That is a key, not an id.", f"Its id is {parts.id}." if parts is not None else None)


def _enabled(record: KeyRecord) -> KeyRecord:
    if record.revoked_at is not None:
        raise SlmAuthzError(f"The key {record.id} is revoked for good.", "Create a new one.")
    return msgspec.structs.replace(record, disabled=False)


def _revoked(record: KeyRecord, now: int) -> KeyRecord:
    return record if record.revoked_at is not None else msgspec.structs.replace(record, revoked_at=now)
