"""What the edge is told besides the service's own file: where it listens and what it guards. Enters: words of the command line.

Leaves: `Wiring`, checked. A secret never stands in it: the model server's key is named by its environment variable.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from slm_authz.errors import UsageError
from slm_authz.settings.address import Address, parse_address

LISTEN: Final = "127.0.0.1:10000"
ADMIN: Final = "127.0.0.1:9901"
UPSTREAM: Final = "http://127.0.0.1:8000"
_VARIABLE: Final = re.compile(r"(?!slm_)[A-Za-z_][A-Za-z0-9_]{0,127}")
"""A key of ours would be a name too, and would stand in the rendered file then."""
_HOST: Final = re.compile(r"[0-9A-Za-z]([0-9A-Za-z.-]{0,251}[0-9A-Za-z])?|[0-9A-Fa-f:.]{2,45}")
_PREFIX: Final = re.compile(r"(/[0-9A-Za-z._~-]+)*")
_WRITE: Final = "Write it like http://127.0.0.1:8000 or https://models.example.com."
_CA_FILES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


class Upstream(msgspec.Struct, frozen=True):
    """A model server. prefix: what its paths have before `/v1`, "" or like `/openai`."""

    host: str
    port: int
    tls: bool = False
    prefix: str = ""

    @property
    def authority(self) -> str:
        """As it stands in a Host header; the scheme's own port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Without a path's last slash and without `/v1`."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


class Wiring(msgspec.Struct, frozen=True):
    """listen, admin: Envoy's own addresses; key_env: environment variable with the upstream's key; ca_file: trusted roots for https."""

    listen: Address
    upstream: Upstream
    key_env: str | None = None
    admin: Address | None = None
    ca_file: Path | None = None


def parse_upstream(text: str) -> Upstream:
    """A base URL as model servers and SDKs write it, with or without `/v1`. UsageError, which repeats nothing of it: it may hold a secret."""
    if not all("!" <= c <= "~" for c in text):  # urlsplit takes line ends and tabs out of a URL, silently
        raise _no_url("it has characters that no URL has")
    if any(sign in text for sign in "@?#"):
        raise _no_url("it has a user name, a password or a query", f"{_WRITE} A key goes into a variable: --upstream-key-env NAME.")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise _no_url("its host or port is malformed") from None
    if url.scheme not in ("http", "https"):
        raise _no_url("it does not begin with http:// or https://")
    path = url.path.rstrip("/")
    prefix = path.removesuffix("/v1")
    if not url.hostname or _HOST.fullmatch(url.hostname) is None or port == 0:
        raise _no_url("its host or port is malformed")
    if _PREFIX.fullmatch(prefix) is None:
        raise _no_url("its path has more than plain names between single slashes")
    tls = url.scheme == "https"
    return Upstream(url.hostname, port or (443 if tls else 80), tls, prefix)


def _no_url(why: str, fix: str = _WRITE) -> UsageError:
    return UsageError(f"--upstream is not the URL of a model server: {why}.", fix)


def parse_listen(text: str, flag: str = "--listen") -> Address:
    """Where Envoy listens: it looks no name up, so `localhost` becomes its address here. UsageError."""
    fix = f"Write it like {LISTEN if flag == '--listen' else ADMIN}, or [::1]:10000."
    try:
        address = parse_address(text)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is not an IP address with a port.", fix) from None
    if address.path is not None or not address.port:
        raise UsageError(f"{flag} needs an IP address and a port.", fix)
    if address.host == "localhost":
        return Address("127.0.0.1", address.port)
    try:
        ip_address(address.host.strip("[]"))
    except ValueError:
        raise UsageError(f"{flag}: Envoy listens on IP addresses and localhost, not on the name {address.host!r}.", fix) from None
    return address


def parse_variable(name: str) -> str:
    """The name of an environment variable; it is rendered into a format string of Envoy's. UsageError."""
    if _VARIABLE.fullmatch(name) is None:
        raise UsageError(
            f"--upstream-key-env takes the name of an environment variable, not {len(name)} characters of something else.",
            "Put the key into a variable and name that: --upstream-key-env MODEL_KEY.",
        )
    return name


def system_ca_file(given: str | None) -> Path | None:
    """The system's trusted roots; `given` is SSL_CERT_FILE's value. None: not found."""
    candidates = (given, *_CA_FILES) if given else _CA_FILES
    return next((Path(path) for path in candidates if Path(path).is_file()), None)
