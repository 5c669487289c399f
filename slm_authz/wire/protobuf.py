"""Protobuf's wire format by hand, for the answers of the hot path: length-delimited fields and strings, nothing else.

Every message built with this has a differential test against protobuf (tests/wire). https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations


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


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: string, bytes or message."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def text(number: int, value: str) -> bytes:
    """A string field."""
    return field(number, value.encode())


def integer(number: int, value: int) -> bytes:
    """An int32, uint32, bool or enum field that is not negative."""
    return varint(number << 3) + varint(value)
