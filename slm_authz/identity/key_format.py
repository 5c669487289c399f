"""The form of an API key: `slm_<env>_<id>_<secret><check>`. Enters: randomness, or a string. Leaves: a key, or its parts.

The check is the CRC-32 of all that stands before it, in base 62: a mistyped or random string is refused without a look-up.
It is no secret and proves nothing. Forbidden: logging what passes through here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Literal
from zlib import crc32

import msgspec

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX: Final = "slm_"
ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 32
_CHECK_LENGTH: Final = 6
LENGTH: Final = len("slm_live_") + ID_LENGTH + len("_") + SECRET_LENGTH + _CHECK_LENGTH
"""Of every key: 60 characters."""
_FORM: Final = re.compile(r"slm_(live|test)_([0-9A-Za-z]{12})_([0-9A-Za-z]{32})[0-9A-Za-z]{6}", re.ASCII)

Env = Literal["live", "test"]
RandomBytes = Callable[[int], bytes]


class KeyParts(msgspec.Struct, frozen=True):
    """A well-formed key, taken apart; its secret stays where it was."""

    env: str
    id: str


def checksum(text: str) -> str:
    """Six characters of base 62, most significant first, padded with `0`."""
    number = crc32(text.encode("ascii"))
    digits = []
    for _ in range(_CHECK_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def parse(key: str) -> KeyParts | None:
    """The parts of a key whose form and checksum are right; None for anything else."""
    form = _FORM.fullmatch(key)
    if form is None or checksum(key[:-_CHECK_LENGTH]) != key[-_CHECK_LENGTH:]:
        return None
    return KeyParts(form[1], form[2])


def random_text(length: int, random_bytes: RandomBytes) -> str:
    """`length` characters of the alphabet, each equally likely: bytes of 248 and above are thrown away, 248 being 4 × 62."""
    found: list[str] = []
    while len(found) < length:
        found.extend(ALPHABET[byte % 62] for byte in random_bytes(length) if byte < 248)
    return "".join(found[:length])


def mint(env: Env, key_id: str, secret: str) -> str:
    """The key of an id and a secret, both made by `random_text`."""
    body = f"{PREFIX}{env}_{key_id}_{secret}"
    return body + checksum(body)
