"""What the caller sees of limits: response headers in both families, the words of a 429, when to retry, and what is never shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slm_authz.identity.principal import Principal
from slm_authz.llm.ask import Ask, Prompt
from slm_authz.policy.table import Permit, Table
from slm_authz.quota.account import Account, Line, QuotaTable
from slm_authz.quota.bound import Bound, bound, price_of
from slm_authz.quota.counters import Admission, Grant, Refusal, View
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending, Signer
from slm_authz.quota.limit import COST, KINDS, REQUESTS, TOKENS, Limit, compile_limit
from slm_authz.quota.shown import deny, openai_duration, rate_limit_headers, reason_of
from slm_authz.quota.window import PERIOD_MS, Calendar
from slm_authz.reason import Denial, Reason
from slm_authz.settings.schema import LimitSpec, Model, Settings
from slm_authz.store.memory import MemoryCounters
from slm_authz.units import MAX_COUNT

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
PERIODS = ["second", "minute", "hour", "day", "week", "month"]
LARGEST: Final = 999_999_999_999_999
"""The largest integer of structured fields (RFC 9651, 3.3.1)."""


def counted(amount: int, plural: str) -> str:
    """As a person says it: 1 token, 2 tokens."""
    return f"{amount} {plural[:-1] if amount == 1 else plural}"


def limit_of(scope: str = "free", *, model: str | None = None, **spec: Any) -> Limit:
    return compile_limit(LimitSpec.model_validate(spec), scope, 0, model=model, on_outage="deny")


def refusal_of(limit: Limit, *, amount: int = 1, used: int = 0, held: int = 0, wait_ms: int | None = 1, **more: Any) -> Refusal:
    line = Line(f"{limit.stem}\tx", "x", limit, limit.kind, limit.algorithm)
    fields: dict[str, Any] = {"reset_ms": 1, "settles": False, "slots_only": False} | more
    return Refusal(line, amount, used, held, wait_ms, **fields)


def early() -> float:
    return 0.0


def late() -> float:
    return 0.999


def denied(refusal: Refusal, *, of: Bound | None = None, model: Model | None = None, jitter: Callable[[], float] = early) -> Denial:
    price = price_of(model) if model is not None else None
    return deny(refusal, of or Bound(10, 1, 5, 10, None), price, "USD", jitter)


def as_mapping(headers: tuple[tuple[str, str], ...]) -> dict[str, str]:
    assert len(dict(headers)) == len(headers)
    return dict(headers)


# -- OpenAI's form

_GO: Final = re.compile(r"(?:(?:(\d+)h)?(\d+)m)?(\d+)s|(\d+)ms", re.ASCII)


def read_duration(text: str) -> int:
    """Milliseconds of a duration as Go prints it, of whole units."""
    match = _GO.fullmatch(text)
    assert match is not None, text
    hours, minutes, seconds, millis = (int(group or 0) for group in match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis


def reset_shown(millis: int) -> str:
    return as_mapping(rate_limit_headers(View(limit_of(requests=5, per="month"), 0, millis), None))["x-ratelimit-reset-requests"]


@pytest.mark.parametrize(
    ("millis", "text"),
    [
        (1, "1ms"),
        (12, "12ms"),
        (250, "250ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (1_001, "2s"),
        (1_999, "2s"),
        (2_000, "2s"),
        (59_000, "59s"),
        (59_001, "1m0s"),
        (60_000, "1m0s"),
        (63_000, "1m3s"),
        (360_000, "6m0s"),
        (599_999, "10m0s"),
        (3_599_000, "59m59s"),
        (3_599_001, "1h0m0s"),
        (3_600_000, "1h0m0s"),
        (3_601_000, "1h0m1s"),
        (3_660_000, "1h1m0s"),
        (3_663_000, "1h1m3s"),
        (43_200_000, "12h0m0s"),
        (86_400_000, "24h0m0s"),
        (90_000_000, "25h0m0s"),
        (2_678_400_000, "744h0m0s"),
    ],
)
def test_resets_in_openais_form(millis: int, text: str) -> None:
    assert reset_shown(millis) == text
    assert read_duration(text) >= millis


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (1, "1s"), (60, "1m0s"), (63, "1m3s"), (3600, "1h0m0s"), (3723, "1h2m3s"), (360_000, "100h0m0s")]
)
def test_durations_in_openais_form(seconds: int, text: str) -> None:
    assert openai_duration(seconds) == text


@given(millis=st.integers(0, 40 * DAY))
def test_a_reset_is_never_shown_too_early_and_less_than_a_second_late(millis: int) -> None:
    shown = read_duration(reset_shown(millis))
    assert millis <= shown < millis + SECOND
    if millis < SECOND:
        assert shown == millis


@given(millis=st.integers(SECOND, 40 * DAY))
def test_units_of_a_reset_carry_over(millis: int) -> None:
    parts = [int(part) for part in re.findall(r"\d+", reset_shown(millis))]
    assert all(part < 60 for part in parts[1:])
    assert len(parts) == 1 or parts[0] > 0


# -- draft-ietf-httpapi-ratelimit-headers-10: lists of strings with parameters (RFC 9651)

_ITEM: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"((?:;[a-z]+=(?:-?\d{1,15}|"[ !#-\[\]-~]*"))*)', re.ASCII)

Item = tuple[str, dict[str, int | str]]


def read_list(text: str) -> list[Item]:
    """A structured field list of strings with parameters that are integers or strings; anything else fails."""
    items: list[Item] = []
    at = 0
    while True:
        match = _ITEM.match(text, at)
        assert match is not None, text[at:]
        parameters: dict[str, int | str] = {}
        for name, quoted, integer in re.findall(r';([a-z]+)=(?:"([^"]*)"|(-?\d+))', match[2]):
            assert name not in parameters
            parameters[name] = int(integer) if integer else quoted
        items.append((re.sub(r"\\(.)", r"\1", match[1]), parameters))
        at = match.end()
        if at == len(text):
            return items
        assert text[at : at + 2] == ", "
        at += 2


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ({"requests": 5, "per": "second"}, '"free.requests.second.client";q=5;w=1'),
        ({"requests": 5, "per": "minute"}, '"free.requests.minute.client";q=5;w=60'),
        ({"requests": 5, "per": "hour"}, '"free.requests.hour.client";q=5;w=3600'),
        ({"requests": 5, "per": "day"}, '"free.requests.day.client";q=5;w=86400'),
        ({"requests": 5, "per": "week"}, '"free.requests.week.client";q=5;w=604800'),
        ({"requests": 5, "per": "month"}, '"free.requests.month.client";q=5'),  # months differ in length: no window is told
        ({"tokens": 1000, "per": "day"}, '"free.tokens.day.client";q=1000;qu="tokens";w=86400'),
        ({"tokens": 1000, "per": "month", "by": "tenant"}, '"free.tokens.month.tenant";q=1000;qu="tokens"'),
        ({"requests": 5, "per": "minute", "name": "five-a-minute"}, '"five-a-minute";q=5;w=60'),
        # gcra: what fits at once, and how long it takes to have it all back
        ({"requests": 60, "per": "minute", "algorithm": "gcra", "burst": 10}, '"free.requests.minute.client.gcra";q=10;w=10'),
        ({"requests": 60, "per": "minute", "algorithm": "gcra"}, '"free.requests.minute.client.gcra";q=6;w=6'),
        ({"requests": 3, "per": "minute", "algorithm": "gcra"}, '"free.requests.minute.client.gcra";q=1;w=20'),
        ({"requests": 1000, "per": "second", "algorithm": "gcra", "burst": 1}, '"free.requests.second.client.gcra";q=1;w=1'),
        ({"tokens": 700, "per": "week", "algorithm": "gcra", "burst": 100}, '"free.tokens.week.client.gcra";q=100;qu="tokens";w=86400'),
    ],
)
def test_policies_as_the_draft_writes_them(spec: dict[str, Any], policy: str) -> None:
    view = View(limit_of(**spec), 3, 63_500)
    requests, tokens = (None, view) if "tokens" in spec else (view, None)
    headers = as_mapping(rate_limit_headers(requests, tokens))
    assert headers["ratelimit-policy"] == policy
    assert headers["ratelimit"] == f"{policy.partition(';')[0]};r=3;t=64"
    assert len(read_list(policy)) == 1


def test_both_limits_in_both_families() -> None:
    requests = View(limit_of(requests=20, per="minute"), 19, 63_000)
    tokens = View(limit_of(tokens=1000, per="day"), 0, 250)
    assert rate_limit_headers(requests, tokens) == (
        ("x-ratelimit-limit-requests", "20"),
        ("x-ratelimit-remaining-requests", "19"),
        ("x-ratelimit-reset-requests", "1m3s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "250ms"),
        ("ratelimit-policy", '"free.requests.minute.client";q=20;w=60, "free.tokens.day.client";q=1000;qu="tokens";w=86400'),
        ("ratelimit", '"free.requests.minute.client";r=19;t=63, "free.tokens.day.client";r=0;t=1'),
    )


def test_no_opinion_is_no_header() -> None:
    assert rate_limit_headers(None, None) == ()
    view = View(limit_of(requests=20, per="minute"), 19, 63_000)
    assert {name for name, _ in rate_limit_headers(view, None)} == {
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "ratelimit-policy",
        "ratelimit",
    }
    view = View(limit_of(tokens=20, per="minute"), 19, 63_000)
    assert {name for name, _ in rate_limit_headers(None, view)} == {
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
        "ratelimit-policy",
        "ratelimit",
    }


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", '\\"', "a;q=9", "a, b", " ", "~"])
def test_a_name_never_breaks_out_of_its_quotes(name: str) -> None:
    limit = msgspec.structs.replace(limit_of(requests=5, per="minute"), name=name)
    headers = as_mapping(rate_limit_headers(View(limit, 1, 1), None))
    assert read_list(headers["ratelimit-policy"]) == [(name, {"q": 5, "w": 60})]
    assert read_list(headers["ratelimit"]) == [(name, {"r": 1, "t": 1})]


@st.composite
def views(draw: st.DrawFn, kind: str) -> View:
    period = draw(st.sampled_from(PERIODS))
    spec: dict[str, Any] = {kind: draw(st.integers(1, LARGEST)), "per": period}
    if period != "month" and draw(st.booleans()):
        most = MAX_COUNT // PERIOD_MS[period]  # checked at load
        spec |= {"algorithm": "gcra", "burst": draw(st.integers(1, most))}
    limit = limit_of(**spec)
    name = draw(st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30))
    remaining = draw(st.integers(0, limit.shown_size))
    return View(msgspec.structs.replace(limit, name=name), remaining, draw(st.integers(0, 40 * DAY)))


@given(requests=st.none() | views("requests"), tokens=st.none() | views("tokens"))
def test_both_families_say_the_same_in_the_syntax_of_each(requests: View | None, tokens: View | None) -> None:
    headers = as_mapping(rate_limit_headers(requests, tokens))
    present = [(kind, view) for kind, view in (("requests", requests), ("tokens", tokens)) if view is not None]
    if not present:
        assert headers == {}
        return
    policies, states = read_list(headers["ratelimit-policy"]), read_list(headers["ratelimit"])
    assert [name for name, _ in policies] == [name for name, _ in states] == [view.limit.name for _, view in present]
    for (kind, view), (_, policy), (_, state) in zip(present, policies, states, strict=True):
        assert policy["q"] == int(headers[f"x-ratelimit-limit-{kind}"]) == view.limit.shown_size
        assert state["r"] == int(headers[f"x-ratelimit-remaining-{kind}"]) == view.remaining
        assert state["t"] == -(-view.reset_ms // SECOND)
        assert read_duration(headers[f"x-ratelimit-reset-{kind}"]) >= view.reset_ms
        assert policy.get("qu") == ("tokens" if kind == "tokens" else None)
        assert policy.keys() <= {"q", "qu", "w"}
        assert state.keys() == {"r", "t"}
        window = policy.get("w")
        if view.limit.algorithm == 0 and view.limit.period == "month":
            assert window is None
        elif view.limit.algorithm == 0:
            assert window == view.limit.period_ms // SECOND
        else:
            assert isinstance(window, int)
            assert 0 <= window * view.limit.size * SECOND - view.limit.burst * view.limit.period_ms < view.limit.size * SECOND
    assert all(value.isascii() and value.isprintable() for value in headers.values())


# -- reasons


@pytest.mark.parametrize("by", ["key", "client", "tenant", "address"])
@pytest.mark.parametrize("kind", ["requests", "tokens", "cost"])
@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("algorithm", ["fixed", "gcra"])
def test_the_reason_is_by_kind_and_period(kind: str, period: str, algorithm: str, by: str) -> None:
    if algorithm == "gcra" and period == "month":
        return  # a load error
    spec: dict[str, Any] = {kind: "3" if kind == "cost" else 3, "per": period, "algorithm": algorithm, "by": by}
    refusal = refusal_of(limit_of(**spec))
    short = period in ("second", "minute", "hour")
    expected = Reason.BUDGET_EXCEEDED if kind == "cost" else Reason.RATE_LIMITED if short else Reason.QUOTA_EXCEEDED
    assert reason_of(refusal) is expected
    assert denied(refusal).http_status == 429
    assert denied(refusal).public_code == expected.value


def test_the_reason_of_a_slot_of_a_model_and_of_what_never_fits() -> None:
    assert reason_of(refusal_of(limit_of(concurrent=3))) is Reason.TOO_MANY_CONCURRENT
    for spec in ({"concurrent": 3}, {"requests": 3, "per": "second"}, {"tokens": 3, "per": "month"}, {"cost": "3", "per": "day"}):
        assert reason_of(refusal_of(limit_of("m", model="m", **spec))) is Reason.MODEL_AT_CAPACITY
        for limit in (limit_of(**spec), limit_of("m", model="m", **spec)):
            assert reason_of(refusal_of(limit, wait_ms=None)) is Reason.EXCEEDS_LIMIT
            assert denied(refusal_of(limit, wait_ms=None)).http_status == 429


def test_a_limit_of_a_model_that_counts_clients_apart_is_the_callers_own() -> None:
    limit = limit_of("m", model="m", requests=3, per="minute", by="client")
    assert reason_of(refusal_of(limit)) is Reason.RATE_LIMITED


# -- when to retry, driven through the counters


class Desk:
    """Counters behind the limits of one tier and one model."""

    def __init__(self, limits: list[dict[str, Any]], model_limits: list[dict[str, Any]] | None = None) -> None:
        settings = Settings.model_validate(
            {
                "version": 1,
                "identity": [{"api_key": {}}],
                "models": {"m": {"price": {"input": "1", "output": "2", "per": 1}, "limits": model_limits or []}},
                "tiers": {"free": {"models": ["m"], "limits": limits}},
            }
        )
        policy = Table.build(settings)
        self.model = settings.models["m"]
        self.table = QuotaTable(settings)
        self.permit = Permit(policy.tiers["free"], policy.models["m"])
        self.signer = Signer(b"k" * 32)
        self.counters = MemoryCounters(self.signer, Calendar(), 900_000)
        self.serial = 0

    def account(self, client: str) -> Account:
        return self.table.account(Principal("api_key", client, "free"), self.permit, "192.0.2.1")

    def ask(self, now: int, tokens: int = 1, *, client: str = "acme") -> Grant | Refusal:
        self.serial += 1
        pending = Pending(f"{self.serial:032x}", now, 0, (), "m", "openai.chat", False, True, True, 0, tokens, 10**9, 2 * 10**9, 1)
        amounts = (1, tokens, pending.cost(0, tokens) or 0, 1)
        (result,) = self.counters.admit([Admission(pending, self.account(client), amounts)], now)
        return result

    def allow(self, now: int, tokens: int = 1, *, client: str = "acme", used: int | None = None) -> Grant:
        """An allow; with `used` its end has arrived as well."""
        grant = self.ask(now, tokens, client=client)
        assert isinstance(grant, Grant)
        if used is not None:
            hold = self.signer.sign(grant.pending, grant.quoted)
            entry = Evidence(
                hold, status=200, details="via_upstream", reached=True, complete=True, input_tokens=0, output_tokens=used, attempts=1
            )
            assert self.counters.settle([entry], now)[0].result == "settled"
        return grant

    def deny(self, now: int, tokens: int = 1, *, client: str = "acme", jitter: Callable[[], float] = early) -> Denial:
        refusal = self.ask(now, tokens, client=client)
        assert isinstance(refusal, Refusal)
        of = Bound(tokens, 1, 0, tokens, 2 * 10**9 * tokens)
        return deny(refusal, of, price_of(self.model), "USD", jitter)


@pytest.mark.parametrize(("jitter", "seconds"), [(early, 1), (lambda: 0.4, 1), (lambda: 0.6, 2), (late, 2)])
def test_a_slot_is_free_again_in_a_second_or_two(jitter: Callable[[], float], seconds: int, noon: int) -> None:
    desk = Desk([{"concurrent": 2}])
    desk.allow(noon)
    desk.allow(noon)
    denial = desk.deny(noon, jitter=jitter)
    assert (denial.reason, denial.limit) == (Reason.TOO_MANY_CONCURRENT, "free.concurrent.client")
    assert (denial.retry_after, denial.should_retry) == (seconds, True)


@pytest.mark.parametrize(("jitter", "seconds"), [(early, 1), (late, 2)])
@pytest.mark.parametrize("spec", [{"tokens": 100, "per": "month"}, {"cost": "200", "per": "day"}])
def test_where_only_holds_block_a_settlement_may_end_the_wait(
    spec: dict[str, Any], jitter: Callable[[], float], seconds: int, noon: int
) -> None:
    desk = Desk([spec])
    desk.allow(noon, 10, used=10)
    desk.allow(noon, 60)
    for tokens in (31, 90):
        denial = desk.deny(noon, tokens, jitter=jitter)
        assert (denial.retry_after, denial.should_retry) == (seconds, True)


@pytest.mark.parametrize("jitter", [early, late])
@pytest.mark.parametrize(
    ("per", "passed", "seconds"),
    [
        ("second", 0, 1),
        ("second", 999, 1),
        ("minute", 0, 60),
        ("minute", 1, 60),
        ("minute", 1_000, 59),
        ("minute", 59_999, 1),
        ("hour", 0, 3600),
        ("day", 0, 43_200),
        ("week", 0, 4 * 86_400 + 43_200),
        ("month", 0, 15 * 86_400 + 43_200),
    ],
)
def test_what_is_used_blocks_until_the_window_ends(per: str, passed: int, seconds: int, jitter: Callable[[], float], noon: int) -> None:
    desk = Desk([{"tokens": 100, "per": per}])
    now = noon + passed
    desk.allow(now, 50, used=50)
    desk.allow(now, 20)  # holds in the way do not shorten it
    denial = desk.deny(now, 51, jitter=jitter)
    assert (denial.retry_after, denial.should_retry) == (seconds, seconds <= 60)
    assert isinstance(desk.ask(now + seconds * SECOND, 51), Grant)


@pytest.mark.parametrize("jitter", [early, late])
@pytest.mark.parametrize(
    ("spec", "takes", "seconds"),
    [
        ({"requests": 60, "per": "minute", "algorithm": "gcra", "burst": 2}, [1, 1], 1),
        ({"requests": 6, "per": "minute", "algorithm": "gcra", "burst": 2}, [1, 1], 10),
        ({"requests": 1000, "per": "second", "algorithm": "gcra", "burst": 1}, [1], 1),  # a millisecond is at least one second
        ({"requests": 7, "per": "minute", "algorithm": "gcra", "burst": 1}, [1], 9),  # 8.571 s
        ({"requests": 1, "per": "minute", "algorithm": "gcra", "burst": 1}, [1], 60),
        ({"requests": 2, "per": "hour", "algorithm": "gcra", "burst": 1}, [1], 1800),
        ({"requests": 2, "per": "week", "algorithm": "gcra", "burst": 1}, [1], 302_400),
        ({"tokens": 100, "per": "day", "algorithm": "gcra", "burst": 50}, [30, 20], 864),
    ],
)
def test_gcra_blocks_as_long_as_its_formula_says(
    spec: dict[str, Any], takes: list[int], seconds: int, jitter: Callable[[], float], noon: int
) -> None:
    desk = Desk([spec])
    for tokens in takes:
        desk.allow(noon, tokens)
    denial = desk.deny(noon, jitter=jitter)
    assert (denial.retry_after, denial.should_retry) == (seconds, seconds <= 60)
    assert isinstance(desk.ask(noon + seconds * SECOND), Grant)


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 200),
    per=st.sampled_from(PERIODS[:5]),
    takes=st.lists(st.integers(1, 200), max_size=5),
    tokens=st.integers(1, 200),
)
def test_gcras_wait_is_the_formulas_in_whole_seconds(rate: int, burst: int, per: str, takes: list[int], tokens: int) -> None:
    noon = 1_700_049_600_000
    limit = {"tokens": rate, "per": per, "algorithm": "gcra", "burst": burst}
    desk = Desk([limit])
    debt = sum(amount for amount in takes if isinstance(desk.ask(noon, amount), Grant))
    result = desk.ask(noon, tokens)
    period = {"second": SECOND, "minute": MINUTE, "hour": HOUR, "day": DAY, "week": 7 * DAY}[per]
    if isinstance(result, Grant):
        assert debt + tokens <= burst
        return
    denial = denied(result)
    if tokens > burst:
        assert (denial.reason, denial.retry_after, denial.should_retry) == (Reason.EXCEEDS_LIMIT, None, False)
        return
    millis = -(-(debt + tokens - burst) * period // rate)
    assert denial.retry_after == max(1, -(-millis // SECOND))
    assert denial.should_retry == (denial.retry_after <= 60)
    assert f"{burst} at once" in denial.message
    assert f"{counted(debt, 'tokens')} used, 0 tokens held" in denial.message


@pytest.mark.parametrize(
    ("spec", "takes", "seconds"),
    [
        ({"concurrent": 2}, [1, 1], 1),
        ({"requests": 2, "per": "minute"}, [1, 1], 60),
        ({"tokens": 100, "per": "minute"}, [60, 40], 60),
        ({"requests": 6, "per": "minute", "algorithm": "gcra", "burst": 2}, [1, 1], 10),
        ({"tokens": 100, "per": "day"}, [100], 43_200),
    ],
)
def test_a_models_limits_follow_the_same_rules_with_jitter_and_without_figures(
    spec: dict[str, Any], takes: list[int], seconds: int, noon: int
) -> None:
    desk = Desk([{"requests": 100, "per": "hour"}], [spec])
    for tokens in takes:
        desk.allow(noon, tokens, client="somebody-else", used=None if "concurrent" in spec else tokens)
    for jitter, more in ((early, 0), (late, 1)):
        denial = desk.deny(noon, jitter=jitter)
        assert (denial.reason, denial.retry_after) == (Reason.MODEL_AT_CAPACITY, seconds + more)
        assert denial.should_retry == (seconds + more <= 60)
        assert denial.limit is not None
        assert denial.limit.startswith("m.")
        assert denial.limit in denial.message
        assert re.findall(r"\d+", denial.message) == [str(seconds + more)]
        headers = as_mapping(denial.headers)
        assert headers["x-ratelimit-remaining-requests"] == "100"
        assert "model" not in headers["ratelimit-policy"]


def test_holds_at_a_models_limit_may_settle_at_any_time(noon: int) -> None:
    desk = Desk([], [{"tokens": 100, "per": "day"}])
    desk.allow(noon, 60, client="somebody-else")
    assert [desk.deny(noon, 50, jitter=jitter).retry_after for jitter in (early, late)] == [1, 2]


@pytest.mark.parametrize("wait_ms", [0, 1, 999, 1_000, 1_001, 59_000, 59_001, 60_000, 60_001, 61_000, DAY])
@pytest.mark.parametrize("settles", [False, True])
@pytest.mark.parametrize("jitter", [early, late])
def test_over_a_minute_the_sdks_are_told_not_to_retry(wait_ms: int, settles: bool, jitter: Callable[[], float]) -> None:
    denial = denied(refusal_of(limit_of(tokens=9, per="day"), wait_ms=wait_ms, settles=settles), jitter=jitter)
    seconds = max(1, -(-wait_ms // SECOND)) + (1 if settles and jitter is late else 0)
    assert (denial.retry_after, denial.should_retry) == (seconds, seconds <= 60)
    assert f"{seconds} s" in denial.message


@given(wait_ms=st.integers(0, 40 * DAY), share=st.floats(0, 1, exclude_max=True), shared=st.booleans(), settles=st.booleans())
def test_a_retry_is_never_told_too_early_and_jitter_is_up_to_a_second(wait_ms: int, share: float, shared: bool, settles: bool) -> None:
    limit = limit_of("m", model="m", requests=3, per="day") if shared else limit_of(requests=3, per="day")
    denial = denied(refusal_of(limit, wait_ms=wait_ms, settles=settles), jitter=lambda: share)
    least = max(1, -(-wait_ms // SECOND))
    assert denial.retry_after in ({least, least + 1} if shared or settles else {least})


# -- the words


@pytest.mark.parametrize(
    ("spec", "state", "words"),
    [
        (
            {"requests": 20, "per": "minute"},
            {"amount": 1, "used": 18, "held": 2, "wait_ms": 33_000, "reset_ms": 33_000},
            ["free.requests.minute.client", "20 requests per minute", "18 requests used", "2 requests held", "resets in 33s", "in 33 s"],
        ),
        (
            {"tokens": 1000, "per": "day"},
            {"amount": 300, "used": 400, "held": 500, "wait_ms": 1_000, "reset_ms": 43_200_000, "settles": True},
            ["1000 tokens per day", "400 tokens used", "500 tokens held", "300 tokens needed", "resets in 12h0m0s", "in 1 s"],
        ),
        (
            {"cost": "1.50", "per": "month", "name": "team-budget", "by": "tenant"},
            {"amount": 50_000_000, "used": 1_490_000_001, "held": 0, "wait_ms": 3_600_000, "reset_ms": 3_600_000},
            ["team-budget", "1.5 USD per month", "1.490000001 USD used", "0 USD held", "0.05 USD needed", "in 1h0m0s", "in 3600 s"],
        ),
        (
            {"requests": 60, "per": "minute", "algorithm": "gcra", "burst": 2},
            {"amount": 1, "used": 2, "wait_ms": 999, "reset_ms": 1_999},
            ["free.requests.minute.client.gcra", "60 requests per minute, at most 2 at once", "2 requests used", "resets in 2s", "in 1 s"],
        ),
        (
            {"concurrent": 2},
            {"amount": 1, "held": 2, "wait_ms": 1_000, "settles": True},
            ["free.concurrent.client", "2 calls at once", "2 are running", "1 s"],
        ),
        (
            {"concurrent": 1},
            {"amount": 1, "held": 1, "wait_ms": 1_000, "settles": True},
            ["1 call at once", "1 is running"],
        ),
        (
            {"requests": 1, "per": "hour"},
            {"amount": 1, "used": 1, "wait_ms": 1_000, "reset_ms": 1_000},
            ["of 1 request per hour", "1 request used", "0 requests held", "1 request needed"],
        ),
    ],
)
def test_a_refusal_names_the_limit_its_size_what_is_used_and_when_it_resets(
    spec: dict[str, Any], state: dict[str, Any], words: list[str]
) -> None:
    limit = limit_of(**spec)
    denial = denied(refusal_of(limit, **state))
    assert [word for word in words if word not in denial.message] == []
    assert denial.limit == limit.name


sizes = st.integers(1, 10**9)


@given(
    kind=st.sampled_from(["requests", "tokens"]),
    per=st.sampled_from(PERIODS),
    size=sizes,
    used=sizes,
    held=sizes,
    amount=sizes,
    reset_ms=st.integers(1, 40 * DAY),
    wait_ms=st.integers(1, 40 * DAY),
)
def test_every_figure_of_a_refusal_is_in_its_words(
    kind: str, per: str, size: int, used: int, held: int, amount: int, reset_ms: int, wait_ms: int
) -> None:
    spec: dict[str, Any] = {kind: size, "per": per}
    limit = limit_of(**spec)
    denial = denied(refusal_of(limit, amount=amount, used=used, held=held, reset_ms=reset_ms, wait_ms=wait_ms))
    for part in (
        f"Limit {limit.name} of {counted(size, kind)} per {per}",
        f"{counted(used, kind)} used",
        f"{counted(held, kind)} held",
        f"{counted(amount, kind)} needed",
        f"resets in {openai_duration(-(-reset_ms // SECOND))}.",
        f"Retry in {denial.retry_after} s.",
    ):
        assert part in denial.message


@pytest.mark.parametrize("currency", ["USD", "EUR", "JPY"])
def test_money_is_named_in_the_files_currency(currency: str) -> None:
    refusal = refusal_of(limit_of(cost="0.05", per="day"), amount=1)
    assert f"0.05 {currency} per day" in deny(refusal, Bound(1, 1, 1, 1, 1), None, currency, early).message


# -- what is never shown


@pytest.mark.parametrize(
    "spec", [{"requests": 50, "per": "day"}, {"tokens": 50, "per": "minute"}, {"cost": "50", "per": "day"}, {"concurrent": 50}]
)
@given(used=st.integers(0, 10**12), held=st.integers(0, 10**12), other_used=st.integers(0, 10**12), other_held=st.integers(0, 10**12))
def test_the_use_of_a_shared_limit_changes_no_word(spec: dict[str, Any], used: int, held: int, other_used: int, other_held: int) -> None:
    limit = limit_of("m", model="m", **spec)
    for wait_ms in (1, 90_000, None):
        one = denied(refusal_of(limit, used=used, held=held, wait_ms=wait_ms))
        other = denied(refusal_of(limit, used=other_used, held=other_held, wait_ms=wait_ms))
        assert one == other
        assert "used" not in one.message
        assert "held" not in one.message


def test_a_shared_limit_is_in_no_header(noon: int) -> None:
    desk = Desk([{"concurrent": 5}], [{"requests": 3, "per": "minute"}, {"tokens": 100, "per": "day"}])
    for client in ("one", "two", "three"):
        grant = desk.allow(noon, 5, client=client)
        assert (grant.requests, grant.tokens) == (None, None)
    assert desk.deny(noon).headers == ()


def test_a_shared_limit_is_not_the_tightest_however_tight_it_is(noon: int) -> None:
    desk = Desk(
        [{"requests": 10, "per": "minute"}, {"tokens": 1000, "per": "day"}],
        [{"requests": 1, "per": "minute"}, {"tokens": 20, "per": "day"}],
    )
    grant = desk.allow(noon, 20)
    headers = as_mapping(rate_limit_headers(grant.requests, grant.tokens))
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("10", "9")
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1000", "980")


def test_remaining_is_without_what_is_used_and_held_its_own_hold_included(noon: int) -> None:
    desk = Desk([{"requests": 10, "per": "day"}, {"tokens": 100, "per": "day"}])
    desk.allow(noon, 50, used=30)
    desk.allow(noon, 20)
    grant = desk.allow(noon, 40)
    assert grant.requests is not None
    assert grant.tokens is not None
    assert (grant.requests.remaining, grant.tokens.remaining) == (7, 10)
    headers = as_mapping(desk.deny(noon, 11).headers)
    assert (headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-remaining-tokens"]) == ("7", "10")


def test_remaining_is_never_negative(noon: int) -> None:
    desk = Desk([{"tokens": 100, "per": "day"}])
    desk.allow(noon, 50, used=500)
    assert as_mapping(desk.deny(noon).headers)["x-ratelimit-remaining-tokens"] == "0"


def test_the_tightest_is_the_one_with_the_least_left_then_the_latest_reset(noon: int) -> None:
    desk = Desk([{"requests": 5, "per": "day"}, {"requests": 3, "per": "minute"}, {"requests": 9, "per": "month"}])
    shown = [as_mapping(rate_limit_headers(desk.allow(noon).requests, None)) for _ in range(3)]
    assert [(one["x-ratelimit-limit-requests"], one["x-ratelimit-remaining-requests"]) for one in shown] == [
        ("3", "2"),
        ("3", "1"),
        ("3", "0"),
    ]
    desk = Desk([{"requests": 3, "per": "minute"}, {"requests": 3, "per": "hour", "by": "tenant"}, {"requests": 3, "per": "second"}])
    view = desk.allow(noon).requests
    assert view is not None
    assert (view.limit.period, view.reset_ms) == ("hour", HOUR)


def test_gcra_is_shown_as_its_burst(noon: int) -> None:
    desk = Desk([{"requests": 60, "per": "minute", "algorithm": "gcra", "burst": 3}])
    first, second = desk.allow(noon).requests, desk.allow(noon + 500).requests
    assert first is not None
    assert second is not None
    # A debt of one second, and of 1.5 seconds, which is two requests in whole ones.
    assert [(view.limit.shown_size, view.remaining, view.reset_ms) for view in (first, second)] == [(3, 2, 1_000), (3, 1, 1_500)]


# -- more than a limit ever allows


@pytest.mark.parametrize(
    "spec",
    [
        {"tokens": 100, "per": "day"},
        {"cost": "200", "per": "day"},
        {"tokens": 500, "per": "day", "algorithm": "gcra", "burst": 100},
    ],
)
def test_what_never_fits_is_not_worth_a_retry(spec: dict[str, Any], noon: int) -> None:
    for desk in (Desk([spec]), Desk([], [spec])):
        denial = desk.deny(noon, 101)
        assert (denial.reason, denial.retry_after, denial.should_retry) == (Reason.EXCEEDS_LIMIT, None, False)
        assert named_cap(denial) == 100
        assert denial.limit is not None
        assert denial.limit in denial.message


@pytest.mark.parametrize(
    ("spec", "needs", "size"),
    [
        ({"tokens": 100, "per": "day"}, "101 tokens", "100 tokens per day"),
        ({"tokens": 500, "per": "day", "algorithm": "gcra", "burst": 100}, "101 tokens", "500 tokens per day, at most 100 at once"),
        ({"cost": "200", "per": "month"}, "202 USD", "200 USD per month"),
    ],
)
def test_what_never_fits_is_told_with_what_it_needs_and_the_limits_size(spec: dict[str, Any], needs: str, size: str, noon: int) -> None:
    denial = Desk([spec]).deny(noon, 101)
    assert f"may need {needs}, more than limit {denial.limit} of {size} ever allows" in denial.message


def named_cap(denial: Denial) -> int | None:
    match = re.search(r"Set max_tokens to (\d+) or less\.$", denial.message)
    return int(match[1]) if match else None


@st.composite
def oversized(draw: st.DrawFn) -> tuple[Ask, Model, bool, Limit]:
    """An ask that holds more than the limit's size: tokens or money, fixed or gcra."""
    price = {
        "input": draw(st.sampled_from(["0", "0.000000001", "0.15", "3"])),
        "output": draw(st.sampled_from(["0.000000001", "0.000000007", "0.6", "15"])),
        "per": draw(st.sampled_from([1, 3, 1000, 1_000_000])),
    }
    of = Model.model_validate(
        {
            "context": 8000,
            "default_output_tokens": draw(st.integers(1, 4096)),
            "template_tokens": draw(st.integers(0, 100)),
            "tokens_per_byte": draw(st.sampled_from([1, 3, None])),
            "price": price,
        }
    )
    prompts = draw(st.lists(st.builds(Prompt, st.integers(0, 9000)), min_size=1, max_size=3))
    asked = Ask("openai.completions", "m", False, draw(st.none() | st.integers(1, 4096)), draw(st.integers(1, 8)), tuple(prompts))
    strict = draw(st.booleans())
    held = bound(asked, of, strict=strict)
    assert isinstance(held, Bound)
    kind = draw(st.sampled_from([TOKENS, COST]))
    amount = held.tokens if kind == TOKENS else held.cost
    assert amount is not None
    assume(amount > 1)
    size = draw(st.integers(1, amount - 1))
    base = limit_of(tokens=1, per="day", **draw(st.sampled_from([{}, {"algorithm": "gcra"}])))
    limit = msgspec.structs.replace(base, kind=kind, size=size, burst=size if base.burst else 0)
    return asked, of, strict, limit


@given(case=oversized())
def test_the_cap_that_is_named_fits_and_one_more_does_not(case: tuple[Ask, Model, bool, Limit]) -> None:
    asked, of, strict, limit = case

    def amount(cap: int | None) -> int:
        held = bound(msgspec.structs.replace(asked, cap=cap), of, strict=strict)
        assert isinstance(held, Bound)
        needed = held.tokens if limit.kind == TOKENS else held.cost
        assert needed is not None
        return needed

    held = bound(asked, of, strict=strict)
    assert isinstance(held, Bound)
    denial = denied(refusal_of(limit, amount=amount(asked.cap), wait_ms=None), of=held, model=of)
    assert (denial.retry_after, denial.should_retry) == (None, False)
    cap = named_cap(denial)
    if cap is None:
        assert denial.message.endswith("Shorten the prompt.")
        assert amount(1) > limit.shown_size
    else:
        assert 1 <= cap < held.cap
        assert amount(cap) <= limit.shown_size < amount(cap + 1)


def test_a_prompt_that_is_too_long_alone_is_to_be_shortened(noon: int) -> None:
    refusal = refusal_of(limit_of(tokens=100, per="day"), amount=110, wait_ms=None)
    for tokens_in, words in [(100, "Shorten the prompt."), (500, "Shorten the prompt."), (99, "Set max_tokens to 1 or less.")]:
        assert denied(refusal, of=Bound(10, 1, tokens_in, 10, None)).message.endswith(words)


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        (TOKENS, Bound(0, 3, 500, 0, None)),  # embeddings
        (COST, Bound(0, 3, 500, 0, 500)),
        (REQUESTS, Bound(10, 1, 5, 10, None)),
    ],
)
def test_no_cap_is_named_where_none_would_help(kind: int, of: Bound) -> None:
    spec: dict[str, Any] = {KINDS[kind]: "1" if kind == COST else 1, "per": "day"}
    limit = limit_of(**spec)
    assert "max_tokens" not in denied(refusal_of(limit, amount=2, wait_ms=None), of=of).message
