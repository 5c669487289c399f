"""Which counters a call draws on: the identity of a counter, its subject, what narrows it, and what several limits share."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slm_authz.identity.principal import Principal
from slm_authz.policy.table import Permit, Table
from slm_authz.quota.account import NOTHING, Account, QuotaTable, subject_of
from slm_authz.quota.counters import Admission, Grant, Refusal
from slm_authz.quota.hold import Pending, Signer
from slm_authz.quota.limit import CONCURRENT, COST, FIXED, GCRA, REQUESTS, SLOTS, TOKENS, compile_limit
from slm_authz.quota.window import Calendar
from slm_authz.settings.schema import LimitSpec, Settings
from slm_authz.store.memory import MemoryCounters

Limits = list[dict[str, Any]]
PRICE = {"input": "1", "output": "2"}


class House:
    """The limits of some tiers and models, and who comes for them."""

    def __init__(
        self, *, tiers: dict[str, Limits] | None = None, models: dict[str, Limits] | None = None, aliases: Any = None, **more: Any
    ) -> None:
        document: dict[str, Any] = {
            "version": 1,
            "identity": [{"api_key": {}}],
            "models": {
                name: {"price": PRICE, "limits": limits, "aliases": (aliases or {}).get(name, [])}
                for name, limits in (models or {"m": []}).items()
            },
            "tiers": {name: {"models": ["*"], "limits": limits} for name, limits in (tiers or {"free": []}).items()},
        }
        settings = Settings.model_validate(document | more)
        self.policy = Table.build(settings)
        self.quota = QuotaTable(settings)

    def permit(self, tier: str = "free", model: str | None = "m") -> Permit:
        return Permit(self.policy.tiers[tier], self.policy.models[model] if model is not None else None)

    def account(self, principal: Principal | None = None, *, model: str | None = "m", address: str = "192.0.2.1") -> Account:
        principal = principal or caller()
        return self.quota.account(principal, self.permit(principal.tier, model), address)

    def keys(self, principal: Principal | None = None, **more: Any) -> list[str]:
        account = self.account(principal, **more)
        return [line.key for line in account.own + account.shared]

    def names(self, principal: Principal | None = None, **more: Any) -> list[str]:
        account = self.account(principal, **more)
        return [line.limit.name for line in account.own + account.shared]


def caller(client: str = "acme", tenant: str | None = None, key: str | None = "k1", tier: str = "free") -> Principal:
    return Principal("api_key", client, tier, tenant=tenant, key_id=key)


def of_tier(*limits: dict[str, Any]) -> House:
    return House(tiers={"free": list(limits)})


# -- the identity of a counter


# Each is one counter of its own; what stands beside it in a list is the same one.
SAME: list[Limits] = [
    [
        {"tokens": 100, "per": "day"},
        {"tokens": 5, "per": "day"},
        {"tokens": 100, "per": "day", "by": "client"},
        {"tokens": 100, "per": "day", "name": "mine"},
        {"tokens": 100, "per": "day", "on_outage": "allow"},
        {"tokens": 100, "per": "day", "algorithm": "fixed"},
    ],
    [
        {"tokens": 100, "per": "day", "algorithm": "gcra"},
        {"tokens": 7, "per": "day", "algorithm": "gcra"},
        {"tokens": 100, "per": "day", "algorithm": "gcra", "burst": 3},
        {"tokens": 100, "per": "day", "algorithm": "gcra", "name": "even"},
    ],
    [{"requests": 100, "per": "day"}],
    [{"cost": "100", "per": "day"}, {"cost": "0.01", "per": "day"}],
    [{"concurrent": 100}, {"concurrent": 1}],
    [{"tokens": 100, "per": "week"}],
    [{"tokens": 100, "per": "month"}],
    [{"tokens": 100, "per": "day", "by": "key"}],
    [{"tokens": 100, "per": "day", "by": "tenant"}],
    [{"tokens": 100, "per": "day", "by": "address"}],
    [{"tokens": 100, "per": "day", "models": ["m"]}],
    [{"tokens": 100, "per": "day", "models": ["m", "n"]}, {"tokens": 9, "per": "day", "models": ["n", "m"]}],
    [{"tokens": 100, "per": "day", "models": ["*"]}],
]


@pytest.mark.parametrize("same", SAME, ids=lambda limits: "-".join(str(value) for value in limits[0].values()))
def test_size_burst_name_and_outage_are_no_part_of_a_counters_identity(same: Limits) -> None:
    keys = [of_tier(limit).keys() for limit in same]
    assert all(len(one) == 1 for one in keys)
    assert len({one[0] for one in keys}) == 1


def test_kind_algorithm_period_subject_kind_and_models_are() -> None:
    # A tenant, a client, a key and an address that are all called alike: it is the kind that tells them apart.
    principal = caller("x", "x", "x")
    keys = [of_tier(same[0]).keys(principal, address="x") for same in SAME]
    assert len({one for (one,) in keys}) == len(SAME)


def test_a_tier_is_no_part_of_it_either() -> None:
    limits: Limits = [{"requests": 10, "per": "minute"}, {"tokens": 100, "per": "day"}, {"concurrent": 2}]
    larger: Limits = [{"concurrent": 20}, {"tokens": 10_000, "per": "day", "name": "plenty"}, {"requests": 10, "per": "hour"}]
    house = House(tiers={"free": limits, "pro": larger})
    free, pro = (dict(zip(house.names(who), house.keys(who), strict=True)) for who in (caller(), caller(tier="pro")))
    assert free["free.tokens.day.client"] == pro["plenty"]
    assert free["free.concurrent.client"] == pro["pro.concurrent.client"]
    assert free["free.requests.minute.client"] not in pro.values()


def test_a_client_that_changes_its_tier_goes_on_counting_where_it_was(noon: int) -> None:
    house = House(tiers={"free": [{"requests": 2, "per": "day"}], "pro": [{"requests": 5, "per": "day"}]})
    counters = MemoryCounters(Signer(b"k" * 32), Calendar(), 900_000)

    def asked(tier: str) -> bool:
        account = house.account(caller(tier=tier))
        pending = Pending(f"{len(counters.keys())}{tier}{counters.outstanding}", 0, 0, (), "m", "", False, False, True, 0, 0, 0, 0, 0)
        return isinstance(counters.admit([Admission(pending, account, (1, 0, 0, 0))], noon)[0], Grant)

    assert [asked(tier) for tier in ("free", "free", "free", "pro", "pro", "pro", "pro", "free")] == [
        True, True, False, True, True, True, False, False,
    ]  # fmt: skip
    assert len(counters.keys()) == 1


def test_a_new_size_is_in_force_with_the_next_admission_and_forgets_nothing(noon: int) -> None:
    counters = MemoryCounters(Signer(b"k" * 32), Calendar(), 900_000)
    principal = caller()
    results = []
    for serial, size in enumerate([3, 3, 1, 2, 4, 3]):
        account = of_tier({"requests": size, "per": "day"}).account(principal)
        pending = Pending(str(serial), 0, 0, (), "m", "", False, False, True, 0, 0, 0, 0, 0)
        (result,) = counters.admit([Admission(pending, account, (1, 0, 0, 0))], noon)
        results.append((isinstance(result, Grant), result.used + result.held if isinstance(result, Refusal) else 0))
    assert results == [(True, 0), (True, 0), (False, 2), (False, 2), (True, 0), (False, 3)]


@pytest.mark.parametrize(
    ("spec", "kind", "algorithm", "size", "burst", "shown"),
    [
        ({"requests": 5, "per": "day"}, REQUESTS, FIXED, 5, 0, 5),
        ({"tokens": 5, "per": "month"}, TOKENS, FIXED, 5, 0, 5),
        ({"cost": "0.5", "per": "day"}, COST, FIXED, 500_000_000, 0, 500_000_000),
        ({"concurrent": 5}, CONCURRENT, SLOTS, 5, 0, 5),
        ({"requests": 100, "per": "day", "algorithm": "gcra"}, REQUESTS, GCRA, 100, 10, 10),
        ({"requests": 109, "per": "day", "algorithm": "gcra"}, REQUESTS, GCRA, 109, 10, 10),
        ({"requests": 9, "per": "day", "algorithm": "gcra"}, REQUESTS, GCRA, 9, 1, 1),
        ({"requests": 1, "per": "day", "algorithm": "gcra"}, REQUESTS, GCRA, 1, 1, 1),
        ({"requests": 9, "per": "day", "algorithm": "gcra", "burst": 50}, REQUESTS, GCRA, 9, 50, 50),
    ],
)
def test_limits_as_they_are_compiled(spec: dict[str, Any], kind: int, algorithm: int, size: int, burst: int, shown: int) -> None:
    limit = compile_limit(LimitSpec.model_validate(spec), "free", 3, model=None, on_outage="deny")
    assert (limit.kind, limit.algorithm, limit.size, limit.burst, limit.shown_size) == (kind, algorithm, size, burst, shown)
    assert (limit.by, limit.order, limit.shared) == ("client", 3, False)


# -- subjects


@pytest.mark.parametrize(
    ("by", "one", "other", "same"),
    [
        ("client", caller("acme", key="k1"), caller("acme", key="k2"), True),
        ("client", caller("acme"), caller("else"), False),
        ("client", caller("acme", "t"), caller("acme", "u"), False),
        ("client", caller("acme", "t"), caller("acme"), False),
        ("client", caller("acme", "acme"), caller("acme"), True),  # no tenant: the client is its own
        ("tenant", caller("acme", "t"), caller("else", "t"), True),
        ("tenant", caller("acme", "t"), caller("acme", "u"), False),
        ("tenant", caller("acme"), caller("else", "acme"), True),
        ("tenant", caller("acme"), caller("else"), False),
        ("key", caller(key="k1"), caller(key="k2"), False),
        ("key", caller("acme", key="k1"), caller("acme", "t", key="k1"), True),
        ("key", caller("acme", key=None), caller("acme", key=None), True),  # no key id: the key is the client
        ("key", caller("acme", "t", key=None), caller("acme", "u", key=None), False),
        ("key", caller("acme", key=None), caller("else", key=None), False),
        ("key", caller("acme", key=None), caller("acme", key="acme"), False),
        ("address", caller("acme"), caller("else", "t", "k2"), True),
        # names that would collide if they were only joined
        ("client", caller("b/c", "a"), caller("c", "a/b"), False),
        ("client", caller("c", "a b"), caller("b c", "a"), False),
        ("client", caller("b,c", "a"), caller("c", "a,b"), False),
        ("client", caller("", "ab"), caller("b", "a"), False),
        ("client", caller("%09b", "a"), caller("b", "a%09"), False),
        ("key", caller("b", "a", key=None), caller("x", key="a/b"), False),
        ("key", caller("b", key=None), caller("x", key="b"), False),
    ],
)
def test_who_shares_a_counter(by: str, one: Principal, other: Principal, same: bool) -> None:
    house = of_tier({"requests": 10, "per": "day", "by": by})
    assert (house.keys(one) == house.keys(other)) is same
    assert (subject_of(by, one, "m", "::1") == subject_of(by, other, "m", "::1")) is same


def test_addresses_are_counted_apart_and_models_together() -> None:
    house = House(
        tiers={"free": [{"requests": 9, "per": "day", "by": "address"}]}, models={"m": [{"concurrent": 3}], "n": [{"concurrent": 3}]}
    )
    here, there = (house.keys(address=address) for address in ("192.0.2.1", "192.0.2.2"))
    assert here[0] != there[0]
    assert here[1] == there[1] == house.keys(caller("else", "t", "k2"))[1]
    assert house.keys(model="n")[1] != here[1]
    assert house.keys(model="n")[0] == here[0]


visible = st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
people = st.tuples(visible, st.none() | visible, st.none() | visible)


@given(one=people, other=people)
def test_clients_are_told_apart_by_tenant_and_name_and_by_nothing_else(
    one: tuple[str, str | None, str | None], other: tuple[str, str | None, str | None]
) -> None:
    house = of_tier({"requests": 10, "per": "day"}, {"tokens": 10, "per": "day", "by": "tenant"}, {"concurrent": 5, "by": "key"})
    (client, tenant, key), (client2, tenant2, key2) = one, other
    mine, theirs = house.keys(caller(*one)), house.keys(caller(*other))
    same = ((tenant or client), client) == ((tenant2 or client2), client2)
    assert (mine[0] == theirs[0]) == same
    assert (mine[1] == theirs[1]) == ((tenant or client) == (tenant2 or client2))
    assert (mine[2] == theirs[2]) == (key == key2 if key is not None or key2 is not None else same)


@given(names=st.lists(visible, min_size=2, max_size=6, unique=True))
def test_no_two_subjects_of_any_kind_are_one_counter(names: list[str]) -> None:
    specs: Limits = [{"requests": 10, "per": "day", "by": by} for by in ("key", "client", "tenant", "address")]
    house = of_tier(*specs)
    keys: set[str] = set()
    total = 0
    for name in names:
        mine = house.keys(caller(name, None, name), address=name)
        keys.update(mine)
        total += len(mine)
    assert len(keys) == total == 4 * len(names)


# -- what a limit is narrowed to

MODELS: dict[str, Limits] = {"phi-4-mini": [], "phi-4": [], "llama": [], "qwen": []}
ALIASES = {"llama": ["gpt-4o", "default"], "qwen": ["phi-alias"]}


@pytest.mark.parametrize(
    ("patterns", "counted"),
    [
        (None, {"phi-4-mini", "phi-4", "llama", "qwen"}),
        (["*"], {"phi-4-mini", "phi-4", "llama", "qwen"}),
        (["phi-4"], {"phi-4"}),
        (["phi-4*"], {"phi-4", "phi-4-mini"}),
        (["phi-?"], {"phi-4"}),
        (["phi-*"], {"phi-4", "phi-4-mini", "qwen"}),  # by an alias of qwen
        (["gpt-4o"], {"llama"}),
        (["gpt-*"], {"llama"}),
        (["default"], {"llama"}),
        (["llama", "qwen"], {"llama", "qwen"}),
        (["llama", "gpt-4o"], {"llama"}),
        (["PHI-4"], set()),
        (["phi-4-min"], set()),
        (["hi-4"], set()),
        (["????"], {"qwen"}),
    ],
)
def test_a_limit_counts_the_models_that_it_names(patterns: list[str] | None, counted: set[str]) -> None:
    limit: dict[str, Any] = {"requests": 10, "per": "day"} | ({"models": patterns} if patterns is not None else {})
    house = House(tiers={"free": [limit]}, models=MODELS, aliases=ALIASES)
    keys = {model: house.keys(model=model) for model in MODELS}
    assert {model for model, one in keys.items() if one} == counted
    # One counter, whichever of its models is asked.
    assert len({key for one in keys.values() for key in one}) == min(1, len(counted))


@pytest.mark.parametrize("spelling", ["llama", "gpt-4o", "default"])
def test_every_spelling_of_a_model_draws_on_the_same_counters(spelling: str) -> None:
    limits: Limits = [{"requests": 10, "per": "day", "models": ["gpt-*"]}, {"tokens": 10, "per": "day"}]
    house = House(tiers={"free": limits}, models=MODELS | {"llama": [{"concurrent": 2}]}, aliases=ALIASES)
    assert house.keys(model=spelling) == house.keys(model="llama")
    assert len(house.keys(model=spelling)) == 3


def test_a_models_own_limits_are_its_own() -> None:
    limits: Limits = [{"requests": 5, "per": "minute"}, {"tokens": 9, "per": "day", "by": "client"}, {"concurrent": 2, "by": "tenant"}]
    house = House(models={"m": limits, "n": limits})
    mine, others = house.keys(), house.keys(model="n")
    assert len(mine) == len(others) == 3
    assert set(mine).isdisjoint(others)
    assert set(house.names()) == {"m.requests.minute.model", "m.tokens.day.client", "m.concurrent.tenant"}


# -- the callers own slot, and those that are shared


def test_what_is_shared_by_model_and_address_is_taken_second() -> None:
    house = House(
        tiers={"free": [{"requests": 1, "per": "day", "by": by} for by in ("address", "key", "tenant", "client")]},
        models={"m": [{"concurrent": 2}, {"tokens": 5, "per": "day", "by": "client"}, {"tokens": 5, "per": "day", "by": "address"}]},
    )
    account = house.account()
    assert [line.limit.by for line in account.own] == ["key", "tenant", "client", "client"]
    assert [line.limit.by for line in account.shared] == ["address", "model", "address"]


def test_a_path_without_a_model_draws_on_nothing() -> None:
    house = House(tiers={"free": [{"requests": 1, "per": "day"}]})
    assert house.account(model=None) is NOTHING
    assert (NOTHING.own, NOTHING.shared) == ((), ())


def test_no_limits_are_no_counters() -> None:
    account = House().account()
    assert (account.own, account.shared) == ((), ())


# -- counters that several limits of a call share

TIERS_AND_MODELS = [(3, 5), (5, 3), (4, 4)]


@pytest.mark.parametrize(("of_the_tier", "of_the_model"), TIERS_AND_MODELS)
@pytest.mark.parametrize(
    ("limit", "more"),
    [
        ("requests", {"per": "day"}),
        ("tokens", {"per": "minute"}),
        ("concurrent", {}),
        ("requests", {"per": "day", "by": "tenant"}),
        ("requests", {"per": "day", "by": "key"}),
        ("requests", {"per": "day", "by": "address"}),
    ],
)
def test_a_counter_of_several_limits_is_taken_once_at_the_tightest_size(
    limit: str, more: dict[str, Any], of_the_tier: int, of_the_model: int, noon: int
) -> None:
    """A tier's limit that is narrowed to one model counts the same as that model's own limit by the same subject."""
    by = more.get("by", "client")
    house = House(
        tiers={"free": [{limit: of_the_tier, "models": ["m"], **more}]},
        models={"m": [{limit: of_the_model, **more, "by": by}]},
    )
    account = house.account()
    (line,) = account.own + account.shared
    tightest = min(of_the_tier, of_the_model)
    assert line.limit.size == tightest
    counters = MemoryCounters(Signer(b"k" * 32), Calendar(), 900_000)
    admissions = [
        Admission(Pending(str(serial), 0, 0, (), "m", "", False, False, True, 0, 0, 0, 0, 0), account, (1, 1, 0, 1)) for serial in range(6)
    ]
    results = counters.admit(admissions, noon)
    assert [isinstance(result, Grant) for result in results] == [True] * tightest + [False] * (6 - tightest)
    (state,) = counters.states([line.key])
    assert state is not None
    assert state[1:] == [0, tightest]
    refused = results[-1]
    assert isinstance(refused, Refusal)
    assert refused.line.limit.name == line.limit.name


@pytest.mark.parametrize(("of_the_tier", "of_the_model"), TIERS_AND_MODELS)
def test_gcra_that_is_shared_has_the_smaller_burst(of_the_tier: int, of_the_model: int) -> None:
    gcra = {"requests": 60, "per": "day", "algorithm": "gcra"}
    house = House(
        tiers={"free": [gcra | {"burst": of_the_tier, "models": ["m"]}]}, models={"m": [gcra | {"burst": of_the_model, "by": "client"}]}
    )
    (line,) = house.account().own
    assert line.limit.burst == min(of_the_tier, of_the_model)


@pytest.mark.parametrize("narrowing", [None, ["m", "n"], ["*"], ["m*"]])
def test_limits_that_count_other_calls_share_nothing(narrowing: list[str] | None) -> None:
    tier: dict[str, Any] = {"requests": 3, "per": "day"} | ({"models": narrowing} if narrowing is not None else {})
    house = House(tiers={"free": [tier]}, models={"m": [{"requests": 5, "per": "day", "by": "client"}], "n": []})
    assert [line.limit.size for line in house.account().own] == [3, 5]


@given(
    sizes=st.lists(st.integers(1, 50), min_size=2, max_size=2),
    kinds=st.lists(st.sampled_from(["requests", "tokens"]), min_size=2, max_size=2),
    periods=st.lists(st.sampled_from(["second", "hour", "week"]), min_size=2, max_size=2),
    subjects=st.lists(st.sampled_from(["key", "client", "tenant", "address"]), min_size=2, max_size=2),
)
def test_two_limits_are_one_counter_exactly_if_they_are_of_the_same_nature(
    sizes: list[int], kinds: list[str], periods: list[str], subjects: list[str]
) -> None:
    (tier, model) = ({kind: size, "per": per, "by": by} for kind, size, per, by in zip(kinds, sizes, periods, subjects, strict=True))
    house = House(tiers={"free": [tier | {"models": ["m"]}]}, models={"m": [model]})
    keys = house.keys()
    same = kinds[0] == kinds[1] and periods[0] == periods[1] and subjects[0] == subjects[1]
    assert len(keys) == len(set(keys)) == (1 if same else 2)
    if same:
        account = house.account()
        assert [line.limit.size for line in account.own + account.shared] == [min(sizes)]


# -- what happens while the store is down

STRICTEST_FIRST = ["deny", "local", "allow"]


@pytest.mark.parametrize("words", [one for count in (1, 2, 3) for one in product(STRICTEST_FIRST, repeat=count)], ids="-".join)
def test_the_strictest_word_of_all_limits_counts(words: tuple[str, ...]) -> None:
    periods = ["second", "hour", "week"]
    limits: Limits = [{"requests": 5, "per": per, "on_outage": word} for per, word in zip(periods, words, strict=False)]
    strictest = min(words, key=STRICTEST_FIRST.index)
    store = {"on_outage": "allow"}
    assert of_tier(*limits).account().on_outage == strictest
    assert House(tiers={"free": limits[1:]}, models={"m": limits[:1]}, store=store).account().on_outage == strictest


@pytest.mark.parametrize("default", STRICTEST_FIRST)
@pytest.mark.parametrize("word", [None, *STRICTEST_FIRST])
def test_a_limit_that_says_nothing_takes_the_stores_word(default: str, word: str | None) -> None:
    limit: dict[str, Any] = {"requests": 5, "per": "day"} | ({"on_outage": word} if word is not None else {})
    assert House(tiers={"free": [limit]}, store={"on_outage": default}).account().on_outage == (word or default)
    assert House(store={"on_outage": default}).account().on_outage == default


def test_the_strictest_word_counts_also_where_a_limit_shares_its_counter() -> None:
    for loose, strict in combinations(reversed(STRICTEST_FIRST), 2):
        for first, second in ((loose, strict), (strict, loose)):
            house = House(
                tiers={"free": [{"requests": 1, "per": "day", "models": ["m"], "on_outage": first}]},
                models={"m": [{"requests": 9, "per": "day", "by": "client", "on_outage": second}]},
            )
            assert house.account().on_outage == strict


def test_a_limit_of_other_models_says_nothing_about_an_outage() -> None:
    house = House(
        tiers={
            "free": [
                {"requests": 1, "per": "day", "models": ["n"], "on_outage": "deny"},
                {"requests": 1, "per": "day", "models": ["m"], "on_outage": "allow"},
            ]
        },
        models={"m": [], "n": []},
    )
    assert [house.account(model=model).on_outage for model in ("m", "n")] == ["allow", "deny"]


# -- remembered on the caller


def test_an_account_is_made_once_per_caller_tier_and_model() -> None:
    house = House(tiers={"free": [{"requests": 1, "per": "day"}], "pro": []}, models={"m": [], "n": []})
    principal = caller()
    first = house.account(principal)
    assert house.account(principal) is first
    assert house.account(principal, model="n") is not first
    principal.tier = "pro"
    assert house.account(principal).own == ()
    principal.tier = "free"
    assert house.account(principal) is first
    assert house.account(caller()) is not first


def test_a_new_configuration_is_a_new_account() -> None:
    principal = caller()
    (before,) = of_tier({"requests": 1, "per": "day"}).account(principal).own
    (after,) = of_tier({"requests": 2, "per": "day"}).account(principal).own
    assert (before.limit.size, after.limit.size) == (1, 2)
    assert before.key == after.key


def test_what_depends_on_the_address_is_not_remembered() -> None:
    house = of_tier({"requests": 1, "per": "day", "by": "address"}, {"requests": 1, "per": "day"})
    principal = caller()
    keys = [house.keys(principal, address=address) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "")]
    assert keys[0] == keys[2]
    assert len({one[1] for one in keys}) == 3
    assert len({one[0] for one in keys}) == 1


# -- names


@given(one=people, other=people, models=st.lists(st.sampled_from(["m", "n*", "?"]), max_size=3, unique=True))
def test_a_quoted_name_keeps_its_place_in_a_hold(
    one: tuple[str, str | None, str | None], other: tuple[str, str | None, str | None], models: list[str]
) -> None:
    limit: dict[str, Any] = {"requests": 10, "per": "day"} | ({"models": models} if models else {})
    assume("/" not in "".join(part or "" for part in (*one, *other)))
    account, others = (of_tier(limit).account(caller(*person)) for person in (one, other))
    for line, of_the_other in zip(account.own, others.own, strict=True):
        assert line.quoted.isascii()
        assert line.quoted.isprintable()
        assert not set(line.quoted) & set(";=\t")
        assert (line.quoted == of_the_other.quoted) == (line.key == of_the_other.key)


@pytest.mark.parametrize(("plain", "quoted"), [(";", "%3B"), ("=", "%3D"), ("%", "%25"), ("%3B", "%253B"), ("a;b=c", "a%3Bb%3Dc")])
def test_a_client_that_is_called_like_anothers_quoted_name_is_told_from_it(plain: str, quoted: str) -> None:
    house = of_tier({"requests": 10, "per": "day"})
    one, other = (house.account(caller(client)).own[0] for client in (plain, quoted))
    assert one.quoted != other.quoted
    assert one.key != other.key


def test_all_limits_are_known_by_name_and_by_nature() -> None:
    house = House(
        tiers={"free": [{"requests": 1, "per": "day"}, {"concurrent": 1, "name": "slots"}], "pro": [{"requests": 9, "per": "day"}]},
        models={"m": [{"concurrent": 5}]},
    )
    assert house.quota.names == {"free.requests.day.client", "slots", "pro.requests.day.client", "m.concurrent.model"}
    natures = sorted([limit.name for limit in limits] for limits in house.quota.by_stem.values())
    assert natures == [["free.requests.day.client", "pro.requests.day.client"], ["m.concurrent.model"], ["slots"]]
