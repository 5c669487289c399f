"""The counts behind the metrics of the product contract. Hot paths add to plain integers; `exposition` renders them when it is asked.

Labels come from the configuration, or are `other`: a client cannot make series. Thread safety: every read-modify-write below is done by
the one thread that decides or the one that settles, and a scrape copies a dictionary in one step under the interpreter's lock; should two
threads ever add to the same series at once, an increment may be lost, a series never.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of `render`: the Prometheus text format, which names like ours have had from the beginning."""
BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the histogram's buckets, in seconds; one more bucket takes the rest."""
Gauge = Callable[[], float]


class Metrics:
    """Counts since the start. `gauges` are asked at every scrape: holds_outstanding, store_up, key_propagation_seconds."""

    def __init__(self, gauges: Mapping[str, Gauge] | None = None) -> None:
        self.gauges = dict(gauges or {})
        self.decisions: dict[tuple[str, str, str, str], int] = {}
        """By outcome, reason, model and limit."""
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.settlements: dict[str, int] = {}
        self.tokens: dict[tuple[str, str], int] = {}
        """By direction and model."""
        self.exceeded: dict[str, int] = {}
        self.unmatched_total = 0
        self.dropped_total = 0
        self.reload_failures_total = 0
        self.digest = ""
        self.limits: frozenset[str] = frozenset()
        """Names of limits and policies that may become labels."""

    def decided(self, outcome: str, reason: str, model: str, limit: str, seconds: float) -> None:
        """One decision. `model` is a configured name or empty."""
        key = (outcome, reason, model or "other", limit)
        decisions = self.decisions
        decisions[key] = decisions.get(key, 0) + 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def settled(self, source: str, model: str, input_tokens: int, output_tokens: int, *, exceeded: bool) -> None:
        """One settlement or correction. A correction may carry less than nothing; a counter does not go back, so it adds nothing then."""
        model = model or "other"
        self.settlements[source] = self.settlements.get(source, 0) + 1
        for direction, tokens in (("input", input_tokens), ("output", output_tokens)):
            if tokens > 0:
                self.tokens[direction, model] = self.tokens.get((direction, model), 0) + tokens
        if exceeded:
            self.exceeded[model] = self.exceeded.get(model, 0) + 1

    def unmatched(self, count: int) -> None:
        """Log entries that settle nothing."""
        self.unmatched_total += count

    def render(self) -> bytes:
        """The text exposition, of type `CONTENT_TYPE`."""
        from slm_authz.audit.exposition import render  # prometheus_client is loaded by the first scrape, not by the engine

        return render(self)
