"""The pepper: the one secret behind all stored digests and signed holds. Enters: environment, or a file. Leaves: `Pepper`.

At rest a key is HMAC-SHA-256(pepper, SHA-256(key)): a stolen database cannot be searched without the pepper.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from slm_authz.errors import ConfigError, StoreError

VARIABLE: Final = "SLM_AUTHZ_PEPPER"
_MIN_BYTES: Final = 16


class Pepper(msgspec.Struct, frozen=True):
    """A secret and the name that records know it by. The name reveals nothing about it."""

    secret: bytes
    name: str

    def digest(self, key_sha256: bytes) -> bytes:
        """What is stored of a key: 32 bytes."""
        return hmac.digest(self.secret, key_sha256, "sha256")

    def derive(self, purpose: bytes) -> bytes:
        """A key for another purpose: 32 bytes (HKDF-Expand with one block, RFC 5869)."""
        return hmac.digest(self.secret, b"slm-authz derive " + purpose + b"\x01", "sha256")

    def __repr__(self) -> str:
        return f"Pepper({self.name})"


def of(secret: bytes) -> Pepper:
    """The pepper of a secret."""
    return Pepper(secret, hashlib.sha256(b"slm-authz pepper name " + secret).hexdigest()[:8])


def load(env: Mapping[str, str], make: Callable[[], bytes] | None) -> Pepper:
    """The pepper from SLM_AUTHZ_PEPPER or SLM_AUTHZ_PEPPER_FILE, else from `make` (None: there must be one in the environment)."""
    text = env.get(VARIABLE)
    path = env.get(f"{VARIABLE}_FILE")
    if text is not None and path is not None:
        raise ConfigError(f"Both {VARIABLE} and {VARIABLE}_FILE are set: keep one.")
    if path is not None:
        try:
            secret = Path(path).read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise StoreError(f"{VARIABLE}_FILE cannot be read: {error.strerror}.") from error
    elif text is not None:
        secret = text.encode()
    elif make is not None:
        secret = make()
    else:
        raise ConfigError(f"A shared store needs a pepper: set {VARIABLE} or {VARIABLE}_FILE, the same for every replica.")
    if len(secret) < _MIN_BYTES:
        raise ConfigError(f"The pepper is too short: use at least {_MIN_BYTES} random bytes, such as `openssl rand -hex 32` gives.")
    return of(secret)
