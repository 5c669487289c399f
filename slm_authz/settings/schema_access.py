"""The part of the schema that says where we listen, who may call and what may pass: listeners, identity, paths, policies."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from slm_authz.settings.fields import Duration, FilePath, Hops, Node, Size, Status4xx, Text


class Tls(Node):
    """Transport security of the gRPC listener. Not built in this release."""

    cert: FilePath
    """Certificate chain, PEM."""
    key: FilePath
    """Private key, PEM."""
    client_ca: FilePath | None = None
    """Authorities of client certificates, PEM."""


class Listen(Node):
    """Where the service listens, and how large a message may be."""

    grpc: Text = "127.0.0.1:9001"
    """Where Envoy asks: loopback, or `unix:PATH` (mode 0600)."""
    admin: Text = "127.0.0.1:9002"
    """REST, behind a token: loopback, or `unix:PATH`."""
    admin_hosts: Annotated[tuple[Text, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    """Host headers that the admin listener answers to."""
    health: Text = "127.0.0.1:9003"
    """`/healthz`, `/readyz`, `/metrics`: read-only, no token, no client names; any address."""
    max_body: Size = 4 << 20
    """Largest request body that is inspected; Envoy's limits are rendered from it."""
    max_answer: Size = 32 << 20
    """Largest whole JSON answer that Envoy buffers to read its usage."""
    drain: Duration = 10_000
    """How long calls are still taken after SIGTERM."""
    tls: Tls | None = None
    """gRPC beyond loopback. Not built in this release."""
    grpc_token: Text | None = None
    """Bearer token that Envoy sends. Not built in this release."""


class ClientAddress(Node):
    """Which address `allow_ip`, `by: address` and the audit's `source` mean."""

    source: Literal["peer", "xff"] = Field("peer", alias="from")
    """`peer`: who connected to Envoy; `xff`: X-Forwarded-For, counted from the right."""
    trusted_hops: Hops | None = None
    """How many proxies of yours stand before this gateway; only with `from: xff`."""


class Store(Node):
    """Where keys, counters and pending records live."""

    url: Text = "sqlite:///./var/slm-authz.db"
    """The embedded store's file."""
    on_outage: Literal["deny", "local", "allow"] = "deny"
    """What a limit does while its counters cannot be asked: `deny` (503), `local` (this replica's share), `allow`."""
    keys_url: Text | None = None
    """Keys on another server than counters. Not built in this release."""
    key_max_age: Duration = 5_000
    """How old a replica's copy of the keys of a shared store may be."""
    key_max_stale: Duration = 600_000
    """How long known keys serve while the store cannot be read."""


class Place(Node):
    """One place in a request where a credential may stand: exactly one of header, query, cookie."""

    header: Text | None = None
    """Name of a header."""
    scheme: Text | None = None
    """Word before the credential in that header, such as Bearer."""
    query: Text | None = None
    """Name of a query parameter."""
    cookie: Text | None = None
    """Name of a cookie."""

    @model_validator(mode="after")
    def _one_place(self) -> Place:
        if sum(place is not None for place in (self.header, self.query, self.cookie)) != 1:
            raise ValueError("name exactly one of header, query, cookie")
        if self.scheme is not None and self.header is None:
            raise ValueError("scheme belongs to a header")
        return self


DEFAULT_PLACES = (Place(header="authorization", scheme="Bearer"), Place(header="x-api-key"), Place(header="api-key"))


class ApiKeyMethod(Node):
    """API keys in the product's own format."""

    places: Annotated[tuple[Place, ...], Field(min_length=1)] = Field(DEFAULT_PLACES, alias="in")
    """Where a key may stand; what is found there never reaches the model server."""


class AnonymousMethod(Node):
    """Callers without any credential; their client is `anonymous`."""

    tier: Text
    """The tier that they all share."""


def all_defaults(value: Any) -> Any:
    """`- api_key:` with nothing behind it means all defaults."""
    return {} if value is None else value


class IdentityEntry(Node):
    """One identity method; exactly one member. Methods of installed plugins stand under their entry point's name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    api_key: Annotated[ApiKeyMethod | None, BeforeValidator(all_defaults)] = None
    """API keys that `slm-authz keys` manages."""
    anonymous: AnonymousMethod | None = None
    """Callers who send no credential at all."""

    @property
    def kind(self) -> str:
        """The one method that this entry names."""
        return next(iter(self.model_fields_set | set(self.model_extra or ())))

    @model_validator(mode="after")
    def _one_method(self) -> IdentityEntry:
        if len(self.model_fields_set | set(self.model_extra or ())) != 1:
            raise ValueError("name exactly one identity method per list entry")
        return self


class PathRule(Node):
    """A path beyond the known API paths that may pass."""

    prefix: Text
    """`/health` means that path and what lies below it; `/v1/` all below it."""
    methods: Annotated[tuple[Text, ...], Field(min_length=1)] = ("GET",)
    """HTTP methods that pass."""
    model: Literal["none"]
    """`none`: no model is asked, so no body is read and no tokens are counted."""
    identity: Literal["none"] | None = None
    """`none`: passes without a credential (a CORS preflight carries none)."""


class PolicyDeny(Node):
    """What a caller is told when the policy fires."""

    status: Status4xx = 403
    """HTTP status."""
    code: Text = "policy"
    """Machine-readable code in the body."""
    message: Text = "This request is not allowed by policy."
    """Sentence for people in the body."""


class Policy(Node):
    """One CEL expression; `true` fires it, anything but `true` or `false` denies."""

    name: Text
    """How the audit trail names it."""
    when: Text
    """The expression; type-checked when the file is loaded."""
    deny: PolicyDeny = PolicyDeny()
    """What the caller is told."""
    mode: Literal["enforce", "shadow"] = "enforce"
    """`shadow`: recorded, not enforced."""
