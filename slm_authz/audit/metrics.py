"""The counts behind the metrics of the product contract. Hot paths add to plain integers; `exposition` renders them when it is asked.

Labels come from the configuration or from Envoy's own vocabulary, or are `other`: a client cannot make series. Any thread may count: one
short lock makes every increment whole, and a scrape copies a dictionary in one step under the interpreter's lock.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Final

BOUNDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper bounds of the histogram's buckets, in seconds; one more bucket takes the rest."""
_DETAIL: Final = re.compile(r"[a-z0-9_.]{1,64}")
MAX_DETAILS: Final = 64
"""Code details that are told apart; Envoy has about as many."""
Gauge = Callable[[], float]


class Metrics:
    """Counts since the start. `gauges` are asked at every scrape: holds_outstanding, store_up, key_propagation_seconds."""

    def __init__(self, gauges: Mapping[str, Gauge] | None = None) -> None:
        self.gauges = dict(gauges or {})
        self._lock = Lock()
        self.decisions: dict[tuple[str, str, str, str], int] = {}
        """By outcome, reason, model and limit."""
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.settlements: dict[str, int] = {}
        self.tokens: dict[tuple[str, str], int] = {}
        """By direction and model."""
        self.exceeded: dict[str, int] = {}
        self.unmatched_total = 0
        self.ended_details: dict[str, int] = {}
        """Calls that the gateway ended without asking, by its response code detail."""
        self.dropped_total = 0
        self.reload_failures_total = 0
        self.spans_lost: Callable[[], int] = lambda: 0
        self.digest = ""
        self.limits: frozenset[str] = frozenset()
        """Names of limits and policies that may become labels."""

    def decided(self, outcome: str, reason: str, model: str, limit: str, seconds: float) -> None:
        """One decision. `model` is a configured name or empty."""
        key = (outcome, reason, model or "other", limit)
        bucket = bisect_left(BOUNDS, seconds)
        decisions = self.decisions
        with self._lock:
            decisions[key] = decisions.get(key, 0) + 1
            self.buckets[bucket] += 1
            self.seconds += seconds

    def allowed(self, calls: Iterable[tuple[str, float]]) -> None:
        """The allows of one batch: (model, seconds) each."""
        decisions, buckets = self.decisions, self.buckets
        with self._lock:
            for model, seconds in calls:
                key = ("allow", "ok", model or "other", "")
                decisions[key] = decisions.get(key, 0) + 1
                buckets[bisect_left(BOUNDS, seconds)] += 1
                self.seconds += seconds

    def settled(self, source: str, model: str, input_tokens: int, output_tokens: int, *, exceeded: bool) -> None:
        """One settlement or correction. A correction may carry less than nothing; a counter does not go back, so it adds nothing then."""
        model = model or "other"
        with self._lock:
            self.settlements[source] = self.settlements.get(source, 0) + 1
            for direction, tokens in (("input", input_tokens), ("output", output_tokens)):
                if tokens > 0:
                    self.tokens[direction, model] = self.tokens.get((direction, model), 0) + tokens
            if exceeded:
                self.exceeded[model] = self.exceeded.get(model, 0) + 1

    def unmatched(self, count: int) -> None:
        """Log entries that settle nothing."""
        with self._lock:
            self.unmatched_total += count

    def ended(self, detail: str, count: int) -> None:
        """Calls that the gateway ended without asking us; `detail` is Envoy's, what it adds in braces is left out."""
        detail = detail.partition("{")[0]
        with self._lock:
            known = detail in self.ended_details or (len(self.ended_details) < MAX_DETAILS and _DETAIL.fullmatch(detail) is not None)
            name = detail if known else "other"
            self.ended_details[name] = self.ended_details.get(name, 0) + count

    def dropped(self, count: int) -> None:
        """Audit events that were lost."""
        with self._lock:
            self.dropped_total += count
