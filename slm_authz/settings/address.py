"""Listen addresses: `127.0.0.1:9001`, `[::1]:9001`, `localhost:9001`, `unix:./run/slm-authz.sock`."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import msgspec

_TCP: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+):(\d{1,5})")


class Address(msgspec.Struct, frozen=True):
    """A Unix socket (`path`) or a host and port (0: any free one)."""

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
        if not path:
            raise ValueError("name the socket, like unix:./run/slm-authz.sock")
        return Address(path=Path(path))
    match = _TCP.fullmatch(text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"{text!r} is not an address: write it like 127.0.0.1:9001 or unix:./run/slm-authz.sock")
    return Address(match[1], int(match[2]))
