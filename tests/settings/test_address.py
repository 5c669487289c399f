from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.settings.address import parse_address


@pytest.mark.parametrize(
    ("text", "host", "port", "local"),
    [
        ("127.0.0.1:9001", "127.0.0.1", 9001, True),
        ("127.8.9.1:1", "127.8.9.1", 1, True),
        ("[::1]:9001", "[::1]", 9001, True),
        ("localhost:0", "localhost", 0, True),
        ("0.0.0.0:9001", "0.0.0.0", 9001, False),
        ("[::]:65535", "[::]", 65535, False),
        ("[::ffff:127.0.0.1]:80", "[::ffff:127.0.0.1]", 80, None),
        ("gateway.internal:80", "gateway.internal", 80, False),
        ("localhost.evil.example:80", "localhost.evil.example", 80, False),
    ],
)
def test_tcp(text: str, host: str, port: int, local: bool | None) -> None:
    address = parse_address(text)
    assert (address.host, address.port, address.path) == (host, port, None)
    assert address.target == text
    if local is not None:
        assert address.local is local


@pytest.mark.parametrize("path", ["./run/x.sock", "/run/x.sock", "x"])
def test_unix(path: str) -> None:
    address = parse_address(f"unix:{path}")
    assert address.path is not None
    assert address.local


@pytest.mark.parametrize(
    "text",
    [
        "", ":9001", "9001", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:09001", "127.0.0.1:-1", "127.0.0.1:٣", "127.0.0.1:9001\n",
        " 127.0.0.1:9001", "127.1:80", "999.1.1.1:80", "1.2.3.4.5:80", "::1:80", "[::1]", "[::1:80", "[127.0.0.1]:80", "[::g]:80", "a..b:80", "-a:80",
        "http://127.0.0.1:80", "127.0.0.1:80/x", "unix:", "unix:run/", "unix:@abstract", "unix:a\x00b", "unix:a\nb", "user@host:1", "host.1:80", "0x7f.1:80",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="like"):
        parse_address(text)


@given(st.text(alphabet="unix:/.[]0159af-\n @", max_size=24))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(address.target) == address
