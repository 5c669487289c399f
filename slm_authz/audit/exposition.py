"""Renders `Metrics` for a scrape. Enters: counts. Leaves: Prometheus text. The only place that imports prometheus_client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from slm_authz.audit.metrics import BOUNDS, Metrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of `render`: the Prometheus text format, which names like ours have had from the beginning."""
_GAUGES: Final = {
    "holds_outstanding": ("Admitted calls whose end is not known yet", 0.0),
    "store_up": ("1 while keys and counters can be read and written", 1.0),
    "key_propagation_seconds": ("How long a changed key takes until it is in force here; 0: at the next call", 0.0),
}


def render(metrics: Metrics) -> bytes:
    """All metrics of the product contract."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(metrics))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """prometheus_client's collector protocol."""
        metrics = self._metrics
        yield _decisions(metrics)
        yield _check(metrics)
        yield _counter("settlements", "Settled calls by the source of their usage", ("source",), _keyed(metrics.settlements))
        yield _counter("tokens", "Tokens charged", ("direction", "model"), metrics.tokens.items())
        yield _counter("bound_exceeded", "Calls that used more than was held for them", ("model",), _keyed(metrics.exceeded))
        ended = _keyed(metrics.ended_details)
        yield _counter("gateway_ended", "Calls that the gateway ended without asking, by its response code detail", ("detail",), ended)
        yield from _totals(metrics)
        info = GaugeMetricFamily("slm_config_info", "The configuration in force", labels=["digest"])
        info.add_metric([metrics.digest], 1)
        yield info
        for name, (text, default) in _GAUGES.items():
            gauge = metrics.gauges.get(name)
            yield GaugeMetricFamily(f"slm_{name}", text, value=default if gauge is None else gauge())


def _keyed(counts: dict[str, int]) -> list[tuple[tuple[str], int]]:
    return [((key,), count) for key, count in list(counts.items())]


def _counter(name: str, text: str, labels: Sequence[str], counts: Iterable[tuple[Sequence[str], int]]) -> Metric:
    family = CounterMetricFamily(f"slm_{name}", text, labels=labels)
    for values, count in sorted(counts):
        family.add_metric(values, count)
    return family


def _decisions(metrics: Metrics) -> Metric:
    summed: dict[tuple[str, ...], int] = {}
    for (outcome, reason, model, limit), count in list(metrics.decisions.items()):
        key = (outcome, reason, model, limit if not limit or limit in metrics.limits else "other")
        summed[key] = summed.get(key, 0) + count
    return _counter("decisions", "Decisions", ("outcome", "reason", "model", "limit"), summed.items())


def _check(metrics: Metrics) -> Metric:
    family = HistogramMetricFamily("slm_check_seconds", "Duration of a Check, from its arrival to its decision")
    total, buckets = 0, []
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), list(metrics.buckets), strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric([], buckets=buckets, sum_value=metrics.seconds)
    return family


def _totals(metrics: Metrics) -> Iterable[Metric]:
    late = sum(count for (_, reason, _, _), count in list(metrics.decisions.items()) if reason == "deadline_exceeded")
    for name, text, value in (
        ("access_log_unmatched", "Log entries without a hold that is still open", metrics.unmatched_total),
        ("audit_dropped", "Audit events that were dropped", metrics.dropped_total),
        ("spans_lost", "Spans that no collector took", metrics.spans_lost()),
        ("config_reload_failures", "Configurations that were refused", metrics.reload_failures_total),
        ("deadline_exceeded", "Calls whose deadline left no time", late),
    ):
        yield CounterMetricFamily(f"slm_{name}", text, value=value)
