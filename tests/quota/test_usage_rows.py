"""How all limits stand: the rows of `usage` for callers, models and whoever else the counters know; figures, filters and times."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.compose import caller_of
from slm_authz.identity.principal import Principal
from slm_authz.policy.table import Permit, Table
from slm_authz.quota import rules
from slm_authz.quota.account import QuotaTable
from slm_authz.quota.counters import Admission, Grant
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending, Signer
from slm_authz.quota.usage import UsageQuery, UsageRow, rows
from slm_authz.quota.window import Calendar
from slm_authz.settings.schema import Settings
from slm_authz.store.memory import MemoryCounters

NOON = 1_700_049_600_000
"""2023-11-15T12:00:00Z, a Wednesday."""
MIDNIGHT = NOON - 43_200_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
PERIODS = ["second", "minute", "hour", "day", "week", "month"]

Limits = list[dict[str, Any]]


def settings_of(tiers: dict[str, Limits], models: dict[str, Limits] | None = None, **more: Any) -> Settings:
    document: dict[str, Any] = {
        "version": 1,
        "identity": [{"api_key": {}}],
        "models": {
            name: {"price": {"input": "1", "output": "2", "per": 1}, "limits": limits} for name, limits in (models or {"m": []}).items()
        },
        "tiers": {name: {"models": ["*"], "limits": limits} for name, limits in tiers.items()},
    }
    return Settings.model_validate(document | more)


def caller(client: str = "acme", tier: str = "free", *, tenant: str | None = None, key: str | None = None) -> Principal:
    return Principal("api_key", client, tier, tenant=tenant, key_id=key or f"k-{client}")


class Ledger:
    """Counters as plain values, and the rows that they make."""

    def __init__(self, tiers: dict[str, Limits], models: dict[str, Limits] | None = None) -> None:
        self.table = QuotaTable(settings_of(tiers, models))
        self.states: dict[str, rules.State] = {}

    def rows(
        self, *callers: Principal, query: UsageQuery | None = None, now: int = NOON, calendar: Calendar | None = None
    ) -> list[UsageRow]:
        def read(keys: Sequence[str]) -> list[rules.State | None]:
            return [self.states.get(key) for key in keys]

        found = rows(self.table, callers, lambda: list(self.states), read, calendar or Calendar(), query or UsageQuery(), now)
        return list(found)

    def only(self, principal: Principal, **more: Any) -> UsageRow:
        (row,) = self.rows(principal, **more)
        return row


def of(limit: dict[str, Any], state: rules.State | None = None, *, subject: str = "acme\tacme") -> Ledger:
    """One limit of tier `free`, and how its counter stands."""
    ledger = Ledger({"free": [limit]})
    if state is not None:
        ((compiled,),) = ledger.table.tier_limits.values()
        ledger.states[f"{compiled.stem}\t{subject}"] = state
    return ledger


def figures(row: UsageRow) -> tuple[Any, ...]:
    return row.limit, row.used, row.held, row.left


# -- figures


@pytest.mark.parametrize(
    ("limit", "state", "shown"),
    [
        ({"requests": 10, "per": "day"}, None, (10, 0, 0, 10)),
        ({"requests": 10, "per": "day"}, [MIDNIGHT, 3, 2], (10, 3, 2, 5)),
        ({"requests": 10, "per": "day"}, [MIDNIGHT, 10, 0], (10, 10, 0, 0)),
        ({"requests": 10, "per": "day"}, [MIDNIGHT, 0, 10], (10, 0, 10, 0)),
        ({"tokens": 100, "per": "minute"}, [NOON, 60, 40], (100, 60, 40, 0)),
        # above the limit: usage above its hold, or a limit that was lowered
        ({"tokens": 100, "per": "day"}, [MIDNIGHT, 555, 0], (100, 555, 0, 0)),
        ({"tokens": 100, "per": "day"}, [MIDNIGHT, 90, 90], (100, 90, 90, 0)),
        # a window that is over says nothing
        ({"tokens": 100, "per": "day"}, [MIDNIGHT - DAY, 60, 40], (100, 0, 0, 100)),
        ({"tokens": 100, "per": "second"}, [NOON - SECOND, 60, 40], (100, 0, 0, 100)),
        ({"tokens": 100, "per": "month"}, [1_698_796_800_000, 60, 40], (100, 60, 40, 0)),
        ({"tokens": 100, "per": "month"}, [1_698_796_800_000 - 30 * DAY, 60, 40], (100, 0, 0, 100)),
        # concurrency only holds
        ({"concurrent": 4}, None, (4, 0, 0, 4)),
        ({"concurrent": 4}, [0, 0, 3], (4, 0, 3, 1)),
        ({"concurrent": 4}, [0, 0, 9], (4, 0, 9, 0)),
        # money
        ({"cost": "1.50", "per": "day"}, None, ("1.5", "0", "0", "1.5")),
        ({"cost": "1.50", "per": "day"}, [MIDNIGHT, 250_000_000, 50_000_000], ("1.5", "0.25", "0.05", "1.2")),
        ({"cost": "1", "per": "day"}, [MIDNIGHT, 1, 0], ("1", "0.000000001", "0", "0.999999999")),
        ({"cost": "1", "per": "day"}, [MIDNIGHT, 3_000_000_000, 0], ("1", "3", "0", "0")),
        ({"cost": "9007199", "per": "day"}, [MIDNIGHT, 10**15, 0], ("9007199", "1000000", "0", "8007199")),
    ],
)
def test_used_is_without_what_is_held_and_left_is_never_negative(
    limit: dict[str, Any], state: rules.State | None, shown: tuple[Any, ...]
) -> None:
    row = of(limit, state).only(caller())
    assert figures(row) == shown
    assert (row.kind, row.per) == (next(iter(limit)), limit.get("per"))


GCRA_DAY = {"requests": 240, "per": "day", "algorithm": "gcra", "burst": 20}  # one in six minutes


@pytest.mark.parametrize(
    ("state", "shown", "reset_at"),
    [
        (None, (20, 0, 0, 20), "2023-11-15T12:00:00Z"),
        ([NOON, 0, 240], (20, 0, 0, 20), "2023-11-15T12:00:00Z"),
        ([NOON, 240_000, 240], (20, 1, 0, 19), "2023-11-15T12:00:01Z"),  # a sliver of one counts as one
        ([NOON, DAY, 240], (20, 1, 0, 19), "2023-11-15T12:06:00Z"),
        ([NOON, DAY + 240_000, 240], (20, 2, 0, 18), "2023-11-15T12:06:01Z"),
        ([NOON, 20 * DAY, 240], (20, 20, 0, 0), "2023-11-15T14:00:00Z"),
        ([NOON, 30 * DAY, 240], (20, 30, 0, 0), "2023-11-15T15:00:00Z"),
        # what has drained since it was last looked at
        ([NOON - 6 * MINUTE, DAY, 240], (20, 0, 0, 20), "2023-11-15T12:00:00Z"),
        ([NOON - 3 * MINUTE, DAY, 240], (20, 1, 0, 19), "2023-11-15T12:03:00Z"),
        ([NOON - 6 * MINUTE, 3 * DAY, 240], (20, 2, 0, 18), "2023-11-15T12:12:00Z"),
        ([NOON - 30 * DAY, 20 * DAY, 240], (20, 0, 0, 20), "2023-11-15T12:00:00Z"),
    ],
)
def test_gcra_is_shown_as_its_burst_its_debt_and_nothing_held(state: rules.State | None, shown: tuple[int, ...], reset_at: str) -> None:
    row = of(GCRA_DAY, state).only(caller())
    assert figures(row) == shown
    assert row.reset_at == reset_at
    assert row.name == "free.requests.day.client.gcra"


@given(
    rate=st.integers(1, 10_000),
    burst=st.integers(1, 1_000),
    per=st.sampled_from(PERIODS[:5]),
    debt=st.integers(0, 10**12),
    elapsed=st.integers(0, 10 * DAY),
)
def test_gcra_figures_are_the_specifications(rate: int, burst: int, per: str, debt: int, elapsed: int) -> None:
    ledger = of({"tokens": rate, "per": per, "algorithm": "gcra", "burst": burst}, [NOON - elapsed, debt, rate])
    ((limit,),) = ledger.table.tier_limits.values()
    row = ledger.only(caller())
    owed = 0 if elapsed >= -(-debt // rate) else debt - elapsed * rate
    used = -(-owed // limit.period_ms)
    assert figures(row) == (burst, used, 0, max(0, burst - used))
    assert row.reset_at is not None
    reset = datetime.fromisoformat(row.reset_at).timestamp() * 1000
    assert abs(NOON - (-owed // rate) - reset) < SECOND


@given(size=st.integers(1, 2**53 - 1), used=st.integers(0, 2**53 - 1), held=st.integers(0, 2**53 - 1), money=st.booleans())
def test_figures_add_up_exactly(size: int, used: int, held: int, money: bool) -> None:
    kind: dict[str, Any] = {"tokens": size}
    if money:
        kind = {"cost": f"{size // 10**9}.{size % 10**9:09d}"}
    row = of(kind | {"per": "day"}, [MIDNIGHT, used, held]).only(caller())
    expected = (size, used, held, max(0, size - used - held))
    if not money:
        assert figures(row) == expected
        return
    for shown, nanos in zip(figures(row), expected, strict=True):
        assert isinstance(shown, str)
        assert re.fullmatch(r"\d+(\.\d*[1-9])?", shown)
        assert Decimal(shown) * 10**9 == nanos


# -- times


@pytest.mark.parametrize(
    ("per", "now", "zone", "reset_at"),
    [
        ("second", NOON + 999, "UTC", "2023-11-15T12:00:01Z"),
        ("minute", NOON, "UTC", "2023-11-15T12:01:00Z"),
        ("minute", NOON + MINUTE - 1, "UTC", "2023-11-15T12:01:00Z"),
        ("hour", NOON, "UTC", "2023-11-15T13:00:00Z"),
        ("day", NOON, "UTC", "2023-11-16T00:00:00Z"),
        ("week", NOON, "UTC", "2023-11-20T00:00:00Z"),
        ("month", NOON, "UTC", "2023-12-01T00:00:00Z"),
        ("day", NOON, "Europe/Berlin", "2023-11-15T23:00:00Z"),
        ("week", NOON, "America/New_York", "2023-11-20T05:00:00Z"),
        ("month", NOON, "Asia/Kathmandu", "2023-11-30T18:15:00Z"),
        ("hour", NOON, "Asia/Kathmandu", "2023-11-15T13:00:00Z"),
    ],
)
def test_a_window_resets_at_its_end_in_utc(per: str, now: int, zone: str, reset_at: str) -> None:
    row = of({"requests": 5, "per": per}).only(caller(), now=now, calendar=Calendar(zone))
    assert row.reset_at == reset_at


@pytest.mark.parametrize("state", [None, [0, 0, 2]])
def test_concurrency_has_neither_a_period_nor_a_reset(state: rules.State | None) -> None:
    row = of({"concurrent": 4}, state).only(caller())
    assert (row.per, row.reset_at) == (None, None)


@given(per=st.sampled_from(PERIODS), now=st.integers(1_000_000_000_000, 2_000_000_000_000), gcra=st.booleans())
def test_times_are_rfc_3339_in_utc_and_ahead(per: str, now: int, gcra: bool) -> None:
    limit = {"requests": 5, "per": per} | ({"algorithm": "gcra", "burst": 2} if gcra and per != "month" else {})
    row = of(limit).only(caller(), now=now)
    assert row.reset_at is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row.reset_at)
    reset = datetime.fromisoformat(row.reset_at)
    assert reset.tzinfo == UTC
    assert reset.timestamp() * 1000 > now - SECOND


# -- who has rows

TIERS: dict[str, Limits] = {
    "free": [
        {"requests": 5, "per": "minute"},
        {"tokens": 100, "per": "day", "by": "key"},
        {"cost": "3", "per": "month", "by": "tenant"},
        {"concurrent": 2, "models": ["m"]},
        {"requests": 9, "per": "hour", "by": "address"},
    ],
    "pro": [{"requests": 500, "per": "minute", "name": "plenty"}],
}
MODELS: dict[str, Limits] = {
    "m": [{"concurrent": 4}, {"requests": 50, "per": "day", "by": "client"}],
    "n": [{"tokens": 1000, "per": "minute"}],
}

Brief = tuple[str, str, str, str | None]


def brief(row: UsageRow) -> Brief:
    return row.name, row.by, row.subject, row.model


OF_ACME: list[Brief] = [
    ("free.requests.minute.client", "client", "acme", None),
    ("free.tokens.day.key", "key", "k-acme", None),
    ("free.cost.month.tenant", "tenant", "acme", None),
    ("free.concurrent.client.m", "client", "acme", "m"),
    ("m.requests.day.client", "client", "acme", "m"),
]
OF_MODELS: list[Brief] = [("m.concurrent.model", "model", "m", "m"), ("n.tokens.minute.model", "model", "n", "n")]


def test_a_caller_has_a_row_for_every_limit_used_or_not() -> None:
    found = Ledger(TIERS, MODELS).rows(caller())
    assert [brief(row) for row in found] == OF_ACME + OF_MODELS
    assert {row.used for row in found} == {0, "0"}
    assert [row.left for row in found] == [row.limit for row in found]


def test_without_callers_the_models_have_their_rows() -> None:
    assert [brief(row) for row in Ledger(TIERS, MODELS).rows()] == OF_MODELS


def test_each_caller_has_the_rows_of_its_own_tier() -> None:
    found = Ledger(TIERS).rows(caller("one"), caller("two", "pro"))
    assert [(row.name, row.subject, row.limit) for row in found if row.kind == "requests"] == [
        ("free.requests.minute.client", "one", 5),
        ("plenty", "two", 500),
    ]


def test_a_caller_of_a_tier_that_is_gone_has_no_rows_of_another() -> None:
    found = Ledger(TIERS, MODELS).rows(caller(tier="gone"))
    assert not {row.name for row in found} & {name for name, *_ in OF_ACME if name.startswith("free.")}
    assert "plenty" not in {row.name for row in found}


def test_two_keys_of_a_client_share_its_rows() -> None:
    found = Ledger({"free": TIERS["free"]}).rows(caller(key="k1"), caller(key="k2"), caller(key="k1"))
    assert [row.subject for row in found] == ["acme", "k1", "acme", "acme", "k2"]


def test_clients_of_a_tenant_share_its_rows_and_have_their_own() -> None:
    found = Ledger({"free": TIERS["free"]}).rows(caller("one", tenant="team"), caller("two", tenant="team"), caller("one"))
    assert [row.subject for row in found if row.by == "tenant"] == ["team", "one"]
    assert [row.subject for row in found if row.name == "free.requests.minute.client"] == ["team/one", "team/two", "one"]


def test_the_key_of_a_caller_without_one_is_the_client() -> None:
    principal = Principal("plugin", "acme", "free", tenant="team")
    assert [row.subject for row in Ledger({"free": [{"tokens": 9, "per": "day", "by": "key"}]}).rows(principal)] == ["team/acme"]


def test_anonymous_callers_are_one_caller() -> None:
    anonymous = caller_of(settings_of({"free": []}, identity=[{"anonymous": {"tier": "free"}}]))
    assert anonymous is not None
    limits: Limits = [{"requests": 5, "per": "minute"}, {"tokens": 9, "per": "day", "by": "key"}, {"concurrent": 1, "by": "tenant"}]
    ledger = Ledger({"free": limits})
    ledger.states = {f"{ledger.table.tier_limits['free'][0].stem}\tanonymous\tanonymous": [NOON, 2, 1]}
    assert [(row.by, row.subject, row.used, row.held) for row in ledger.rows(anonymous)] == [
        ("client", "anonymous", 2, 1),
        ("key", "anonymous", 0, 0),
        ("tenant", "anonymous", 0, 0),
    ]


def test_limits_of_models_show_all_callers_together() -> None:
    ledger = Ledger({"free": []}, MODELS)
    for limit, state in zip(
        [*ledger.table.model_limits["m"][:1], *ledger.table.model_limits["n"]], ([0, 0, 3], [NOON, 400, 100]), strict=True
    ):
        ledger.states[f"{limit.stem}\t{limit.models[0] if limit.models else ''}"] = state
    found = ledger.rows()
    assert [brief(row) for row in found] == OF_MODELS
    assert [figures(row) for row in found] == [(4, 0, 3, 1), (1000, 400, 100, 500)]


def test_what_only_the_counters_know_follows() -> None:
    ledger = Ledger(TIERS, MODELS)
    by_address, by_client = ledger.table.tier_limits["free"][4], ledger.table.tier_limits["free"][0]
    ledger.states = {
        f"{by_address.stem}\t192.0.2.1": [NOON, 4, 1],
        f"{by_address.stem}\t2001:db8::1": [NOON - HOUR, 4, 1],
        f"{by_client.stem}\tteam\tstranger": [NOON, 1, 0],
        f"{by_client.stem}\tacme\tacme": [NOON, 2, 0],
        "requests\tfixed\tday\tclient\t\told\told": [NOON, 2, 0],  # of a limit that is no longer configured
        "": [0, 0, 0],
    }
    found = ledger.rows(caller())
    assert [brief(row) for row in found[:7]] == OF_ACME + OF_MODELS
    assert [(row.name, row.subject, *figures(row)) for row in found[7:]] == [
        ("free.requests.hour.address", "192.0.2.1", 9, 4, 1, 4),
        ("free.requests.hour.address", "2001:db8::1", 9, 0, 0, 9),
        ("free.requests.minute.client", "team/stranger", 5, 1, 0, 4),
    ]
    assert found[0].used == 2


def test_a_counter_that_is_swept_meanwhile_is_unused() -> None:
    ledger = Ledger(TIERS)
    stem = ledger.table.tier_limits["free"][4].stem
    found = list(rows(ledger.table, [], lambda: [f"{stem}\t192.0.2.1"], lambda keys: [None for _ in keys], Calendar(), UsageQuery(), NOON))
    assert [(row.subject, *figures(row)) for row in found] == [("192.0.2.1", 9, 0, 0, 9)]


# -- filters


@pytest.mark.parametrize("query", [UsageQuery(client="acme"), UsageQuery(tenant="team"), UsageQuery(key="k-acme")])
def test_who_asks_for_callers_gets_only_theirs(query: UsageQuery) -> None:
    """Which callers they are is the caller's choice; models, addresses and strangers are not among them."""
    ledger = Ledger(TIERS, MODELS)
    ledger.states = {
        f"{ledger.table.tier_limits['free'][4].stem}\t192.0.2.1": [NOON, 4, 1],
        f"{ledger.table.tier_limits['free'][0].stem}\tx\tx": [NOON, 4, 1],
    }
    assert [brief(row) for row in ledger.rows(caller(), query=query)] == OF_ACME
    assert ledger.rows(query=query) == []
    assert len(ledger.rows(caller())) == len(OF_ACME) + len(OF_MODELS) + 2


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("m", ["requests minute", "concurrent", "requests day m+n", "requests day of m", "concurrent of m"]),
        ("n", ["requests minute", "requests day m+n", "tokens minute of n"]),
        ("unheard-of", ["requests minute"]),
        (None, ["requests minute", "concurrent", "requests day m+n", "requests day of m", "concurrent of m", "tokens minute of n"]),
    ],
)
def test_a_model_has_the_limits_that_count_it(model: str | None, kinds: list[str]) -> None:
    limits: Limits = [
        {"requests": 5, "per": "minute"},
        {"concurrent": 2, "models": ["m"]},
        {"requests": 7, "per": "day", "models": ["n", "m"]},
    ]
    names = {
        "free.requests.minute.client": "requests minute",
        "free.concurrent.client.m": "concurrent",
        "free.requests.day.client.m+n": "requests day m+n",
        "m.requests.day.client": "requests day of m",
        "m.concurrent.model": "concurrent of m",
        "n.tokens.minute.model": "tokens minute of n",
    }
    found = Ledger({"free": limits}, MODELS).rows(caller(), query=UsageQuery(model=model))
    assert [names[row.name] for row in found] == kinds


def test_a_model_and_a_client_together() -> None:
    found = Ledger(TIERS, MODELS).rows(caller(), query=UsageQuery(client="acme", model="n"))
    assert [row.name for row in found] == ["free.requests.minute.client", "free.tokens.day.key", "free.cost.month.tenant"]


@pytest.mark.parametrize(("models", "shown"), [(None, None), (["m"], "m"), (["m", "n"], None)])
def test_a_row_names_the_model_that_it_counts_where_it_is_one(models: list[str] | None, shown: str | None) -> None:
    limit: dict[str, Any] = {"requests": 5, "per": "minute"} | ({"models": models} if models else {})
    assert Ledger({"free": [limit]}, {"m": [], "n": []}).only(caller()).model == shown


# -- against the counters themselves


@given(calls=st.lists(st.tuples(st.sampled_from(["one", "two"]), st.integers(1, 60), st.none() | st.integers(0, 60)), max_size=12))
def test_rows_are_what_the_calls_sum_up_to(calls: list[tuple[str, int, int | None]]) -> None:
    limits: Limits = [
        {"requests": 8, "per": "day"},
        {"tokens": 300, "per": "day"},
        {"cost": "900", "per": "month", "by": "tenant"},
        {"concurrent": 3},
    ]
    settings = settings_of({"free": limits}, {"m": [{"concurrent": 5}]})
    table, policy, signer = QuotaTable(settings), Table.build(settings), Signer(b"k" * 32)
    permit = Permit(policy.tiers["free"], policy.models["m"])
    counters = MemoryCounters(signer, Calendar(), 900_000)
    people = {name: caller(name, tenant="team") for name in ("one", "two")}
    admitted: list[tuple[str, int, int | None]] = []
    for serial, (name, tokens, actual) in enumerate(calls):
        pending = Pending(f"{serial:032x}", 0, 0, (), "m", "openai.chat", False, True, True, 0, tokens, 10**9, 2 * 10**9, 1)
        amounts = (1, tokens, pending.cost(0, tokens) or 0, 1)
        (result,) = counters.admit([Admission(pending, table.account(people[name], permit, ""), amounts)], NOON)
        if not isinstance(result, Grant):
            continue
        admitted.append((name, tokens, actual))
        if actual is not None:
            entry = Evidence(signer.sign(pending, result.quoted), "end", 200, "via_upstream", False, (), True, True, 0, 0, actual, 1)
            counters.settle([entry], NOON)
    found = {
        (row.name, row.subject): (row.used, row.held)
        for row in rows(table, people.values(), counters.keys, counters.states, Calendar(), UsageQuery(), NOON)
    }
    assert len(found) == 8
    for name in people:
        mine = [(tokens, actual) for who, tokens, actual in admitted if who == name]
        done = [actual for _, actual in mine if actual is not None]
        open_ = [tokens for tokens, actual in mine if actual is None]
        assert found["free.requests.day.client", f"team/{name}"] == (len(done), len(open_))
        assert found["free.tokens.day.client", f"team/{name}"] == (sum(done), sum(open_))
        assert found["free.concurrent.client", f"team/{name}"] == (0, len(open_))
    spent = sum(2 * actual for _, _, actual in admitted if actual is not None)
    held = sum(2 * tokens for _, tokens, actual in admitted if actual is None)
    assert found["free.cost.month.tenant", "team"] == (str(spent), str(held))
    assert found["m.concurrent.model", "m"] == (0, sum(actual is None for _, _, actual in admitted))
