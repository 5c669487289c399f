"""What the identity room needs of a cupboard for keys. Every backend passes one contract suite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from slm_authz.identity.record import KeyRecord


class KeyStore(Protocol):
    """Keys at rest. Every method raises StoreError where the store cannot answer."""

    def insert(self, record: KeyRecord) -> None:
        """Add a key. StoreError: its id or digest is there already, or other keys name another pepper."""
        ...

    def replace(self, records: Iterable[KeyRecord]) -> bool:
        """Write changed keys, all or none. False, and nothing is written, where one has changed since it was read (`change_seq`).

        A version that the store does not have yet brings its digest: a new secret. StoreError where that digest is there already.
        """
        ...

    def get(self, key_id: str) -> KeyRecord | None:
        """One key by id."""
        ...

    def find(self, digest: bytes) -> KeyRecord | None:
        """The key of which a secret, the current one or one before it, has that digest."""
        ...

    def select(
        self, *, client: str | None = None, tenant: str | None = None, tier: str | None = None, after: str = "", limit: int = 1000
    ) -> Sequence[KeyRecord]:
        """Keys in order of id, behind `after`."""
        ...

    def changed(self) -> bool:
        """Whether anyone, this process included, has written since `changes` was last read. Cheap: asked once per batch."""
        ...

    def changes(self, after: int) -> Iterable[tuple[str, bytes, int]] | None:
        """(id, digest, change_seq) of every secret of keys whose change_seq is above `after`, in that order.

        None: the store never came as far as `after`. An older state has been restored, and all of it is to be read.
        """
        ...

    def change_seq(self) -> int:
        """The latest."""
        ...

    def digests(self) -> tuple[set[bytes], int]:
        """All digests, and the change_seq that they are current for."""
        ...

    def used(self, seen: Iterable[tuple[str, int]]) -> None:
        """Note when keys were last used (id, Unix ms), keeping the latest; no change that others must read."""
        ...

    def tiers(self) -> frozenset[str]:
        """Names of the tiers that records name. Reads all of them: not for every call."""
        ...

    def peppers(self) -> frozenset[str]:
        """Names of the peppers that records name."""
        ...

    def close(self) -> None:
        """Release what is open."""
        ...
