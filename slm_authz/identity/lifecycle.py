"""The life of a key: create, show, list, update, verify, disable, enable, revoke. Enters: what a person wants. Leaves: records.

The secret leaves once, at creation. A change is in force for every call that arrives after the function has returned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from slm_authz.errors import ConfigError, NotFound
from slm_authz.identity import key_format
from slm_authz.identity.pepper import Pepper
from slm_authz.identity.record import KeyRecord, labelled, listed, named, networks, visible
from slm_authz.identity.store import KeyStore


def check_pepper(store: KeyStore, pepper: Pepper) -> None:
    """A wrong pepper is an error at the start, not a wall of 401s."""
    named_by_records = store.peppers()
    if named_by_records and pepper.name not in named_by_records:
        others = ", ".join(sorted(named_by_records))
        raise ConfigError(f"The pepper does not belong to this key store: its keys name pepper {others}, this one is {pepper.name}.")


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
        key = key_format.mint(env, key_id, self._random_bytes)
        record = KeyRecord(
            id=key_id,
            client=visible("--client", client),
            tenant=visible("--tenant", tenant) if tenant is not None else None,
            tier=visible("--tier", tier),
            name=named(name),
            env=env,
            models=listed("--models", models) if models is not None else None,
            scopes=listed("--scopes", scopes),
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

    def _digest(self, key: str) -> bytes:
        return self._pepper.digest(hashlib.sha256(key.encode()).digest())

    def show(self, key_id: str) -> KeyRecord:
        """One key; NotFound."""
        record = self._store.get(key_id)
        if record is None:
            raise NotFound(f"There is no key with the id {key_id!r}.", "`slm-authz keys list` shows all ids.")
        return record

    def update(self, key_id: str, changes: Mapping[str, Any]) -> KeyRecord:
        """Change tier, models, name, labels, allow_ip, scopes or expires_at. The values are checked as at creation."""
        checks: dict[str, Callable[[Any], Any]] = {
            "tier": lambda value: visible("--tier", value),
            "models": lambda value: listed("--models", value) if value is not None else None,
            "name": named,
            "labels": labelled,
            "allow_ip": networks,
            "scopes": lambda value: listed("--scopes", value),
            "expires_at": lambda value: value,
        }
        checked = {member: checks[member](value) for member, value in changes.items()}
        record = msgspec.structs.replace(self.show(key_id), **checked)
        self._store.replace([record])
        return record

    def verify(self, key: str) -> KeyRecord | None:
        """The record of a key, whatever its state; None for a string that is no key of ours."""
        if key_format.parse(key) is None:
            return None
        return self._store.find(self._digest(key))

    def disable(self, key_id: str) -> KeyRecord:
        """Refuse the key until it is enabled."""
        return self._set(key_id, disabled=True)

    def enable(self, key_id: str) -> KeyRecord:
        """Accept the key again; a revoked key stays revoked."""
        return self._set(key_id, disabled=False)

    def _set(self, key_id: str, **members: Any) -> KeyRecord:
        record = msgspec.structs.replace(self.show(key_id), **members)
        self._store.replace([record])
        return record

    def revoke(self, key_ids: tuple[str, ...], now: int, *, dry_run: bool = False) -> list[KeyRecord]:
        """Refuse keys for good, all or none; those that are revoked already stay as they are."""
        records = [self.show(key_id) for key_id in dict.fromkeys(key_ids)]
        return self._revoke(records, now, dry_run=dry_run)

    def revoke_client(self, client: str, now: int, *, tenant: str | None = None, dry_run: bool = False) -> list[KeyRecord]:
        """Refuse all keys of a client for good. NotFound where it has none."""
        records = list(self.every(client=client, tenant=tenant))
        if not records:
            raise NotFound(f"The client {client!r} has no keys.")
        return self._revoke(records, now, dry_run=dry_run)

    def _revoke(self, records: list[KeyRecord], now: int, *, dry_run: bool) -> list[KeyRecord]:
        due = [msgspec.structs.replace(record, revoked_at=now) for record in records if record.revoked_at is None]
        if due and not dry_run:
            self._store.replace(due)
        return due

    def every(self, *, client: str | None = None, tenant: str | None = None, tier: str | None = None) -> list[KeyRecord]:
        """All keys that match, in order of id."""
        found: list[KeyRecord] = []
        after = ""
        while page := self._store.select(client=client, tenant=tenant, tier=tier, after=after):
            found.extend(page)
            after = page[-1].id
        return found
