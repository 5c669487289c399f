"""Listen addresses: `127.0.0.1:9001`, `[::1]:9001`, `localhost:9001`, `unix:./run/slm-authz.sock`. Read strictly, never resolved."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

import msgspec

_TCP: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+)):(0|[1-9][0-9]{0,4})")
_HOST: Final = re.compile(r"(?!.*\.[0-9]+$)[0-9A-Za-z]([0-9A-Za-z-]{0,62})(\.[0-9A-Za-z]([0-9A-Za-z-]{0,62}))*")
_NUMERIC: Final = re.compile(r"[0-9.]+")
_SHOWN: Final = "write it like 127.0.0.1:9001, [::1]:9001 or unix:./run/slm-authz.sock"
SOCKET_BYTES: Final = 103
"""Longest path of a Unix socket that every platform takes (`sun_path` without its NUL: macOS 103, Linux 107)."""


class Address(msgspec.Struct, frozen=True):
    """A Unix socket (`path`) or a host and port (0: any free one). An IPv6 host keeps its brackets."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @property
    def local(self) -> bool:
        """Whether only processes of this machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def target(self) -> str:
        """As gRPC spells it."""
        return f"unix:{self.path}" if self.path is not None else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises ValueError with a sentence for people."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or path.endswith("/") or not path.isprintable() or path.startswith("@"):
            raise ValueError("name the socket's file, like unix:./run/slm-authz.sock")
        return Address(path=Path(path))
    match = _TCP.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an address: {_SHOWN}")
    six, host, port = match.groups()
    _require(int(port) <= 65535, text)
    if six is not None:
        _require(_is_ip(six) and isinstance(ip_address(six), IPv6Address), text)
        return Address(f"[{six}]", int(port))
    _require(_is_ip(host) if _NUMERIC.fullmatch(host) else _HOST.fullmatch(host) is not None, text)
    return Address(host, int(port))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _require(good: bool, text: str) -> None:
    if not good:
        raise ValueError(f"{text!r} is not an address: {_SHOWN}")
