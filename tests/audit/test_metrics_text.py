"""The metrics of the contract, as a scrape sees them; labels that no client can make."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from slm_authz.audit.exposition import render
from slm_authz.audit.metrics import BOUNDS, MAX_DETAILS, Metrics


def scrape(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = render(metrics).decode()
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in text_string_to_metric_families(text) for s in family.samples}


def names(metrics: Metrics) -> set[str]:
    return {name for name, _ in scrape(metrics)}


def test_every_name_of_the_contract_is_there() -> None:
    metrics = Metrics()
    metrics.decided("allow", "ok", "m", "", 0.001)
    metrics.settled("upstream", "m", 1, 2, exceeded=True)
    assert names(metrics) >= {
        "slm_decisions_total", "slm_check_seconds_bucket", "slm_check_seconds_sum", "slm_check_seconds_count", "slm_holds_outstanding",
        "slm_settlements_total", "slm_tokens_total", "slm_bound_exceeded_total", "slm_access_log_unmatched_total", "slm_audit_dropped_total",
        "slm_config_reload_failures_total", "slm_store_up", "slm_deadline_exceeded_total", "slm_key_propagation_seconds", "slm_config_info",
    }  # fmt: skip


def test_decisions_count_by_their_four_labels() -> None:
    metrics = Metrics()
    metrics.limits = frozenset({"day"})
    for _ in range(3):
        metrics.decided("deny", "rate_limited", "m", "day", 0.0)
    metrics.decided("deny", "unknown_key", "", "", 0.0)
    found = scrape(metrics)
    assert found["slm_decisions_total", (("limit", "day"), ("model", "m"), ("outcome", "deny"), ("reason", "rate_limited"))] == 3
    assert found["slm_decisions_total", (("limit", ""), ("model", "other"), ("outcome", "deny"), ("reason", "unknown_key"))] == 1


def test_a_limit_that_is_not_configured_any_more_is_other() -> None:
    metrics = Metrics()
    metrics.decided("deny", "rate_limited", "m", "gone", 0.0)
    metrics.decided("deny", "rate_limited", "m", "gone too", 0.0)
    found = scrape(metrics)
    assert found["slm_decisions_total", (("limit", "other"), ("model", "m"), ("outcome", "deny"), ("reason", "rate_limited"))] == 2


def test_the_histogram_is_cumulative_and_bounds_are_inclusive() -> None:
    metrics = Metrics()
    for seconds in (*BOUNDS, 99.0):
        metrics.decided("allow", "ok", "m", "", seconds)
    found = scrape(metrics)
    for number, bound in enumerate(BOUNDS, 1):
        assert found["slm_check_seconds_bucket", (("le", str(bound)),)] == number
    assert found["slm_check_seconds_bucket", (("le", "+Inf"),)] == found["slm_check_seconds_count", ()] == len(BOUNDS) + 1


def test_a_correction_never_makes_a_counter_go_back() -> None:
    metrics = Metrics()
    metrics.settled("bound", "m", 100, 50, exceeded=False)
    metrics.settled("upstream", "m", -90, 10, exceeded=False)
    found = scrape(metrics)
    assert found["slm_tokens_total", (("direction", "input"), ("model", "m"))] == 100
    assert found["slm_tokens_total", (("direction", "output"), ("model", "m"))] == 60


def test_gauges_are_asked_at_every_scrape() -> None:
    held = [7.0]
    metrics = Metrics({"holds_outstanding": lambda: held[0], "store_up": lambda: 0.0})
    assert scrape(metrics)["slm_holds_outstanding", ()] == 7
    held[0] = 8.0
    assert scrape(metrics)["slm_holds_outstanding", ()] == 8
    assert scrape(metrics)["slm_store_up", ()] == 0


def test_totals_and_the_configuration_in_force() -> None:
    metrics = Metrics()
    metrics.digest = 'a"\n\\b'
    metrics.unmatched(4)
    metrics.dropped_total += 2
    metrics.reload_failures_total += 1
    metrics.decided("error", "deadline_exceeded", "", "", 0.0)
    found: dict[Any, float] = scrape(metrics)
    assert found["slm_access_log_unmatched_total", ()] == 4
    assert found["slm_audit_dropped_total", ()] == 2
    assert found["slm_config_reload_failures_total", ()] == 1
    assert found["slm_deadline_exceeded_total", ()] == 1
    assert found["slm_config_info", (("digest", 'a"\n\\b'),)] == 1


def test_counting_loads_no_metrics_library() -> None:
    program = "import sys, slm_authz.audit.metrics, slm_authz.audit.recorder; sys.exit('prometheus_client' in sys.modules or 'opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_the_gateway_ended_itself_is_counted_by_its_code_detail() -> None:
    metrics = Metrics()
    metrics.ended("request_payload_too_large", 2)
    metrics.ended("upstream_reset_before_response_started{connection_termination}", 1)
    metrics.ended('no detail of Envoy"s', 1)
    for number in range(200):
        metrics.ended(f"made_up_{number}", 1)
    found = {labels[0][1]: value for (name, labels), value in scrape(metrics).items() if name == "slm_gateway_ended_total"}
    assert found["request_payload_too_large"] == 2
    assert found["upstream_reset_before_response_started"] == 1
    assert len(found) <= MAX_DETAILS + 1
    assert sum(found.values()) == 204
    assert found["other"] > 100


def test_no_increment_is_lost_between_threads() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(2000):
            metrics.decided("allow", "ok", "m", "", 0.001)
            metrics.settled("upstream", "m", 1, 0, exceeded=False)
            metrics.unmatched(1)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert metrics.decisions["allow", "ok", "m", ""] == sum(metrics.buckets) == 8000
    assert metrics.settlements["upstream"] == metrics.tokens["input", "m"] == metrics.unmatched_total == 8000
