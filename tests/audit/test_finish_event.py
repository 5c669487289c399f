"""From what the engine packed and the counters settled to the public record."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.audit.event import AuditEvent
from slm_authz.audit.finish import CAP, finish, time_of, trace_parent

ANY_TEXT = st.text(max_size=700)


def test_the_members_and_their_order_are_the_contracts(made: Any) -> None:
    event, _ = finish(made.outcome(1))
    assert list(msgspec.json.decode(msgspec.json.encode(event))) == [
        "time", "event", "count", "decision_id", "request_id", "trace_id", "identity", "client", "tenant", "tier", "key_id", "api", "model",
        "path", "source", "outcome", "reason", "limit", "shadow", "status", "latency_ms", "attempts", "input_tokens", "output_tokens",
        "usage_source", "cost", "currency", "config",
    ]  # fmt: skip


def test_an_allow_that_was_settled(made: Any) -> None:
    event, _ = finish(made.outcome(1))
    assert event.time == "2023-11-15T12:00:00.123Z"
    assert event.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert (event.status, event.latency_ms, event.cost, event.currency) == (200, 1.234, "0.0015", "USD")
    assert (event.input_tokens, event.output_tokens, event.usage_source, event.attempts) == (10, 5, "upstream", 1)


def test_an_allow_that_lapsed_has_no_status_and_the_bound(made: Any) -> None:
    event, _ = finish(made.outcome(1, status=None, source="bound", attempts=None, cost=None))
    assert (event.status, event.usage_source, event.attempts, event.cost) == (None, "bound", None, None)


def test_a_refusal_charged_nothing_and_that_is_known(made: Any) -> None:
    facts = made.facts(1, outcome="deny", reason="rate_limited", status=429, limit="free.requests.minute.client")
    event, _ = finish(made.outcome(1, facts, status=None, input_tokens=None, output_tokens=None, source="none", cost=None))
    assert (event.status, event.input_tokens, event.output_tokens, event.usage_source, event.cost) == (429, 0, 0, "none", "0")
    assert event.limit == "free.requests.minute.client"


def test_a_correction_carries_differences_under_the_time_of_its_decision(made: Any) -> None:
    event, _ = finish(made.outcome(1, event="correction", input_tokens=-3, output_tokens=-100, cost=-2_000_000))
    assert (event.event, event.input_tokens, event.output_tokens, event.cost) == ("correction", -3, -100, "-0.002")
    assert event.time == finish(made.outcome(1))[0].time


def test_a_summary_has_no_id_and_no_latency(made: Any) -> None:
    facts = made.facts(1, decision_id="", request_id="", path="", outcome="deny", reason="unknown_key", status=401, source="192.0.2.0/24")
    event, _ = finish(made.outcome(1, facts, event="summary", count=41, status=None, source="none"))
    assert (event.decision_id, event.request_id, event.path, event.latency_ms) == (None, None, None, None)
    assert (event.count, event.source, event.status) == (41, "192.0.2.0/24", 401)
    assert finish(made.outcome(1, made.facts(1, config=""), event="summary"))[0].config is None


def test_a_query_string_never_gets_through(made: Any) -> None:
    event, _ = finish(made.outcome(1, made.facts(1, path="/v1/models?api_key=slm_live_x#y")))
    assert event.path == "/v1/models"


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_hostile_strings_stay_one_short_printable_line(made: Any, request_id: str, client: str, path: str) -> None:
    text = (request_id + client + path).encode("utf-8", "replace").decode()
    cut = len(request_id)
    facts = made.facts(1, request_id=text[:cut], client=text[cut:], path="/" + text)
    event, _ = finish(made.outcome(1, facts))
    for value in (event.request_id, event.client, event.path):
        assert value is None or (len(value) <= CAP and value.isprintable())
    line = msgspec.json.encode(event)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=AuditEvent) == event


@given(st.integers(0, 4_000_000_000_000))
def test_times_keep_their_milliseconds(millis: int) -> None:
    assert time_of(millis).endswith(f".{millis % 1000:03d}Z")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", True),
        ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", False),
        ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", False),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", False),
        (" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n", False),
    ],
)
def test_traceparent_is_read_as_w3c_says(text: str, valid: bool) -> None:
    assert (trace_parent(text) is not None) is valid


@pytest.mark.parametrize("path", ["/v1/%s", "/%s/x", "/v1/a%s"])
def test_a_key_in_a_path_is_never_written_down(made: Any, path: str) -> None:
    key = "slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq"
    event, _ = finish(made.outcome(1, made.facts(1, path=path % key)))
    assert event.path == path % "slm_***"
