"""The configuration as one frozen tree: the whole schema of `slm-authz.yaml`, with units already counted.

Enters: plain mappings (from `source`). Leaves: `Settings`. Shapes and single values are judged here; what needs two places at
once (an unknown model in a tier) is judged in `checks`; what this release does not build is refused by name in `unbuilt`.
The texts below attributes become the reference page and the JSON Schema's descriptions (`reference`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from slm_authz.settings.fields import (
    By,
    Count,
    Currency,
    Duration,
    FilePath,
    Money,
    Node,
    Outage,
    Per,
    Positive,
    Ratio,
    Size,
    Text,
    Version,
)
from slm_authz.settings.schema_access import (
    DEFAULT_PLACES,
    AnonymousMethod,
    ApiKeyMethod,
    ClientAddress,
    IdentityEntry,
    Listen,
    PathRule,
    Place,
    Policy,
    PolicyDeny,
    Store,
    Tls,
    all_defaults,
)
from slm_authz.settings.schema_limits import LimitSpec, Model, Price, Tier

__all__ = [
    "DEFAULT_PLACES", "AnonymousMethod", "ApiKeyMethod", "Audit", "By", "ClientAddress", "Count", "Duration", "FileSink", "IdentityEntry",
    "LimitSpec", "Listen", "Metering", "Model", "Money", "Node", "OtlpOptions", "OtlpSink", "Outage", "PathRule", "Per", "Place",
    "PluginSink", "Policy", "PolicyDeny", "Positive", "Price", "Settings", "Size", "Store", "Telemetry", "Tier", "Tls",
]  # fmt: skip


class Metering(Node):
    """How token use is bounded before a call, and learned after it."""

    bound: Literal["estimate", "strict", "tokenizer"] = "estimate"
    """What a call holds: an `estimate` of its input, or a `strict` upper bound. `tokenizer` is not built in this release."""
    usage_from: Literal["access_log", "ext_proc", "none"] = "access_log"
    """`access_log`: Envoy reads the usage and reports it; `none`: only requests can be limited. `ext_proc` is not built in this release."""
    lease: Duration = 900_000
    """How long a hold and its slot live without a sign of life."""
    settle_wait: Duration = 250
    """How long a call may wait for a concurrency slot."""


class FileSink(Node):
    """Audit events as JSON lines in a directory, rotated and bounded."""

    file: FilePath
    """The directory, made where it is missing."""
    rotate: Size = 256 << 20
    """A file larger than this is closed and a new one begun."""
    keep: Duration = 30 * 86_400_000
    """Older files are deleted."""
    max: Size = 10 << 30
    """All files together; the oldest go first."""


class OtlpOptions(Node):
    """Nothing yet: where spans go is under `telemetry`."""


class OtlpSink(Node):
    """Audit events as OpenTelemetry spans."""

    otlp: Annotated[OtlpOptions, BeforeValidator(all_defaults)] = OtlpOptions()
    """An empty mapping: where spans go is under `telemetry`."""


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


def _sink_kind(value: Any) -> str:
    if isinstance(value, FileSink) or (isinstance(value, Mapping) and "file" in value):
        return "\x00file"
    if isinstance(value, OtlpSink) or (isinstance(value, Mapping) and "otlp" in value):
        return "\x00otlp"
    return "\x00plugin"


Sink = Annotated[
    Annotated[FileSink, Tag("\x00file")] | Annotated[OtlpSink, Tag("\x00otlp")] | Annotated[PluginSink, Tag("\x00plugin")],
    Discriminator(_sink_kind),
]


class Audit(Node):
    """Where audit events go, and what happens when they cannot."""

    sinks: tuple[Sink, ...] = (FileSink(file=Path("./var/audit")),)
    """`{file: DIRECTORY, …}`, `{otlp: {}}`, or an installed plugin's name and mapping."""
    on_failure: Literal["drop", "deny"] = "deny"
    """What happens to a call while events cannot be recorded: `deny` it, or let it pass and `drop` the event, which is counted."""


class Telemetry(Node):
    """OpenTelemetry export; OTEL_* environment variables work too."""

    otlp_endpoint: Text | None = None
    """Where spans go over gRPC, like http://127.0.0.1:4317."""
    sample_ratio: Ratio = 0.1
    """Part of the spans that are kept where the caller's trace does not decide; audit lines are never sampled."""


class Settings(Node):
    """The whole file."""

    version: Version
    """Of the schema: 1."""
    listen: Listen = Listen()
    """Where the service listens."""
    workers: Positive = 1
    """Processes; more than one needs a shared store."""
    client_address: ClientAddress = ClientAddress()
    """Whose address counts."""
    store: Store = Store()
    """Where keys and counters live."""
    identity: Annotated[tuple[IdentityEntry, ...], Field(min_length=1)]
    """Who may call: a credential belongs to the method whose shape it has."""
    currency: Currency = "USD"
    """ISO 4217 code of all money in the file."""
    time_zone: Text = "UTC"
    """IANA name; days, weeks and months begin there."""
    models: Annotated[Mapping[str, Model], Field(min_length=1)]
    """Models by the name that the model server knows."""
    tiers: Annotated[Mapping[str, Tier], Field(min_length=1)]
    """Classes of clients by name."""
    paths: tuple[PathRule, ...] = ()
    """What may pass beyond the known API paths and GET /v1/models."""
    policies: tuple[Policy, ...] = ()
    """CEL expressions that refuse requests."""
    metering: Metering = Metering()
    """How token use is bounded and learned."""
    audit: Audit = Audit()
    """Where the audit trail goes."""
    telemetry: Telemetry = Telemetry()
    """OpenTelemetry export."""
