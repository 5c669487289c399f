"""What the service accounts is what the upstream counted, and the settlement table everywhere else. Two hundred calls of all kinds."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.patience import eventually

pytestmark = pytest.mark.envoy

HELLO = [{"role": "user", "content": "Tell me about keys and limits."}]


def call(edge: Any, key: str, kind: str, number: int) -> str:
    """One call of a kind; returns its decision id."""
    body: dict[str, Any] = {"model": "phi-4-mini", "messages": HELLO, "max_tokens": 8 + number % 5, "user": str(number)}
    headers = {"authorization": f"Bearer {key}"}
    if kind != "whole":
        headers["x-sample"] = {
            "failed": "status=500",
            "large": "bytes=20000000",
            "garbled": "garbled=1",
            "charset": "charset=1",
            "broken": "hangup=3",
            "early": "stall=1",
            "late": "delay=0.02",
        }.get(kind, "")
    if kind in ("stream", "blind", "broken", "early", "late"):
        body["stream"] = True
        if kind not in ("blind", "broken"):
            body["stream_options"] = {"include_usage": True}
    with (
        httpx2.Client(timeout=60) as client,
        client.stream("POST", f"{edge.url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        decision: str = answer.headers["x-slm-decision-id"]
        if kind in ("early", "late"):
            for count, _ in enumerate(answer.iter_lines()):
                if count >= (1 if kind == "early" else 10):
                    return decision
        try:
            answer.read()
        except httpx2.HTTPError:
            assert kind == "broken"
        return decision


def test_two_hundred_mixed_calls(edge: Any) -> None:
    key = edge.key("metered", "mixed")
    kinds = ["whole"] * 60 + ["stream"] * 60 + ["blind"] * 15 + ["failed"] * 15 + ["charset"] * 10 + ["broken"] * 15
    kinds += ["early"] * 11 + ["late"] * 11 + ["garbled"] * 2 + ["large"]
    random.Random(7).shuffle(kinds)
    with ThreadPoolExecutor(24) as pool:
        decisions = list(pool.map(lambda pair: call(edge, key, pair[1], pair[0]), enumerate(kinds)))
    assert eventually(lambda: len(edge.events("mixed")) == len(kinds))
    events = {event["decision_id"]: event for event in edge.events("mixed")}
    assert len(events) == len(kinds)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for kind, decision in zip(kinds, decisions, strict=True):
        by_kind.setdefault(kind, []).append(events[decision])
    sources = {kind: {event["usage_source"] for event in found} for kind, found in by_kind.items()}
    assert sources["whole"] == sources["stream"] == sources["charset"] == sources["large"] == {"upstream"}
    assert sources["failed"] == {"none"}
    assert sources["blind"] == sources["broken"] == sources["early"] == {"estimate"}
    assert sources["garbled"] == {"bound"}
    assert sources["late"] <= {"estimate", "upstream", "partial"}

    def reported() -> dict[str, Any]:  # written down when its answer has left
        return {dict(request["headers"]).get("x-slm-decision-id", ""): request["usage"] for request in edge.requests()}

    assert eventually(lambda: events.keys() <= reported().keys())
    counted = reported()
    for kind in ("whole", "stream", "charset", "large"):
        for event in by_kind[kind]:
            usage = counted[event["decision_id"]]
            assert (event["input_tokens"], event["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
            assert event["status"] == 200
            assert event["cost"] == _cost(event)
    usage = edge.usage("mixed")
    assert usage["tokens"]["held"] == usage["concurrent"]["held"] == 0
    assert usage["tokens"]["used"] == sum(event["input_tokens"] + event["output_tokens"] for event in events.values())


def _cost(event: dict[str, Any]) -> str:
    nanos = event["input_tokens"] * 50_000 + event["output_tokens"] * 200_000
    return f"{nanos / 1e9:.9f}".rstrip("0").rstrip(".")
