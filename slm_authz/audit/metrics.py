"""The metrics of the product contract. Hot paths add to plain integers; prometheus_client sees them only when it is asked to render.

Labels come from the configuration, or are `other`: a client cannot make series. Increments are single dictionary operations under the
interpreter's lock; a lost update between two threads would need them to count the same series at once, which only `decided` could, and it
runs on one thread at a time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
Gauge = Callable[[], float]


class Metrics:
    """Counts. `gauges` are asked at every scrape: holds_outstanding, store_up, key_propagation_seconds."""

    def __init__(self, gauges: dict[str, Gauge] | None = None) -> None:
        self._gauges = gauges or {}
        self._decisions: dict[tuple[str, str, str, str], int] = {}
        self._buckets = [0] * (len(_BOUNDS) + 1)
        self._seconds = 0.0
        self._settlements: dict[str, int] = {}
        self._tokens: dict[tuple[str, str], int] = {}
        self._exceeded: dict[str, int] = {}
        self.unmatched_total = 0
        self.dropped_total = 0
        self.reload_failures_total = 0
        self.digest = ""
        self.limits: frozenset[str] = frozenset()
        """Names of limits and policies that may become labels."""

    def decided(self, outcome: str, reason: str, model: str, limit: str, seconds: float) -> None:
        """One decision. `model` is a configured name or empty."""
        key = (outcome, reason, model or "other", limit)
        decisions = self._decisions
        decisions[key] = decisions.get(key, 0) + 1
        self._buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds += seconds

    def settled(self, source: str, model: str, input_tokens: int, output_tokens: int, *, exceeded: bool) -> None:
        """One settlement or correction."""
        model = model or "other"
        self._settlements[source] = self._settlements.get(source, 0) + 1
        for direction, tokens in (("input", input_tokens), ("output", output_tokens)):
            if tokens:
                self._tokens[direction, model] = self._tokens.get((direction, model), 0) + tokens
        if exceeded:
            self._exceeded[model] = self._exceeded.get(model, 0) + 1

    def unmatched(self, count: int) -> None:
        """Log entries that settle nothing."""
        self.unmatched_total += count

    def render(self) -> bytes:
        """The text exposition."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Metric]:
        """prometheus_client's collector protocol."""
        yield self._decisions_family()
        check = HistogramMetricFamily("slm_check_seconds", "Duration of a Check, from its arrival to its decision")
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._buckets, strict=True):
            total += count
            buckets.append((bound, total))
        check.add_metric([], buckets=buckets, sum_value=self._seconds)
        yield check
        yield from self._families()
        info = GaugeMetricFamily("slm_config_info", "The configuration in force", labels=["digest"])
        info.add_metric([self.digest], 1)
        yield info
        for name, (help_text, default) in _GAUGES.items():
            yield GaugeMetricFamily(f"slm_{name}", help_text, value=self._gauges.get(name, lambda value=default: value)())

    def _decisions_family(self) -> Metric:
        family = CounterMetricFamily("slm_decisions", "Decisions", labels=["outcome", "reason", "model", "limit"])
        summed: dict[tuple[str, str, str, str], int] = {}
        for (outcome, reason, model, limit), count in list(self._decisions.items()):
            key = (outcome, reason, model, limit if not limit or limit in self.limits else "other")
            summed[key] = summed.get(key, 0) + count
        for labels, count in sorted(summed.items()):
            family.add_metric(labels, count)
        return family

    def _families(self) -> Iterable[Metric]:
        settlements = CounterMetricFamily("slm_settlements", "Settled calls by the source of their usage", labels=["source"])
        for source, count in sorted(self._settlements.items()):
            settlements.add_metric([source], count)
        tokens = CounterMetricFamily("slm_tokens", "Tokens charged", labels=["direction", "model"])
        for labels, count in sorted(self._tokens.items()):
            tokens.add_metric(labels, count)
        exceeded = CounterMetricFamily("slm_bound_exceeded", "Calls that used more than was held for them", labels=["model"])
        for model, count in sorted(self._exceeded.items()):
            exceeded.add_metric([model], count)
        deadline = sum(count for (_, reason, _, _), count in list(self._decisions.items()) if reason == "deadline_exceeded")
        yield settlements
        yield tokens
        yield exceeded
        yield CounterMetricFamily("slm_access_log_unmatched", "Log entries without a hold that is still open", value=self.unmatched_total)
        yield CounterMetricFamily("slm_audit_dropped", "Audit events that no sink took", value=self.dropped_total)
        yield CounterMetricFamily("slm_config_reload_failures", "Configurations that were refused", value=self.reload_failures_total)
        yield CounterMetricFamily("slm_deadline_exceeded", "Calls whose deadline left no time", value=deadline)


_GAUGES: Final = {
    "holds_outstanding": ("Admitted calls whose end is not known yet", 0.0),
    "store_up": ("1 while keys and counters can be read and written", 1.0),
    "key_propagation_seconds": ("How long a changed key takes until it is in force here; 0: at the next call", 0.0),
}
