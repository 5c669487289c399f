"""The corridor's own duties: waiting for a slot, deadlines and cancels, undelivered answers, a store that fails, floods, and no overshoot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_authz.engine import conclude
from slm_authz.errors import StoreError
from slm_authz.identity.principal import Deferred, Principal
from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival
from tests.engine.house import House

CONFIG = """
version: 1
identity: [{api_key: {}}]
models: {m: {context: 1000, default_output_tokens: 10, max_output_tokens: 100, tokens_per_byte: 1, price: free}}
tiers:
  one: {models: [m], limits: [{concurrent: 1}]}
  budget: {models: [m], limits: [{tokens: 5000, per: day}]}
  few: {models: [m], limits: [{requests: 2, per: minute}]}
metering: {bound: strict, settle_wait: 250ms}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 26}], "max_tokens": 10}).encode()


def _house(directory: Path, config: str) -> Any:
    return House(directory, config)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Any]:
    one = _house(tmp_path, CONFIG)
    yield one
    one.close()


def allowed(decision: Any) -> bool:
    return decision is not None and decision.denial is None


# -- waiting


def test_a_call_waits_for_the_settlement_of_the_last_one(house: Any) -> None:
    key = house.key("seq", tier="one")
    first = house.ask(house.request(BODY, key=key))
    assert house.ask(house.request(BODY, key=key)) is None
    assert house.engine.waiting == 1
    house.end(first)
    ((_, second),) = house.engine.resume(house.now)
    assert allowed(second)
    assert house.engine.waiting == 0


def test_the_wait_ends_with_a_refusal(house: Any) -> None:
    key = house.key("seq", tier="one")
    house.ask(house.request(BODY, key=key))
    assert house.ask(house.request(BODY, key=key)) is None
    house.ticks += 249_000_000
    assert house.engine.resume(house.now) == []
    house.ticks += 2_000_000
    ((_, refused),) = house.engine.resume(house.now)
    assert refused.denial.reason is Reason.TOO_MANY_CONCURRENT
    assert refused.denial.retry_after == 1
    (event,) = house.events()
    assert event.reason == "too_many_concurrent"
    assert event.latency_ms == 251.0


def test_a_wait_never_takes_the_deadline_along(house: Any) -> None:
    key = house.key("seq", tier="one")
    house.ask(house.request(BODY, key=key))
    assert house.ask(house.request(BODY, key=key, remaining=0.1)) is None
    house.ticks += 81_000_000
    ((_, refused),) = house.engine.resume(house.now)
    assert refused.denial is not None


def test_those_who_wait_come_first(house: Any) -> None:
    key = house.key("seq", tier="one")
    first = house.ask(house.request(BODY, key=key))
    waiting = Arrival(900, house.request(BODY, key=key))
    assert house.engine.check([waiting], house.now) == []
    house.end(first)
    answers = house.engine.check([Arrival(901, house.request(BODY, key=key))], house.now)
    assert [(arrival.call, allowed(decision)) for arrival, decision in answers] == [(900, True)]


def test_a_waiting_call_that_is_cancelled_takes_nothing(house: Any) -> None:
    key = house.key("seq", tier="one")
    first = house.ask(house.request(BODY, key=key))
    assert house.engine.check([Arrival(900, house.request(BODY, key=key))], house.now) == []
    house.engine.cancel(900, house.now)
    assert house.engine.waiting == 0
    assert [event.reason for event in house.events()] == ["cancelled"]
    house.end(first)
    assert house.engine.resume(house.now) == []


# -- deadlines, cancels, undelivered answers


def test_too_little_time_left_takes_nothing(house: Any) -> None:
    decision = house.ask(house.request(BODY, key=house.key("late"), remaining=0.019))
    assert decision.denial.reason is Reason.DEADLINE_EXCEEDED
    assert house.counters.outstanding == 0


def test_a_cancelled_call_takes_nothing(house: Any) -> None:
    ((_, decision),) = house.engine.check([Arrival(1, house.request(BODY, key=house.key("gone")), cancelled=True)], house.now)
    assert decision.denial.reason is Reason.CANCELLED
    assert [event.reason for event in house.events()] == ["cancelled"]


def test_an_answer_that_nobody_received_is_given_back(house: Any) -> None:
    key = house.key("seq", tier="one")
    decision = house.ask(house.request(BODY, key=key))
    house.engine.undelivered(decision, house.now)
    (event,) = house.events()
    assert (event.outcome, event.reason, event.input_tokens, event.decision_id) == ("error", "cancelled", 0, decision.id)
    assert allowed(house.ask(house.request(BODY, key=key)))
    house.engine.undelivered(decision, house.now)
    assert len(house.events()) == 1


# -- failures


def test_a_fault_in_one_call_refuses_that_call_alone(house: Any) -> None:
    key = house.key("ok")
    poison = house.request(BODY, key=key)
    poison.body = 5
    answers = house.engine.check([Arrival(1, poison), Arrival(2, house.request(BODY, key=key))], house.now)
    assert [decision.denial.reason if decision.denial else None for _, decision in answers] == [Reason.INTERNAL, None]
    assert [event.outcome for event in house.events()] == ["error"]


def test_a_fault_after_the_admission_gives_back_and_leaves_the_neighbours(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = house.key("ok", tier="few")
    seen: list[Any] = []

    def allow(planned: Any, *more: Any) -> Any:
        seen.append(planned)
        if len(seen) == 2:
            raise ValueError
        return conclude.allowed(planned, *more)

    monkeypatch.setattr("slm_authz.engine.corridor.allowed", allow)
    answers = house.engine.check([Arrival(n, house.request(BODY, key=key)) for n in range(2)], house.now)
    assert [decision.denial.reason if decision.denial else None for _, decision in answers] == [None, Reason.INTERNAL]
    assert house.counters.outstanding == 1
    assert [(event.outcome, event.reason, event.decision_id) for event in house.events()] == [("error", "internal", answers[1][1].id)]
    assert allowed(house.ask(house.request(BODY, key=key)))


def test_counters_that_fail_half_way_keep_nothing(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = house.key("ok", tier="few")
    real = house.counters.admit

    def admit(batch: Any, now: int) -> Any:
        real(batch[:1], now)
        raise ValueError

    monkeypatch.setattr(house.counters, "admit", admit)
    answers = house.engine.check([Arrival(n, house.request(BODY, key=key)) for n in range(3)], house.now)
    assert [decision.denial.reason for _, decision in answers] == [Reason.INTERNAL] * 3
    assert house.counters.outstanding == 0
    assert [event.reason for event in house.events()] == ["internal"] * 3
    monkeypatch.undo()
    assert allowed(house.ask(house.request(BODY, key=key)))
    assert allowed(house.ask(house.request(BODY, key=key)))


def test_a_refusal_before_anything_could_be_read_lasts_as_long_as_it_did(house: Any) -> None:
    house.ticks = 10**15
    house.engine.check([Arrival(1, Denial(Reason.MALFORMED_REQUEST, "no"), received=10**15 - 2_000_000)], house.now)
    assert house.events()[0].latency_ms == 2.0
    assert house.metrics.seconds == 0.002


def test_not_ready_yet(house: Any) -> None:
    house.engine.started = False
    decision = house.ask(house.request(BODY, key=house.key("early")))
    assert (decision.denial.reason, decision.denial.http_status) == (Reason.NOT_READY, 503)


def _full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_what_cannot_be_kept_is_refused_and_given_back(house: Any) -> None:
    key = house.key("spender", tier="budget")
    append, house.journal._log.append = house.journal._log.append, _full
    refused = house.ask(house.request(BODY, key=key))
    assert refused.denial.reason is Reason.STORE_UNAVAILABLE
    assert house.counters.outstanding == 0
    assert {outcome: count for (outcome, *_), count in house.metrics.decisions.items()} == {"error": 1}, "counted once"
    assert not house.counters.healthy
    house.journal._log.append = append
    assert not allowed(house.ask(house.request(BODY, key=key)))
    house.counters.snapshot()
    assert house.counters.healthy
    assert allowed(house.ask(house.request(BODY, key=key)))


def test_a_key_store_that_fails_leaves_known_keys_serving(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = house.key("known", tier="budget")
    assert allowed(house.ask(house.request(BODY, key=key)))

    def fail(*_: Any) -> Any:
        raise StoreError("gone")

    monkeypatch.setattr(house.store, "changed", fail)
    monkeypatch.setattr(house.store, "find", fail)
    assert allowed(house.ask(house.request(BODY, key=key)))


def test_an_audit_that_must_not_fail_refuses(house: Any) -> None:
    import msgspec

    house.engine.rules = msgspec.structs.replace(house.engine.rules, deny_without_audit=True)
    house.engine.audit_available = lambda: False
    assert house.ask(house.request(BODY, key=house.key("any"))).denial.reason is Reason.AUDIT_UNAVAILABLE


# -- floods and budgets


def test_a_flood_without_identity_is_summed_up(house: Any) -> None:
    for _ in range(250):
        house.ask(house.request(BODY, key="nonsense"))
    assert len(house.events()) == 10
    house.now += 1000
    house.engine.lapse(house.now)
    summary = house.events()[-1]
    assert (summary.event, summary.count, summary.decision_id, summary.source, summary.reason) == (
        "summary", 240, None, "10.0.0.0/24", "malformed_key",
    )  # fmt: skip


def test_a_genuine_key_that_is_not_in_force_is_named_in_the_event_and_nowhere_else(house: Any) -> None:
    """Who still sends it can be found, and a flood of it is summed up as any other: it may not wash the trail away."""
    key = house.key("former", tenant="t")
    (record,) = house.life.every(client="former")
    house.life.revoke([record.id], house.now)
    decisions = [house.ask(house.request(BODY, key=key)) for _ in range(30)]
    assert {decision.principal for decision in decisions} == {None}
    assert len({(decision.denial.message, decision.denial.headers) for decision in decisions}) == 1
    events = house.events()
    assert len(events) == 10
    assert {(event.reason, event.identity, event.client, event.tenant, event.tier, event.key_id) for event in events} == {
        ("key_revoked", "api_key", "former", "t", record.tier, record.id)
    }
    house.now += 1000
    house.engine.lapse(house.now)
    summary = house.events()[-1]
    assert (summary.event, summary.count, summary.client, summary.key_id) == ("summary", 20, None, None)


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_five_hundred_calls_against_a_budget_for_fifty(house: Any, batch: int) -> None:
    """Each holds 26 bytes + 64 of template + 10 of output = 100 tokens of 5000: never a token over."""
    key = house.key("swarm", tier="budget")
    arrivals = [Arrival(n, house.request(BODY, key=key)) for n in range(500)]
    decisions = [d for at in range(0, 500, batch) for _, d in house.engine.check(arrivals[at : at + batch], house.now)]
    assert sum(allowed(decision) for decision in decisions) == 50
    refused = next(decision for decision in decisions if not allowed(decision))
    assert refused.denial.reason is Reason.QUOTA_EXCEEDED
    assert refused.denial.retry_after == 1


def test_headers_of_the_tightest_limit(house: Any) -> None:
    key = house.key("shown", tier="few")
    decision = house.ask(house.request(BODY, key=key))
    headers = dict(decision.headers)
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "1"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    assert headers["ratelimit-policy"] == '"few.requests.minute.client";q=2;w=60'
    assert headers["ratelimit"] == '"few.requests.minute.client";r=1;t=60'
    assert decision.limits == (("request_limit", 2, "MINUTE"),)
    house.ask(house.request(BODY, key=key))
    refused = house.ask(house.request(BODY, key=key))
    assert refused.limits == decision.limits
    assert refused.denial.reason is Reason.RATE_LIMITED
    assert dict(refused.denial.headers)["x-ratelimit-remaining-requests"] == "0"
    for word in ("few.requests.minute.client", "2 requests per minute", "1m0s"):
        assert word in refused.denial.message


def test_envoy_gets_no_opinion_in_a_unit_that_it_does_not_know(tmp_path: Path) -> None:
    one = _house(tmp_path, CONFIG.replace("{requests: 2, per: minute}", "{requests: 2, per: week}, {tokens: 500, per: day}"))
    decision = one.ask(one.request(BODY, key=one.key("weekly", tier="few")))
    assert decision.limits == (("token_limit", 500, "DAY"),)
    one.close()


def test_a_trace_that_is_none_hides_no_other(house: Any) -> None:
    theirs = f"00-{'ab' * 16}-{'cd' * 8}-01"
    for ours in (None, "00-nothing", f"00-{'0' * 32}-{'cd' * 8}-01"):
        house.ask(house.request(BODY, traceparent=ours, headers={"traceparent": theirs}))
    house.ask(house.request(BODY, traceparent=f"00-{'ef' * 16}-{'cd' * 8}-01", headers={"traceparent": theirs}))
    assert [event.trace_id for event in house.events()] == ["ab" * 16] * 3 + ["ef" * 16]


def test_where_all_are_anonymous_nobody_looks_at_a_key(tmp_path: Path) -> None:
    config = CONFIG[: CONFIG.index("tiers:")] + "tiers: {few: {models: [m], limits: [{requests: 2, per: minute}]}}\n"
    one = _house(tmp_path, config.replace("[{api_key: {}}]", "[{anonymous: {tier: few}}]"))
    decision = one.ask(one.request(BODY, headers={"authorization": "Bearer sk-none, or two", "x-api-key": "other"}))
    assert allowed(decision)
    assert decision.principal.client == "anonymous"
    assert {"authorization", "x-api-key", "api-key"} <= set(decision.strip_headers)
    one.close()


# -- a deferred identity


class _Later:
    def __init__(self, answer: Principal | Denial | None) -> None:
        self._answer = answer

    def identify(self, request: Any, now: int) -> Deferred:
        async def later() -> Principal | Denial | None:
            return self._answer

        return Deferred(later())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(Principal("later", "acme", "budget"), None), (Denial(Reason.TOKEN_EXPIRED, "x"), Reason.TOKEN_EXPIRED), (None, Reason.INVALID_TOKEN)],
)
def test_a_deferred_identity_comes_back(house: Any, answer: Any, reason: Reason | None) -> None:
    house.engine.rules.resolver._plugins = (("later", _Later(answer)),)
    assert house.ask(house.request(BODY, key="opaque-token")) is None
    house.engine._deferrals._running and next(iter(house.engine._deferrals._running.values())).result(5)
    ((_, decision),) = house.engine.resume(house.now)
    assert (decision.denial.reason if decision.denial else None) is reason


def test_a_fault_while_waiting_calls_are_tried_leaves_them_waiting(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    key = house.key("seq", tier="one")
    first = house.ask(house.request(BODY, key=key))
    assert house.ask(house.request(BODY, key=key)) is None
    house.end(first)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(house.engine, "_decide", fail)
    with pytest.raises(RuntimeError):
        house.engine.resume(house.now)
    monkeypatch.undo()
    ((_, second),) = house.engine.resume(house.now)
    assert allowed(second)


def test_readiness_follows_the_store(house: Any) -> None:
    assert house.engine.ready
    house.engine.store_up = lambda: False
    assert not house.engine.ready


# -- without an access log


@pytest.fixture
def unmetered(tmp_path: Path) -> Iterator[Any]:
    config = (
        CONFIG[: CONFIG.index("tiers:")]
        + "tiers: {few: {models: [m], limits: [{requests: 2, per: minute}]}}\nmetering: {usage_from: none}\n"
    )
    one = _house(tmp_path, config)
    yield one
    one.close()


def test_without_an_access_log_a_call_settles_as_it_is_given(unmetered: Any) -> None:
    request = unmetered.request(BODY, key=unmetered.key("acme"))
    unmetered.ticks += 7_000_000
    ((_, decision),) = unmetered.engine.check([Arrival(1, request)], unmetered.now)
    assert allowed(decision)
    assert decision.hold == ""
    assert unmetered.counters.outstanding == 0
    event = unmetered.events()[0]
    assert (event.outcome, event.status, event.usage_source, event.latency_ms) == ("allow", None, "none", 7.0)
    assert (event.decision_id, event.client, event.model) == (decision.id, "acme", "m")
    unmetered.engine.undelivered(decision, unmetered.now)
    assert len(unmetered.events()) == 1
    assert allowed(unmetered.ask(request))
    assert not allowed(unmetered.ask(request))


def test_without_an_access_log_what_cannot_be_kept_is_one_refusal(unmetered: Any) -> None:
    unmetered.journal._log.append = _full
    decision = unmetered.ask(unmetered.request(BODY, key=unmetered.key("acme")))
    assert decision.denial.reason is Reason.STORE_UNAVAILABLE
    assert [(event.outcome, event.reason) for event in unmetered.events()] == [("error", "store_unavailable")]


# -- what callers try


@pytest.fixture
def open_paths(tmp_path: Path) -> Iterator[Any]:
    one = _house(tmp_path, CONFIG + "paths: [{prefix: /v1/, methods: [POST, GET], model: none}]\n")
    yield one
    one.close()


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/v1/Chat/Completions", "/v1/chat/completions.", "/V1/EMBEDDINGS//", "/v1/completions%20"]
)
def test_no_spelling_of_an_api_path_passes_unmetered(open_paths: Any, path: str) -> None:
    decision = open_paths.ask(open_paths.request(BODY, key=open_paths.key("acme"), target=path))
    assert decision.denial.reason is Reason.PATH_NOT_ALLOWED


def test_other_paths_of_the_same_prefix_do(open_paths: Any) -> None:
    for path in ("/v1/files", "/v1/chat/completions/x", "/v1/audio/transcriptions"):
        assert allowed(open_paths.ask(open_paths.request(BODY, key=open_paths.key("acme"), target=path)))


def test_who_has_one_address_of_ipv6_has_all_of_its_network(tmp_path: Path) -> None:
    one = _house(tmp_path, CONFIG.replace("{requests: 2, per: minute}", "{requests: 2, per: minute, by: address}"))
    key = one.key("roaming", tier="few")
    peers = ["2001:db8::1", "2001:db8::2:3", "2001:db8:0:0:ffff::", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"]
    assert [allowed(one.ask(one.request(BODY, key=key, peer=peer))) for peer in peers] == [True, True, False, True, True, True]
    assert [event.source for event in one.events()] == ["2001:db8:0:0:ffff::"]
    one.close()


def test_a_callers_words_are_kept_as_far_as_they_are_shown(house: Any) -> None:
    words = {"traceparent": "0" * 40_000}
    for _ in range(3):
        house.ask(house.request(BODY, key=house.key("acme"), target="/v1/" + "x" * 40_000, headers=words, request_id="r" * 40_000))
    assert max(len(outcome.memo) for outcome in house.counters.pending(10)) < 2000
    assert all(len(event.path or "") == 512 for event in house.events())
