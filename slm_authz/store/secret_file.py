"""CUPBOARD: a secret that is made once and kept beside the store (0600). Two processes that race end with the same one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from slm_authz.errors import StoreError
from slm_authz.store.sqlite import private_directory, private_file

LOST: Final = "Restore it from a backup: without it no stored key can be verified."


def load_or_make(path: Path, make: Callable[[], bytes], remedy: str = LOST) -> bytes:
    """The file's content without line end; where it is missing it is made, atomically. `remedy`: what to do about an empty one."""
    private_directory(path.parent)
    try:
        if not path.exists():
            _create(path, make())
        private_file(path)
        secret = path.read_bytes().strip()
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror}.") from error
    if not secret:
        raise StoreError(f"{path} is empty.", remedy)
    return secret


def _create(path: Path, secret: bytes) -> None:
    # A link to a finished file appears at once, or fails because another process was first: never half a secret.
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL, 0600 whatever the umask
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # keys that are digested with it must not outlive its name
    finally:
        os.close(directory)
