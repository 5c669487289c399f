"""Every case of tests/cases: the decision, its hold, and its one audit event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engine.house import House

_CASES = yaml.safe_load((Path(__file__).parent.parent / "cases" / "corridor.yaml").read_text())


def _house(directory: Path, config: str, **more: Any) -> Any:
    return House(directory, config, **more)


@pytest.fixture(params=["estimate", "strict"])
def house(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    one = _house(tmp_path, f"{_CASES['config']}metering: {{bound: {request.param}}}\n")
    one.strict = request.param == "strict"
    yield one
    one.close()


@pytest.mark.parametrize("case", _CASES["cases"], ids=lambda case: case["name"])
def test_case(house: Any, case: dict[str, Any]) -> None:
    key = house.key("acme") if case.get("key", "") == "" else case["key"]
    body = json.dumps(case["body"]).encode() if "body" in case else b""
    target = case.get("target", "/v1/chat/completions")
    request = house.request(
        body,
        key=key,
        method=case.get("method", "POST"),
        target=target,
        headers=case.get("headers", {}),
        host=case.get("host", "a.example.com"),
    )
    decision = house.ask(request)
    status = 200 if decision.denial is None else decision.denial.http_status
    assert status == case["status"], decision.denial
    if status != 200:
        (event,) = house.events()
        assert event.decision_id == decision.id
        assert (event.outcome, event.status, event.usage_source) == ("deny", status, "none")
        assert event.reason == case.get("reason", event.reason)
        assert event.limit == case.get("limit")
        assert not decision.hold
        assert house.counters.outstanding == 0
        return
    assert house.events() == []
    assert decision.model == case.get("model", decision.model)
    pending = house.counters._ledger.pending[decision.id]
    if house.strict and "hold" in case:
        assert pending.input_bound + pending.output_bound == case["hold"]
    house.end(decision, (pending.input_bound, 0))
    (event,) = house.events()
    assert (event.decision_id, event.outcome, event.reason, event.status) == (decision.id, "allow", "ok", 200)
    assert event.shadow == (("watch-streams",) if case.get("body", {}).get("stream") else ())
