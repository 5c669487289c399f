"""Two processes that change one key at once, as one of them sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from slm_authz.identity.record import KeyRecord
from slm_authz.store.keys import SqliteKeyStore


class Interrupted:
    """A store where another process acts between a reading and the writing that follows it."""

    def __init__(self, inner: SqliteKeyStore, meanwhile: list[Callable[[], object]]) -> None:
        self._inner = inner
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def replace(self, records: Iterable[KeyRecord]) -> bool:
        if self._meanwhile:
            self._meanwhile.pop(0)()
        return self._inner.replace(list(records))
