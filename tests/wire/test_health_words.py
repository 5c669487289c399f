"""grpc.health.v1's two messages, read and written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.wire.health import service_name
from slm_authz.wire.protobuf import field, text, varint


@given(st.text(max_size=30))
def test_a_name_is_read_back(name: str) -> None:
    assert service_name(text(1, name)) == name


@pytest.mark.parametrize("payload", [b"\x0a", b"\x0a\x05abc", b"\x12\x01a", b"\x0a\x01ab", b"\x0a\x80", field(1, b"\xff"), b"\x00"])
def test_other_bytes_are_no_service(payload: bytes) -> None:
    assert service_name(payload) is None


@given(st.binary(max_size=20))
def test_no_bytes_raise(payload: bytes) -> None:
    service_name(payload)


@given(st.integers(0, 2**64))
def test_varints_are_read_back(number: int) -> None:
    encoded = varint(number)
    assert sum((byte & 0x7F) << (7 * at) for at, byte in enumerate(encoded)) == number
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80
