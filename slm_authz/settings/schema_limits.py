"""The part of the schema that says what there is and how much of it: models, prices, tiers, limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from slm_authz.settings.fields import Budget, By, Count, Money, Node, Outage, Per, Positive, Text, TokensPerByte


class LimitSpec(Node):
    """One limit: exactly one of requests, tokens, cost, concurrent; all but concurrent need `per`."""

    requests: Positive | None = None
    """Calls per period."""
    tokens: Positive | None = None
    """Input and output tokens per period."""
    cost: Budget | None = None
    """Money per period, as a decimal string in the file's currency."""
    concurrent: Positive | None = None
    """Calls at once."""
    per: Per | None = None
    """The period: calendar windows in `time_zone` from day on; not with concurrent."""
    algorithm: Literal["fixed", "gcra"] = "fixed"
    """`fixed` window, or `gcra`: an even rate with a burst."""
    burst: Positive | None = None
    """gcra: the total at once; default a tenth of the limit, at least 1."""
    by: By | None = None
    """Who has a counter of their own; default `client` under tiers, `model` (shared by all) under models."""
    models: tuple[Text, ...] | None = None
    """Narrows a tier's limit to these models (names, aliases or globs)."""
    on_outage: Outage | None = None
    """Default: the store's."""
    name: Text | None = None
    """How headers, events and `usage` name it; default derived, like `free.tokens.day.client`."""

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

    @property
    def at_once(self) -> int:
        """The most that one call can hold: the burst of gcra, else the size."""
        return (self.burst or max(1, self.size // 10)) if self.algorithm == "gcra" else self.size

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
    """Price of tokens: `input` and `output` per `per` tokens, as decimal strings in the file's currency."""

    input: Money
    """Money per `per` input tokens."""
    output: Money
    """Money per `per` output tokens."""
    per: Positive = 1_000_000
    """How many tokens the prices are for."""


def _price_kind(value: Any) -> str:
    return "\x00free" if isinstance(value, str) else "\x00price"


class Model(Node):
    """A model that the upstream serves, and what is known about its bounds."""

    aliases: tuple[Text, ...] = ()
    """Other names that the model server knows too."""
    context: Positive | None = None
    """Tokens that the server accepts in all; mandatory with `bound: strict`."""
    default_output_tokens: Positive = 1024
    """What it generates at most when a request names no cap."""
    max_output_tokens: Positive = 4096
    """A larger cap is refused."""
    template_tokens: Count = 64
    """Chat template and hidden system prompt."""
    tokens_per_byte: TokensPerByte | None = None
    """1, 3 or 11 by the tokenizer's normalizer (none, NFC / NFD, NFKC / NFKD); left out: `strict` takes `context`."""
    image_tokens: Count | None = None
    """Tokens of one image; left out: `strict` takes `context`."""
    cap_absent: Literal["default", "inject", "refuse"] = "default"
    """A request without a cap: `default` counts with default_output_tokens, `refuse` refuses it. `inject` is not built in this release."""
    price: (
        Annotated[Annotated[Price, Tag("\x00price")] | Annotated[Literal["free"], Tag("\x00free")], Discriminator(_price_kind)] | None
    ) = None
    """Price of tokens, or `free`."""
    limits: tuple[LimitSpec, ...] = ()
    """Limits that protect the model: all clients share them."""


class Tier(Node):
    """What a class of clients may use, and how much of it."""

    weight: Positive = 1
    """Share of a model's scarce capacity. Others than 1 are not built in this release."""
    models: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Names, aliases or globs over the models of this file."""
    limits: tuple[LimitSpec, ...] = ()
    """Limits of each client of the tier."""
