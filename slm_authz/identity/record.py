"""A key as the store knows it: everything but the key. What enters here is checked here, so that it can travel in headers later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, Final, Literal

import msgspec

from slm_authz.errors import UsageError
from slm_authz.identity.key_format import Env
from slm_authz.identity.principal import Principal

State = Literal["active", "disabled", "expired", "revoked"]
_VISIBLE: Final = re.compile(r"[\x21-\x7e]{1,256}")
_NAME: Final = re.compile(r"[\x20-\x7e]{1,256}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MAX_ITEMS: Final = 64


class KeyRecord(msgspec.Struct):
    """One key. Times are Unix milliseconds; `version` counts the secrets under this id.

    former:  (version, when it ends) of the secrets before the current one; a version that is not among them has ended
    digest:  of the current secret; of the one that was looked for, where the record was found by its secret
    ends_at: when that one ends, where a rotation has replaced it
    """

    id: str
    client: str
    tenant: str | None
    tier: str
    name: str | None
    env: Env
    models: tuple[str, ...] | None
    scopes: tuple[str, ...]
    allow_ip: tuple[str, ...]
    labels: dict[str, str]
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    disabled: bool
    revoked_at: int | None
    version: int
    pepper: str
    digest: bytes
    change_seq: int = 0
    former: tuple[tuple[int, int], ...] = ()
    ends_at: int | None = None

    @property
    def valid_until(self) -> int | None:
        """When the key, or the secret by which it was found, ends; None: never."""
        return min((end for end in (self.expires_at, self.ends_at) if end is not None), default=None)

    def state(self, now: int) -> State:
        """Revoked before disabled before expired before active."""
        if self.revoked_at is not None:
            return "revoked"
        if self.disabled:
            return "disabled"
        until = self.valid_until
        return "expired" if until is not None and until <= now else "active"

    def principal(self) -> Principal:
        """The caller that this key identifies."""
        return Principal(
            method="api_key",
            client=self.client,
            tier=self.tier,
            tenant=self.tenant,
            key_id=self.id,
            scopes=self.scopes,
            labels=dict(self.labels),
            models=self.models,
            allow_ip=tuple(ip_network(item) for item in self.allow_ip),
        )

    def public(self, now: int) -> dict[str, Any]:
        """The stable JSON of a key; never its secret."""
        return {
            "id": self.id,
            "client": self.client,
            "tenant": self.tenant,
            "tier": self.tier,
            "name": self.name,
            "env": self.env,
            "models": list(self.models) if self.models is not None else None,
            "scopes": list(self.scopes),
            "allow_ip": list(self.allow_ip),
            "labels": dict(self.labels),
            "state": self.state(now),
            "created_at": rfc3339(self.created_at),
            "expires_at": rfc3339(self.expires_at),
            "last_used_at": rfc3339(self.last_used_at),
            "version": self.version,
        }


_MEMBERS: Final = (
    "id", "client", "tenant", "tier", "name", "env", "models", "scopes", "allow_ip", "labels", "state", "created_at", "expires_at",
    "last_used_at", "version",
)  # fmt: skip
NOBODY: Final[Mapping[str, None]] = dict.fromkeys(_MEMBERS)
"""The stable JSON of a key that is not there: what is unknown is null, never missing."""


def rfc3339(millis: int | None) -> str | None:
    """UTC with milliseconds; None stays None."""
    if millis is None:
        return None
    return (_EPOCH + timedelta(milliseconds=millis)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def visible(what: str, value: str) -> str:
    """Visible ASCII of at most 256 bytes: it travels in a header. UsageError says what to do."""
    if _VISIBLE.fullmatch(value) is None:
        raise UsageError(f"{what} must be 1 to 256 visible ASCII characters without spaces: it travels in a header.")
    return value


def scope_list(values: Sequence[str]) -> tuple[str, ...]:
    """Scopes: they travel joined by commas."""
    unique = _unique("--scopes", values)
    if sum(len(value) + 1 for value in unique) > 257:
        raise UsageError("--scopes: the whole list must fit into 256 bytes, commas included.")
    return unique


def model_list(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names or globs of models; None: all of the tier. An empty list would be read as either."""
    if values is None:
        return None
    if not values:
        raise UsageError("--models takes names or globs of models, like phi-4-mini; '*' means all that the tier has.")
    return _unique("--models", values)


def _unique(what: str, values: Sequence[str]) -> tuple[str, ...]:
    if any("," in visible(what, value) for value in values):
        raise UsageError(f"{what} must not hold a comma: lists are joined by commas.")
    unique = tuple(dict.fromkeys(values))
    if len(unique) > MAX_ITEMS:
        raise UsageError(f"{what} takes at most {MAX_ITEMS} items.")
    return unique


def named(value: str | None) -> str | None:
    """A name for people: printable ASCII, spaces allowed."""
    if value is not None and _NAME.fullmatch(value) is None:
        raise UsageError("--name must be 1 to 256 printable ASCII characters.")
    return value


def networks(values: Sequence[str]) -> tuple[str, ...]:
    """CIDR networks in canonical form; a plain address is a network of one, an IPv4-mapped IPv6 network (::ffff:0:0/96) is one of IPv4."""
    unique = tuple(dict.fromkeys(str(_network(value)) for value in values))
    if len(unique) > MAX_ITEMS:
        raise UsageError(f"--allow-ip takes at most {MAX_ITEMS} networks.")
    return unique


def _network(value: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        network = None
    if network is None or "%" in value:
        raise UsageError(f"--allow-ip takes addresses and CIDR networks, like 10.0.0.0/8 or 2001:db8::/32, not {value!r}.")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < 96:
        return network
    return IPv4Network((mapped, network.prefixlen - 96))


def labelled(values: Mapping[str, str]) -> dict[str, str]:
    """Labels: keys and values for policies and people."""
    for key, value in values.items():
        visible("A label's key", key)
        if value and _NAME.fullmatch(value) is None:
            raise UsageError("A label's value must be at most 256 printable ASCII characters.")
    if len(values) > MAX_ITEMS:
        raise UsageError(f"A key takes at most {MAX_ITEMS} labels.")
    return dict(values)
