"""CUPBOARD: one service per embedded store. Its counters live in one process's memory: a second one would spend the budgets again."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from slm_authz.errors import PortTaken, StoreError
from slm_authz.store.sqlite import private_directory


class StoreLock:
    """Held from construction to `release`, or the end of the process."""

    def __init__(self, path: Path) -> None:
        private_directory(path.parent)
        try:
            self._descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(f"{path} cannot be opened: {error.strerror}.") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise PortTaken(
                f"Another slm-authz serves from {path.parent}.",
                "Stop it first, or give this one a store.url and an audit directory of its own.",
            ) from None

    def release(self) -> None:
        """Let another process serve."""
        os.close(self._descriptor)
