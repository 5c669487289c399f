"""A store with keys, as the identity room's tests need it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_authz.errors import StoreError
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import Pepper, of
from slm_authz.store.keys import SqliteKeyStore


class Watched:
    """A key store that counts what is asked of it, and fails on demand."""

    def __init__(self, inner: SqliteKeyStore) -> None:
        self._inner = inner
        self.calls: dict[str, int] = {}
        self.failing: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            if name in self.failing:
                raise StoreError("down")
            return getattr(self._inner, name)(*args, **kwargs)

        return call


@pytest.fixture
def pepper() -> Pepper:
    return of(b"p" * 32)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], SqliteKeyStore]]:
    """Opens the one key file, as each process does for itself."""
    opened: list[SqliteKeyStore] = []

    def open_one() -> SqliteKeyStore:
        opened.append(SqliteKeyStore(tmp_path / "data" / "keys.db"))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def life(open_store: Callable[[], SqliteKeyStore], pepper: Pepper) -> Lifecycle:
    """The command line's handle on the store."""
    return Lifecycle(open_store(), pepper, os.urandom)


@pytest.fixture
def watched(open_store: Callable[[], SqliteKeyStore]) -> Watched:
    """The service's handle on the same store."""
    return Watched(open_store())
