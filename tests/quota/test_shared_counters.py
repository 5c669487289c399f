"""What several limits say about one counter, one name or one call: nothing is hidden, and advice holds for all of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from slm_authz.identity.principal import Principal
from slm_authz.policy.table import Permit, Table
from slm_authz.quota import rules
from slm_authz.quota.account import QuotaTable
from slm_authz.quota.bound import Bound
from slm_authz.quota.counters import Admission, Grant, Refusal, View
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending, Signer, Take
from slm_authz.quota.settlement import charge
from slm_authz.quota.shown import deny, rate_limit_headers
from slm_authz.quota.usage import UsageQuery, UsageRow, rows
from slm_authz.quota.window import Calendar
from slm_authz.settings.schema import Settings
from slm_authz.store.memory import MemoryCounters

NOON = 1_700_049_600_000
Limits = list[dict[str, Any]]


def settings_of(tiers: dict[str, Limits], models: dict[str, Any] | None = None) -> Settings:
    return Settings.model_validate(
        {
            "version": 1,
            "identity": [{"api_key": {}}],
            "models": models or {"m": {}},
            "tiers": {name: {"models": ["*"], "limits": limits} for name, limits in tiers.items()},
        }
    )


def shown(settings: Settings, callers: list[Principal], query: UsageQuery | None = None, **states: rules.State) -> list[UsageRow]:
    found = {key.replace("/", "\t"): state for key, state in states.items()}
    return list(
        rows(QuotaTable(settings), callers, list, lambda keys: [found.get(key) for key in keys], Calendar(), query or UsageQuery(), NOON)
    )


def names(found: list[UsageRow]) -> set[str]:
    return {row.name for row in found}


ACME = Principal("api_key", "acme", "free", key_id="k")


@pytest.mark.parametrize(
    ("settings", "callers", "expected"),
    [
        (
            settings_of({"free": [{"requests": 100, "per": "day", "models": ["m"]}]}, {"m": {"limits": [{"requests": 5, "per": "day", "by": "client"}]}}),
            [ACME],
            {"free.requests.day.client.m", "m.requests.day.client"},
        ),
        (
            settings_of({"free": [{"requests": 5, "per": "day"}], "pro": [{"requests": 500, "per": "day"}]}),
            [ACME, Principal("api_key", "acme", "pro", key_id="k2")],
            {"free.requests.day.client", "pro.requests.day.client"},
        ),
        (
            settings_of({"free": [{"requests": 5, "per": "day", "by": "tenant"}], "pro": [{"requests": 9, "per": "day", "by": "tenant"}]}),
            [Principal("api_key", "a", "free", tenant="t"), Principal("api_key", "b", "pro", tenant="t")],
            {"free.requests.day.tenant", "pro.requests.day.tenant"},
        ),
    ],
)  # fmt: skip
def test_every_limit_of_a_shared_counter_has_its_row(settings: Settings, callers: list[Principal], expected: set[str]) -> None:
    assert names(shown(settings, callers)) == expected


def test_a_model_is_meant_by_its_aliases_and_globs() -> None:
    limits = [{"requests": 5, "per": "day", "models": ["gpt-*"]}, {"requests": 5, "per": "hour", "models": ["nick"]}]
    settings = settings_of({"free": limits}, {"gpt-4": {"aliases": ["nick"]}, "other": {}})
    for model in ("gpt-4", "nick"):
        assert len(shown(settings, [ACME], UsageQuery(model=model))) == 2
    assert shown(settings, [ACME], UsageQuery(model="other")) == []


def test_a_caller_has_no_rows_of_models_that_its_tier_does_not_admit() -> None:
    models = {"m": {}, "n": {"limits": [{"requests": 5, "per": "day", "by": "client"}]}}
    document = {
        "version": 1,
        "identity": [{"api_key": {}}],
        "models": models,
        "tiers": {"free": {"models": ["m"]}, "pro": {"models": ["*"]}},
    }
    narrow = Settings.model_validate(document)
    assert shown(narrow, [ACME]) == []
    assert names(shown(narrow, [Principal("api_key", "acme", "pro")])) == {"n.requests.day.client"}


def test_a_reset_is_never_told_too_early() -> None:
    settings = settings_of({"free": [{"requests": 1, "per": "day", "algorithm": "gcra", "burst": 1}]})
    states: dict[str, Any] = {"requests/gcra/day/client//acme/acme": [NOON, 999, 1]}
    (row,) = shown(settings, [ACME], **states)
    assert row.reset_at == "2023-11-15T12:00:01Z"


def test_names_with_slashes_are_told_apart_in_holds_and_rows() -> None:
    settings = settings_of({"free": [{"requests": 5, "per": "day"}]})
    table, policy = QuotaTable(settings), Table.build(settings)
    permit = Permit(policy.tiers["free"], policy.models["m"])
    callers = [Principal("api_key", "b/c", "free", tenant="a"), Principal("api_key", "c", "free", tenant="a/b")]
    assert len({table.account(caller, permit, "").own[0].quoted for caller in callers}) == 2
    assert [row.subject for row in shown(settings, callers)] == ["a/b%2Fc", "a%2Fb/c"]


def test_a_hold_with_a_surrogate_in_it_is_not_ours() -> None:
    signer = Signer(b"k" * 32)
    pending = Pending("d", 0, 0, (Take("x", 0, 0, 0, 1),), "m", "", False, False, True, 0, 0, 0, 0, 0)
    hold = signer.sign(pending, ["requests/fixed/day/client/gpt-?/a"])
    assert signer.verify(hold) == "d"
    assert signer.verify(hold.replace("?", "\udc80")) is None


@pytest.mark.parametrize("output", [None, 0, 5, -1])
def test_embeddings_report_no_output_so_none_is_looked_at(output: int | None) -> None:
    pending = Pending("d", 0, 0, (), "m", "openai.embeddings", False, False, True, 100, 0, 0, 0, 0)
    found = charge(
        pending, Evidence("h", status=200, details="via_upstream", reached=True, complete=True, input_tokens=40, output_tokens=output)
    )
    assert (found.source, found.input_tokens, found.output_tokens) == ("upstream", 40, 0)


def test_structured_integers_have_at_most_fifteen_digits() -> None:
    limit = QuotaTable(settings_of({"free": [{"tokens": 10**15, "per": "day"}]})).tier_limits["free"][0]
    headers = dict(rate_limit_headers(None, View(limit, 10**15, 1)))
    digits = [number for name in ("ratelimit", "ratelimit-policy") for number in re.findall(r"=(\d+)", headers[name])]
    assert digits
    assert max(map(len, digits)) == 15


def refused(limits: Limits, tokens: int) -> tuple[Any, Refusal]:
    settings = settings_of({"free": limits})
    table, policy = QuotaTable(settings), Table.build(settings)
    account = table.account(ACME, Permit(policy.tiers["free"], policy.models["m"]), "")
    counters = MemoryCounters(Signer(b"k"), Calendar(), 900_000)

    def ask(amount: int) -> Any:
        pending = Pending(str(amount), 0, 0, (), "m", "", False, False, True, 0, 0, 0, 0, 0)
        return counters.admit([Admission(pending, account, (1, amount, 0, 1))], NOON)[0]

    found = ask(tokens)
    assert isinstance(found, Refusal)
    return ask, found


def test_the_cap_that_is_advised_fits_under_all_limits() -> None:
    ask, refusal = refused([{"tokens": 100, "per": "day"}, {"tokens": 50, "per": "minute"}], 200)
    denial = deny(refusal, Bound(200, 1, 0, 200, None), None, "USD", lambda: 0)
    assert denial.limit == "free.tokens.day.client"
    advised = re.search(r"max_tokens to (\d+)", denial.message)
    assert advised is not None
    assert int(advised[1]) == 50
    assert isinstance(ask(50), Grant)


def test_where_no_cap_helps_the_prompt_is_to_be_shortened() -> None:
    _, refusal = refused([{"tokens": 10, "per": "day"}], 100)
    assert deny(refusal, Bound(0, 1, 100, 0, None), None, "USD", lambda: 0).message.endswith("Shorten the prompt.")


def test_held_requests_come_back_to_nobody_so_the_wait_is_the_windows() -> None:
    settings = settings_of({"free": [{"requests": 1, "per": "minute"}]})
    table, policy = QuotaTable(settings), Table.build(settings)
    account = table.account(ACME, Permit(policy.tiers["free"], policy.models["m"]), "")
    counters = MemoryCounters(Signer(b"k"), Calendar(), 900_000)
    answers = [
        counters.admit(
            [Admission(Pending(str(n), 0, 0, (), "m", "", False, False, True, 0, 0, 0, 0, 0), account, (1, 0, 0, 1))], NOON + 2000
        )[0]
        for n in range(2)
    ]
    assert isinstance(answers[1], Refusal)
    assert (answers[1].wait_ms, answers[1].settles) == (58_000, False)
