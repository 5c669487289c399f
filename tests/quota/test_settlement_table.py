"""What the end of a call costs: each row of the specification's table in every combination, the order of the rows, and arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.identity.principal import Principal
from slm_authz.llm.ask import Ask, Prompt
from slm_authz.llm.dialects import ROUTES, settlement_facts
from slm_authz.policy.table import Permit, Table
from slm_authz.quota import bound as bounds
from slm_authz.quota.account import QuotaTable
from slm_authz.quota.counters import Admission, Grant
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Pending, Signer
from slm_authz.quota.settlement import Charge, at_bound, charge
from slm_authz.quota.window import Calendar
from slm_authz.settings.schema import Price, Settings
from slm_authz.store.memory import MemoryCounters

IN, OUT = 100, 400
"""What every call below holds; embeddings hold no output."""
HUGE = 2**53 - 1
STATUSES = [0, 200, 204, 302, 400, 429, 500, 503]
APIS = ["openai.chat", "openai.completions", "openai.embeddings", "other"]
CHUNK = {
    "openai.chat": len(b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'),
    "openai.completions": len(b'data: {"choices":[{"text":"x"}]}\n\n'),
    "openai.embeddings": 1,
    "other": 1,
}
NONE: Final = Charge(0, 0, "none")

Figures = tuple[int | None, int | None]

# Ways in which an answer that has begun, or that Envoy gave itself, ended before its end: (response_code_details, any response flag).
EARLY = [
    ("via_upstream", True),
    ("downstream_remote_disconnect", True),
    ("upstream_response_timeout", True),
    ("stream_idle_timeout", True),
    ("max_duration_timeout", True),
    ("upstream_reset_after_response_started{connection_termination}", True),
    ("upstream_reset_before_response_started{protocol_error}", True),
    ("response_payload_too_large", False),
    ("via_upstream_once", False),
    ("VIA_UPSTREAM", False),
    ("", False),
    ("", True),
]

WITH_OUTPUT: list[Figures] = [(0, 0), (0, 60), (40, 0), (40, 60), (IN, OUT)]
WITHOUT_OUTPUT: list[Figures] = [(0, None), (40, None), (IN, None), (40, 0)]
BAD_WITH_OUTPUT: list[Figures] = [(None, None), (40, None), (None, 60), (-1, 60), (40, -1), (-1, -1), (None, -1), (-1, None)]
BAD_WITHOUT_OUTPUT: list[Figures] = [(None, None), (None, 0), (None, 60), (-1, None), (-1, 0), (-1, 60)]


def held(api: str, *, stream: bool = False, strict: bool = False, metered: bool = True) -> Pending:
    out = 0 if api == "openai.embeddings" else OUT
    return Pending("d", 0, 0, (), "m", api, stream, strict, metered, IN, out, 3, 7, 2)


def ended(
    figures: Figures = (None, None),
    *,
    status: int = 200,
    details: str = "via_upstream",
    flagged: bool = False,
    reached: bool = True,
    size: int = 1000,
) -> Evidence:
    """An entry as the access log yields it: complete is what `details` and the flags say."""
    return Evidence(
        "hold",
        status=status,
        details=details,
        flagged=flagged,
        reached=reached,
        complete=details == "via_upstream" and not flagged,
        bytes=size,
        input_tokens=figures[0],
        output_tokens=figures[1],
    )


def valid(api: str) -> list[Figures]:
    return WITHOUT_OUTPUT if api == "openai.embeddings" else WITH_OUTPUT


def invalid(api: str) -> list[Figures]:
    return BAD_WITHOUT_OUTPUT if api == "openai.embeddings" else BAD_WITH_OUTPUT


def sizes(api: str) -> list[int]:
    chunk = CHUNK[api]
    return [0, 1, chunk - 1, chunk, chunk + 1, 10 * chunk + 3, chunk * OUT - 1, chunk * OUT, chunk * OUT + 1, 1 << 20, HUGE]


every_call = pytest.mark.parametrize(
    ("api", "stream", "strict"),
    [
        pytest.param(api, stream, strict, id=f"{api}-{'stream' if stream else 'whole'}-{'strict' if strict else 'estimate'}")
        for api, stream, strict in product(APIS, (False, True), (False, True))
    ],
)


# -- the dialects' facts that the table rests on


@pytest.mark.parametrize("api", APIS)
def test_a_token_of_a_stream_takes_at_least_its_smallest_chunk(api: str) -> None:
    assert settlement_facts(api).smallest_chunk == CHUNK[api]


def test_every_path_that_asks_a_model_has_facts_of_its_own() -> None:
    unknown = settlement_facts("other")
    assert not unknown.cumulative
    assert unknown.smallest_chunk == 1
    for route in ROUTES.values():
        assert (settlement_facts(route.api) is unknown) == (route.read is None)


# -- row 1: nothing was sent upstream


@every_call
@pytest.mark.parametrize("status", [0, 200, 400, 429, 500, 503])
def test_what_was_never_sent_upstream_costs_no_tokens(api: str, stream: bool, strict: bool, status: int) -> None:
    pending = held(api, stream=stream, strict=strict)
    places = [
        ("no_healthy_upstream", True),
        ("upstream_reset_before_response_started{connection_failure}", True),
        ("upstream_reset_before_response_started{overflow}", True),
        *EARLY,
    ]
    for (details, flagged), figures, size in product(places, [*valid(api), *invalid(api), (HUGE, HUGE)], (0, 1000, HUGE)):
        entry = ended(figures, status=status, details=details, flagged=flagged, reached=False, size=size)
        assert charge(pending, entry) == NONE


# -- row 2: the answer is complete, with valid usage


@every_call
@pytest.mark.parametrize("status", STATUSES)
def test_a_complete_answer_costs_what_it_says_whatever_its_status(api: str, stream: bool, strict: bool, status: int) -> None:
    pending = held(api, stream=stream, strict=strict)
    for figures, size in product(valid(api), (0, 1000, HUGE)):
        assert charge(pending, ended(figures, status=status, size=size)) == Charge(figures[0] or 0, figures[1] or 0, "upstream")


@every_call
@pytest.mark.parametrize(
    ("tokens_in", "tokens_out", "exceeded"),
    [
        (IN, OUT, False),
        (IN - 1, OUT, False),
        (IN + 1, OUT, True),
        (IN, OUT + 1, True),
        (IN + 1, OUT + 1, True),
        (IN + 1, 0, None),  # within the sum and its price: only `strict` has promised each figure
        (0, OUT + 1, None),
        (HUGE, HUGE, True),
    ],
)
def test_usage_above_the_bound_is_charged_whole_and_flagged(
    api: str, stream: bool, strict: bool, tokens_in: int, tokens_out: int, exceeded: bool | None
) -> None:
    pending = held(api, stream=stream, strict=strict)
    exceeded = strict if exceeded is None else exceeded
    if api == "openai.embeddings":
        assert charge(pending, ended((tokens_in, None))) == Charge(tokens_in, 0, "upstream", tokens_in > IN)
    else:
        assert charge(pending, ended((tokens_in, tokens_out))) == Charge(tokens_in, tokens_out, "upstream", exceeded)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_embeddings_have_no_output_to_pay_for(stream: bool, strict: bool) -> None:
    pending = held("openai.embeddings", stream=stream, strict=strict)
    for output in (None, 0, 7, HUGE):
        assert charge(pending, ended((40, output))) == Charge(40, 0, "upstream")


# -- row 3: the upstream's own error, without valid usage


@every_call
@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 429, 500, 502, 503, 599])
def test_an_error_of_the_upstream_without_usage_costs_no_tokens(api: str, stream: bool, strict: bool, status: int) -> None:
    pending = held(api, stream=stream, strict=strict)
    for figures, flagged, size in product(invalid(api), (False, True), (0, 1000, HUGE)):
        assert charge(pending, ended(figures, status=status, flagged=flagged, size=size)) == NONE


@every_call
@pytest.mark.parametrize("status", [0, 100, 200, 302, 399])
def test_only_an_error_is_forgiven(api: str, stream: bool, strict: bool, status: int) -> None:
    pending = held(api, stream=stream, strict=strict)
    for figures, flagged in product(invalid(api), (False, True)):
        assert charge(pending, ended(figures, status=status, flagged=flagged, size=HUGE)).input_tokens == IN


@every_call
@pytest.mark.parametrize("details", sorted({details for details, _ in EARLY} - {"via_upstream"}))
@pytest.mark.parametrize("status", [400, 429, 500, 503, 504])
def test_only_the_upstreams_own_error_is_forgiven(api: str, stream: bool, strict: bool, details: str, status: int) -> None:
    pending = held(api, stream=stream, strict=strict)
    for figures, flagged in product(invalid(api), (False, True)):
        assert charge(pending, ended(figures, status=status, details=details, flagged=flagged, size=HUGE)).input_tokens == IN


# -- row 4: ended early, with usage that is cumulative in this dialect


@every_call
@pytest.mark.parametrize(("details", "flagged"), EARLY)
def test_an_early_end_costs_its_running_usage_where_that_is_cumulative(
    api: str, stream: bool, strict: bool, details: str, flagged: bool
) -> None:
    pending = held(api, stream=stream, strict=strict)
    for figures, status, size in product(valid(api), STATUSES, (0, HUGE)):
        found = charge(pending, ended(figures, status=status, details=details, flagged=flagged, size=size))
        if api == "other":
            assert found.source in ("bound", "estimate")
        else:
            assert found == Charge(figures[0] or 0, figures[1] or 0, "partial")


@pytest.mark.parametrize("api", ["openai.chat", "openai.completions"])
@pytest.mark.parametrize(
    ("tokens_in", "tokens_out", "exceeded"), [(IN, OUT, False), (IN + 1, 0, None), (0, OUT + 1, None), (IN, OUT + 1, True)]
)
def test_running_usage_above_the_bound_is_charged_and_flagged_too(api: str, tokens_in: int, tokens_out: int, exceeded: bool | None) -> None:
    entry = ended((tokens_in, tokens_out), details="downstream_remote_disconnect", flagged=True)
    for strict in (False, True):
        flag = strict if exceeded is None else exceeded
        assert charge(held(api, stream=True, strict=strict), entry) == Charge(tokens_in, tokens_out, "partial", flag)


# -- row 5: everything else


def everything_else(api: str) -> Iterator[dict[str, Any]]:
    """Ends that no row above describes: a 2xx without usage, hang-ups, timeouts, answers that Envoy could not read, its own errors."""
    for figures in invalid(api):
        for status in (200, 201, 204, 302):
            yield {"figures": figures, "status": status}
        for details, flagged in EARLY:
            for status in (0, 200, 408, 500, 503, 504):
                if details != "via_upstream" or status < 400:
                    yield {"figures": figures, "status": status, "details": details, "flagged": flagged}
    if api == "other":  # running usage of a dialect that we do not know says nothing about the use up to there
        for figures in valid(api):
            yield {"figures": figures, "details": "downstream_remote_disconnect", "flagged": True}


@every_call
def test_everything_else_costs_the_hold_or_what_the_bytes_of_a_stream_show(api: str, stream: bool, strict: bool) -> None:
    pending = held(api, stream=stream, strict=strict)
    out = pending.output_bound
    for what, size in product(everything_else(api), sizes(api)):
        found = charge(pending, ended(size=size, **what))
        if strict or not stream:
            assert found == Charge(IN, out, "bound")
        else:
            assert found == Charge(IN, min(size // CHUNK[api], out), "estimate")


@pytest.mark.parametrize(
    ("api", "size", "output"),
    [
        ("openai.chat", 0, 0),
        ("openai.chat", 46, 0),
        ("openai.chat", 47, 1),
        ("openai.chat", 93, 1),
        ("openai.chat", 94, 2),
        ("openai.chat", 4700, 100),
        ("openai.chat", 47 * 400 - 1, 399),
        ("openai.chat", 47 * 400, 400),
        ("openai.chat", 10**12, 400),
        ("openai.completions", 33, 0),
        ("openai.completions", 34, 1),
        ("openai.completions", 340, 10),
        ("openai.completions", HUGE, 400),
        ("openai.embeddings", HUGE, 0),
        ("other", 7, 7),
        ("other", 401, 400),
    ],
)
def test_streams_that_tell_nothing_are_estimated_from_upstream_bytes(api: str, size: int, output: int) -> None:
    entry = ended(details="downstream_remote_disconnect", flagged=True, size=size)
    assert charge(held(api, stream=True), entry) == Charge(IN, output, "estimate")


# -- calls that ask no model


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("api", [*APIS, "openai.models"])
def test_a_call_that_asks_no_model_costs_no_tokens(api: str, stream: bool, strict: bool) -> None:
    pending = held(api, stream=stream, strict=strict, metered=False)
    assert at_bound(pending) == NONE
    for figures, status, (details, flagged) in product([(None, None), (40, 60), (HUGE, HUGE), (-1, -1)], STATUSES, EARLY):
        assert charge(pending, ended(figures, status=status, details=details, flagged=flagged, size=HUGE)) == NONE


# -- the order of the rows

Predicate = Callable[[Pending, Evidence], bool]


def has_valid_usage(pending: Pending, entry: Evidence) -> bool:
    told = [entry.input_tokens] if pending.api == "openai.embeddings" else [entry.input_tokens, entry.output_tokens]
    return all(figure is not None and figure >= 0 for figure in told)


# The table of the specification, row by row.
TABLE: list[tuple[str, Predicate]] = [
    ("nothing sent", lambda _, e: not e.reached),
    ("complete", lambda p, e: e.details == "via_upstream" and not e.flagged and has_valid_usage(p, e)),
    ("upstream error", lambda p, e: e.details == "via_upstream" and e.status >= 400 and not has_valid_usage(p, e)),
    ("early", lambda p, e: (e.details != "via_upstream" or e.flagged) and has_valid_usage(p, e) and p.api != "other"),
    ("everything else", lambda _p, _e: True),
]


def by_row(row: str, pending: Pending, entry: Evidence) -> tuple[int, int, str]:
    if row in ("nothing sent", "upstream error"):
        return 0, 0, "none"
    if row in ("complete", "early"):
        output = 0 if pending.api == "openai.embeddings" else entry.output_tokens
        return entry.input_tokens or 0, output or 0, "upstream" if row == "complete" else "partial"
    if pending.strict or not pending.stream:
        return pending.input_bound, pending.output_bound, "bound"
    return pending.input_bound, min(pending.output_bound, entry.bytes // CHUNK[pending.api]), "estimate"


def test_the_first_row_that_matches_wins() -> None:
    seen: Counter[str] = Counter()
    overruled: Counter[tuple[str, str]] = Counter()
    for api, stream, strict in product(APIS, (False, True), (False, True)):
        pending = held(api, stream=stream, strict=strict)
        figures = [*valid(api), *invalid(api), (IN + 1, OUT + 1)]
        for figure, status, (details, flagged), reached in product(figures, STATUSES, [("via_upstream", False), *EARLY], (True, False)):
            entry = ended(figure, status=status, details=details, flagged=flagged, reached=reached)
            rows = [name for name, matches in TABLE if matches(pending, entry)]
            seen[rows[0]] += 1
            overruled.update((rows[0], later) for later in rows[1:])
            found = charge(pending, entry)
            assert (found.input_tokens, found.output_tokens, found.source) == by_row(rows[0], pending, entry)
    assert seen.keys() == {name for name, _ in TABLE}
    # Every pair of rows that can match together did; the others exclude each other.
    assert overruled.keys() == {
        ("nothing sent", "complete"),
        ("nothing sent", "upstream error"),
        ("nothing sent", "early"),
        ("nothing sent", "everything else"),
        ("complete", "everything else"),
        ("upstream error", "everything else"),
        ("early", "everything else"),
    }


# -- the request itself

PRICED = Settings.model_validate(
    {
        "version": 1,
        "identity": [{"api_key": {}}],
        "models": {"m": {"price": {"input": "0.000000003", "output": "0.000000007", "per": 2}}},
        "tiers": {
            "free": {
                "models": ["m"],
                "limits": [
                    {"requests": 10, "per": "day"},
                    {"tokens": 10_000, "per": "day"},
                    {"cost": "1", "per": "day"},
                    {"concurrent": 3},
                ],
            }
        },
    }
)


@pytest.mark.parametrize(
    ("entry", "tokens"),
    [
        (ended(details="no_healthy_upstream", flagged=True, status=503, reached=False), (0, 0)),
        (ended((40, 60)), (40, 60)),
        (ended((200, 500)), (200, 500)),
        (ended(status=500), (0, 0)),
        (ended((40, 60), details="downstream_remote_disconnect", flagged=True), (40, 60)),
        (ended(), (IN, OUT)),
        (ended(details="upstream_response_timeout", flagged=True, status=504), (IN, OUT)),
    ],
    ids=["nothing-sent", "complete", "exceeded", "upstream-error", "early", "no-usage", "timeout"],
)
def test_an_answered_allow_counts_as_a_request_whatever_follows(entry: Evidence, tokens: tuple[int, int], noon: int) -> None:
    signer = Signer(b"k" * 32)
    counters = MemoryCounters(signer, Calendar(), 900_000)
    policy = Table.build(PRICED)
    account = QuotaTable(PRICED).account(Principal("api_key", "acme", "free"), Permit(policy.tiers["free"], policy.models["m"]), "")
    pending = held("openai.chat")
    (grant,) = counters.admit([Admission(pending, account, (1, IN + OUT, pending.cost(IN, OUT) or 0, 1))], noon)
    assert isinstance(grant, Grant)
    entry = Evidence(**{name: getattr(entry, name) for name in Evidence.__struct_fields__} | {"hold": signer.sign(pending, grant.quoted)})
    assert counters.settle([entry], noon + 1)[0].result == "settled"
    states = counters.states([line.key for line in account.own])
    cost = -(-(tokens[0] * 3 + tokens[1] * 7) // 2)
    assert [state[1:] if state else None for state in states] == [[1, 0], [sum(tokens), 0], [cost, 0], [0, 0]]


# -- arithmetic

figures = st.none() | st.integers(-1, 2_000) | st.integers(0, HUGE)
pendings = st.builds(
    Pending,
    id=st.just("d"),
    admitted=st.just(0),
    lease_end=st.just(0),
    takes=st.just(()),
    model=st.just("m"),
    api=st.sampled_from(APIS),
    stream=st.booleans(),
    strict=st.booleans(),
    metered=st.booleans(),
    input_bound=st.integers(0, 2_000) | st.integers(0, HUGE),
    output_bound=st.integers(0, 2_000) | st.integers(0, HUGE),
    price_input=st.integers(0, 10**12),
    price_output=st.integers(0, 10**12),
    price_per=st.integers(0, 10**6),
)
entries = st.builds(
    ended,
    st.tuples(figures, figures),
    status=st.integers(0, 599),
    details=st.sampled_from([details for details, _ in EARLY]),
    flagged=st.booleans(),
    reached=st.booleans(),
    size=st.integers(0, 100_000) | st.integers(0, 2**63),
)


def nanos(pending: Pending, tokens_in: int, tokens_out: int) -> int:
    cost = pending.cost(tokens_in, tokens_out)
    assert cost is not None
    return cost


@given(pending=pendings, entry=entries)
def test_no_charge_is_negative_and_its_source_says_where_it_is_from(pending: Pending, entry: Evidence) -> None:
    found = charge(pending, entry)
    assert found.input_tokens >= 0
    assert found.output_tokens >= 0
    assert found.tokens == found.input_tokens + found.output_tokens
    assert found.source in {"upstream", "partial", "estimate", "bound", "none"}
    if found.source == "none":
        assert found == NONE
    if found.source in ("upstream", "partial"):
        assert found.input_tokens == entry.input_tokens
        assert found.output_tokens in (entry.output_tokens, 0)
    bound_in, bound_out = pending.input_bound, pending.output_bound
    each = found.input_tokens > bound_in or found.output_tokens > bound_out
    dearer = nanos(pending, found.input_tokens, found.output_tokens) > nanos(pending, bound_in, bound_out) if pending.price_per else False
    assert found.exceeded == (each if pending.strict else found.tokens > bound_in + bound_out or dearer)


@given(pending=pendings, entry=entries)
def test_only_usage_that_was_reported_is_ever_above_the_hold(pending: Pending, entry: Evidence) -> None:
    found = charge(pending, entry)
    if found.source in ("upstream", "partial"):
        return
    assert found.input_tokens <= pending.input_bound
    assert found.output_tokens <= pending.output_bound
    assert not found.exceeded
    if pending.price_per:
        assert nanos(pending, found.input_tokens, found.output_tokens) <= nanos(pending, pending.input_bound, pending.output_bound)


@given(pending=pendings, entry=entries)
def test_the_bound_is_the_hold(pending: Pending, entry: Evidence) -> None:
    found, lapsed = charge(pending, entry), at_bound(pending)
    assert lapsed == (Charge(pending.input_bound, pending.output_bound, "bound") if pending.metered else NONE)
    if found.source == "bound":
        assert found == lapsed
        assert pending.strict or not pending.stream
    if found.source == "estimate":
        assert found.input_tokens == pending.input_bound
        assert pending.stream
        assert not pending.strict


@given(api=st.sampled_from(APIS), output_bound=st.integers(0, 5_000), size=st.integers(0, 200_000), more=st.integers(0, 200_000))
def test_an_estimate_grows_with_the_bytes_up_to_the_hold(api: str, output_bound: int, size: int, more: int) -> None:
    pending = held(api, stream=True)
    pending.output_bound = output_bound
    less, greater = (charge(pending, ended(details="", size=bytes_)) for bytes_ in (size, size + more))
    assert less.source == greater.source == "estimate"
    assert less.output_tokens <= greater.output_tokens <= output_bound
    assert less.output_tokens * CHUNK[api] <= size
    assert less.output_tokens == output_bound or (less.output_tokens + 1) * CHUNK[api] > size


@given(pending=pendings, tokens_in=st.integers(0, HUGE), tokens_out=st.integers(0, HUGE))
def test_money_is_rounded_up_once(pending: Pending, tokens_in: int, tokens_out: int) -> None:
    if not pending.price_per:
        assert pending.cost(tokens_in, tokens_out) is None
        return
    exact = Fraction(tokens_in * pending.price_input + tokens_out * pending.price_output, pending.price_per)
    cost = nanos(pending, tokens_in, tokens_out)
    assert 0 <= cost - exact < 1
    apart = nanos(pending, tokens_in, 0) + nanos(pending, 0, tokens_out)
    assert cost in (apart, apart - 1)


@given(pending=pendings, tokens_in=st.integers(0, HUGE), tokens_out=st.integers(0, HUGE))
def test_a_call_is_charged_at_the_arithmetic_that_it_was_held_at(pending: Pending, tokens_in: int, tokens_out: int) -> None:
    if pending.price_per:
        price = Price.model_construct(input=pending.price_input, output=pending.price_output, per=pending.price_per)
        assert bounds.cost(price, tokens_in, tokens_out) == pending.cost(tokens_in, tokens_out)


def test_what_is_held_for_an_ask_is_what_the_bound_charges() -> None:
    model = PRICED.models["m"]
    found = bounds.bound(Ask("openai.chat", "m", cap=50, choices=2, prompts=(Prompt(300), Prompt(1))), model, strict=False)
    assert isinstance(found, bounds.Bound)
    pending = held("openai.chat")
    pending.input_bound, pending.output_bound = found.input_tokens, found.output_tokens
    lapsed = at_bound(pending)
    assert (lapsed.tokens, pending.cost(lapsed.input_tokens, lapsed.output_tokens)) == (found.tokens, found.cost)
