"""The configuration as one frozen tree: the whole schema of `slm-authz.yaml`, with units already counted.

Enters: plain mappings (from `source`). Leaves: `Settings`. Shapes and single values are judged here; what needs two places at
once (an unknown model in a tier) is judged in `checks`; what this release does not build is refused by name in `unbuilt`.
Durations are milliseconds, sizes bytes, money nanos (see `slm_authz.units`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from slm_authz.units import MAX_COUNT, parse_duration, parse_money, parse_size

Duration = Annotated[
    int, BeforeValidator(parse_duration), Field(json_schema_extra={"type": ["string", "integer"], "examples": ["30d", "90s"]})
]
Size = Annotated[int, BeforeValidator(parse_size), Field(json_schema_extra={"type": ["string", "integer"], "examples": ["4MiB"]})]
Money = Annotated[
    int, BeforeValidator(parse_money), Field(le=MAX_COUNT, json_schema_extra={"type": ["string", "integer"], "examples": ["0.05"]})
]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
Outage = Literal["deny", "local", "allow"]
By = Literal["key", "client", "tenant", "address", "model"]
Per = Literal["second", "minute", "hour", "day", "week", "month"]


class Node(BaseModel):
    """Base of every mapping in the file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=False, validate_by_alias=True)


class Tls(Node):
    """Transport security of the gRPC listener."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class Listen(Node):
    """Where the service listens, and how large a message may be."""

    grpc: str = "127.0.0.1:9001"
    admin: str = "127.0.0.1:9002"
    admin_hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    health: str = "127.0.0.1:9003"
    max_body: Size = 4 << 20
    max_answer: Size = 32 << 20
    drain: Duration = 10_000
    tls: Tls | None = None
    grpc_token: str | None = None


class ClientAddress(Node):
    """Which address `allow_ip`, `by: address` and the audit's `source` mean."""

    source: Literal["peer", "xff"] = Field("peer", alias="from")
    trusted_hops: Annotated[int, Field(strict=True, ge=1, le=32)] | None = None


class Store(Node):
    """Where keys, counters and pending records live."""

    url: str = "sqlite:///./var/slm-authz.db"
    on_outage: Outage = "deny"
    keys_url: str | None = None
    key_max_age: Duration = 5_000
    key_max_stale: Duration = 600_000


class Place(Node):
    """One place in a request where a credential may stand."""

    header: str | None = None
    scheme: str | None = None
    query: str | None = None
    cookie: str | None = None

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

    places: tuple[Place, ...] = Field(DEFAULT_PLACES, alias="in", min_length=1)


class AnonymousMethod(Node):
    """Callers without any credential; their client is `anonymous`."""

    tier: str


class IdentityEntry(Node):
    """One identity method; exactly one member. Methods of installed plugins stand under their entry point's name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    api_key: ApiKeyMethod | None = None
    anonymous: AnonymousMethod | None = None

    @property
    def kind(self) -> str:
        """The one method that this entry names."""
        return next(iter(self.model_fields_set | set(self.model_extra or ())))

    @model_validator(mode="after")
    def _one_method(self) -> IdentityEntry:
        if len(self.model_fields_set | set(self.model_extra or ())) != 1:
            raise ValueError("name exactly one identity method per list entry")
        return self


class LimitSpec(Node):
    """One limit: exactly one of requests, tokens, cost, concurrent; all but concurrent need `per`."""

    requests: Positive | None = None
    tokens: Positive | None = None
    cost: Annotated[Money, Field(ge=1)] | None = None
    concurrent: Positive | None = None
    per: Per | None = None
    algorithm: Literal["fixed", "gcra"] = "fixed"
    burst: Positive | None = None
    by: By | None = None
    models: tuple[str, ...] | None = None
    on_outage: Outage | None = None
    name: str | None = None

    @property
    def kind(self) -> Literal["requests", "tokens", "cost", "concurrent"]:
        """What is counted."""
        if self.requests is not None:
            return "requests"
        if self.tokens is not None:
            return "tokens"
        return "cost" if self.cost is not None else "concurrent"

    @property
    def size(self) -> int:
        """The limit itself, in requests, tokens, nanos or calls at once."""
        sizes = (self.requests, self.tokens, self.cost, self.concurrent)
        return next(size for size in sizes if size is not None)

    @model_validator(mode="after")
    def _whole(self) -> LimitSpec:
        if sum(kind is not None for kind in (self.requests, self.tokens, self.cost, self.concurrent)) != 1:
            raise ValueError("name exactly one of requests, tokens, cost, concurrent")
        if self.concurrent is not None:
            if self.per is not None or self.algorithm != "fixed" or self.burst is not None:
                raise ValueError("a concurrent limit has no per, algorithm or burst: it counts calls that run at once")
        elif self.per is None:
            raise ValueError("add per: second, minute, hour, day, week or month")
        if self.algorithm == "gcra" and self.per == "month":
            raise ValueError("gcra needs a period of fixed length: a month has none; use day or week, or a fixed window")
        if self.burst is not None and self.algorithm != "gcra":
            raise ValueError("burst belongs to algorithm: gcra")
        return self


class Price(Node):
    """Price of tokens: `input` and `output` per `per` tokens, in nanos of the file's currency."""

    input: Money
    output: Money
    per: Positive = 1_000_000


class Model(Node):
    """A model that the upstream serves, and what is known about its bounds."""

    aliases: tuple[str, ...] = ()
    context: Positive | None = None
    default_output_tokens: Positive = 1024
    max_output_tokens: Positive = 4096
    template_tokens: Count = 64
    tokens_per_byte: Literal[1, 3, 11] | None = None
    image_tokens: Count | None = None
    cap_absent: Literal["default", "inject", "refuse"] = "default"
    price: Price | Literal["free"] | None = None
    limits: tuple[LimitSpec, ...] = ()


class Tier(Node):
    """What a class of clients may use, and how much of it."""

    weight: Positive = 1
    models: tuple[str, ...] = Field(min_length=1)
    limits: tuple[LimitSpec, ...] = ()


class PathRule(Node):
    """A path beyond the known API paths that may pass."""

    prefix: str
    methods: tuple[str, ...] = ("GET",)
    model: Literal["none"]
    identity: Literal["none"] | None = None


class PolicyDeny(Node):
    """What a caller is told when the policy fires."""

    status: Annotated[int, Field(strict=True, ge=400, le=499)] = 403
    code: str = "policy"
    message: str = "This request is not allowed by policy."


class Policy(Node):
    """One CEL expression; `true` fires it."""

    name: str
    when: str
    deny: PolicyDeny = PolicyDeny()
    mode: Literal["enforce", "shadow"] = "enforce"


class Metering(Node):
    """How token use is bounded before a call, and learned after it."""

    bound: Literal["estimate", "strict", "tokenizer"] = "estimate"
    usage_from: Literal["access_log", "ext_proc", "none"] = "access_log"
    lease: Duration = 900_000
    settle_wait: Duration = 250


class FileSink(Node):
    """Audit events as JSON lines in a directory, rotated and bounded."""

    file: Path
    rotate: Size = 256 << 20
    keep: Duration = 30 * 86_400_000
    max: Size = 10 << 30


class OtlpOptions(Node):
    """Audit events as OpenTelemetry spans; where to is under `telemetry`."""


class OtlpSink(Node):
    """Audit events as OpenTelemetry spans."""

    otlp: OtlpOptions = OtlpOptions()


class PluginSink(Node):
    """A sink of an installed plugin, under its entry point's name; its mapping is its own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def kind(self) -> str:
        """The entry point's name."""
        return next(iter(self.model_extra or {"": None}))

    @property
    def options(self) -> Mapping[str, object]:
        """The plugin's own mapping."""
        value = (self.model_extra or {}).get(self.kind)
        return value if isinstance(value, Mapping) else {}


class Audit(Node):
    """Where audit events go, and what happens when they cannot."""

    sinks: tuple[FileSink | OtlpSink | PluginSink, ...] = (FileSink(file=Path("./var/audit")),)
    on_failure: Literal["drop", "deny"] = "drop"


class Telemetry(Node):
    """OpenTelemetry export; OTEL_* environment variables work too."""

    otlp_endpoint: str | None = None
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1


class Settings(Node):
    """The whole file."""

    version: Literal[1]
    listen: Listen = Listen()
    workers: Positive = 1
    client_address: ClientAddress = ClientAddress()
    store: Store = Store()
    identity: tuple[IdentityEntry, ...] = Field(min_length=1)
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    time_zone: str = "UTC"
    models: Mapping[str, Model] = Field(min_length=1)
    tiers: Mapping[str, Tier] = Field(min_length=1)
    paths: tuple[PathRule, ...] = ()
    policies: tuple[Policy, ...] = ()
    metering: Metering = Metering()
    audit: Audit = Audit()
    telemetry: Telemetry = Telemetry()
