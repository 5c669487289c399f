"""kill -9 in the middle of load, again and again: no key lost, no spend forgotten, no call charged twice, and callers see 503 or success."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import pytest

from slm_authz.local.stack import answers
from slm_authz.settings.load import load
from tests.e2e.conftest import run_edge
from tests.patience import eventually

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

BODY = {"model": "phi-4-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}


class Load:
    """Three callers that go on until told to stop."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._stop = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.allowed: list[str] = []
        self._threads = [threading.Thread(target=self._run) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        with httpx2.Client(timeout=30) as client:
            while not self._stop.is_set():
                answer = client.post(f"{self._url}/v1/chat/completions", json=BODY, headers=self._headers)
                self.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    self.allowed.append(answer.headers["x-slm-decision-id"])
                else:
                    self._stop.wait(0.01)

    def goes_on(self, edge: Any) -> bool:
        """Thirty more calls are allowed."""
        enough = len(self.allowed) + 30
        return eventually(lambda: len(self.allowed) > enough)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_killed_again_and_again(tmp_path: Path) -> None:
    edge: Any = run_edge(tmp_path, "strict")
    try:
        key = edge.key("metered", "survivor")
        health = load(edge.gateway.config, os.environ).settings.listen.health
        load_ = Load(edge.url, key)
        for _ in range(4):
            assert load_.goes_on(edge)
            child = edge.gateway.stack.children[1]
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            again = edge.gateway.stack.start("service again", (sys.executable, "-m", "slm_authz", "serve", "-c", str(edge.gateway.config)))
            edge.gateway.stack.children[1] = edge.gateway.stack.children.pop()
            edge.gateway.stack.wait(again, lambda: answers(f"http://{health}/readyz"))
        assert load_.goes_on(edge)
        load_.stop()
        assert set(load_.statuses) <= {200, 503}
        assert eventually(lambda: edge.usage("survivor")["concurrent"]["held"] <= _lost(edge, load_))
        events = edge.events("survivor")
        assert max(Counter((event["event"], event["decision_id"]) for event in events).values()) == 1
        usage = edge.usage("survivor")["tokens"]
        charged = sum(event["input_tokens"] + event["output_tokens"] for event in events)
        assert usage["used"] == charged
        counted = [r["usage"]["total_tokens"] for r in edge.requests() if r["usage"] is not None]
        # Entries of the log that Envoy lost while the service was away are still held, at their bound: nothing is forgotten.
        assert usage["used"] + usage["held"] >= sum(counted)
    finally:
        edge.gateway.stop()


def _lost(edge: Any, load_: Load) -> int:
    return len(load_.allowed) + load_.statuses[503] - len(edge.events("survivor"))
