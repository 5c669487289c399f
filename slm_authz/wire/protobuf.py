"""Protobuf's wire format by hand, for the answers of the hot path: length-delimited fields, strings, small integers, doubles.

Every message built with this has a differential test against protobuf (tests/wire). https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct


def varint(number: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def opening(number: int, head: bytes, follows: int) -> bytes:
    """A length-delimited field up to and including `head`; the other `follows` bytes of its payload are written by the caller.

    Openings nest, so all that stands before a value can be remembered by the value's length alone.
    """
    return varint(number << 3 | 2) + varint(len(head) + follows) + head


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: string, bytes or message."""
    return opening(number, payload, 0)


def text(number: int, value: str) -> bytes:
    """A string field."""
    return field(number, value.encode())


def integer(number: int, value: int) -> bytes:
    """An int32, uint32, bool or enum field that is not negative."""
    return varint(number << 3) + varint(value)


def double(number: int, value: float) -> bytes:
    """A double field."""
    return varint(number << 3 | 1) + struct.pack("<d", value)
