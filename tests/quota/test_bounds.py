"""How much a call can cost at most: caps, copies, and the input of each prompt, as an estimate and as a strict upper bound."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.llm.ask import Ask, Prompt
from slm_authz.llm.openai import read_chat, read_completions, read_embeddings
from slm_authz.quota.bound import NO_TOKENS, Bound, bound, cost, price_of
from slm_authz.reason import Denial, Reason
from slm_authz.settings.schema import Model, Price

HELLO = [{"role": "user", "content": "hello"}]
BOTH = pytest.mark.parametrize("strict", [False, True], ids=["estimate", "strict"])


def model(**changes: Any) -> Model:
    """Context 1000, default cap 100, highest cap 400, a template of 64; text of a byte-level tokenizer."""
    members = {"context": 1000, "default_output_tokens": 100, "max_output_tokens": 400, "template_tokens": 64, "tokens_per_byte": 1}
    return Model.model_validate(members | changes)


def ask(*prompts: Prompt, cap: int | None = 10, choices: int = 1) -> Ask:
    return Ask("openai.chat", "m", False, cap, choices, prompts or (Prompt(5),))


def embed(*prompts: Prompt, cap: int | None = None) -> Ask:
    return Ask("openai.embeddings", "m", cap=cap, prompts=prompts, generates=False)


def bounded(what: Ask | Denial, of: Model, *, strict: bool = False, distrusted: bool = False) -> Bound:
    assert isinstance(what, Ask), what
    found = bound(what, of, strict=strict, distrusted=distrusted)
    assert isinstance(found, Bound), found
    return found


def chat(**members: Any) -> Ask | Denial:
    return read_chat(json.dumps({"model": "m", "messages": HELLO} | members).encode())


def completion(**members: Any) -> Ask | Denial:
    return read_completions(json.dumps({"model": "m"} | members).encode())


def embedding(**members: Any) -> Ask | Denial:
    return read_embeddings(json.dumps({"model": "m", "input": "hello"} | members).encode())


# -- the cap


@BOTH
@pytest.mark.parametrize(
    ("members", "cap"),
    [
        ({}, 100),
        ({"max_tokens": None}, 100),
        ({"max_tokens": 0}, 100),
        ({"max_tokens": -1}, 100),
        ({"max_tokens": -(10**18)}, 100),
        ({"max_completion_tokens": 0}, 100),
        ({"max_tokens": 0, "max_completion_tokens": -2}, 100),
        ({"max_tokens": 1}, 1),
        ({"max_tokens": 399}, 399),
        ({"max_tokens": 400}, 400),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 5}, 7),
        ({"max_tokens": None, "max_completion_tokens": 9}, 9),
    ],
)
def test_the_cap_is_the_largest_that_is_named_or_the_models_default(members: dict[str, Any], cap: int, strict: bool) -> None:
    for asked in (chat(**members), completion(prompt="hello", **members)):
        found = bounded(asked, model(), strict=strict)
        assert (found.cap, found.copies, found.output_tokens) == (cap, 1, cap)


@BOTH
@pytest.mark.parametrize("members", [{"max_tokens": 0, "max_completion_tokens": 9}, {"max_tokens": 9, "max_completion_tokens": -1}])
def test_a_cap_that_counts_for_nothing_leaves_the_default_beside_the_other(members: dict[str, Any], strict: bool) -> None:
    """Servers differ over which of two caps they obey, and read one of zero or less as if none were named."""
    for default in (1, 9, 100):
        found = bounded(chat(**members), model(default_output_tokens=default), strict=strict)
        assert found.cap == max(9, default)


@BOTH
@pytest.mark.parametrize("cap", [401, 402, 4096, 2**31, 2**53, 2**63, 2**64 + 1])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_above_the_models_highest_is_refused(name: str, cap: int, strict: bool) -> None:
    asked = chat(**{name: cap, "n": 2})
    assert isinstance(asked, Ask)
    denial = bound(asked, model(), strict=strict)
    assert isinstance(denial, Denial)
    assert (denial.reason, denial.http_status, denial.param) == (Reason.CAP_TOO_LARGE, 400, "max_tokens")
    assert "400" in denial.message
    assert str(cap) not in denial.message


@pytest.mark.parametrize("members", [{"max_tokens": 10, "max_completion_tokens": 401}, {"max_tokens": 401, "max_completion_tokens": 10}])
def test_the_larger_of_two_caps_is_judged(members: dict[str, Any]) -> None:
    asked = chat(**members)
    assert isinstance(asked, Ask)
    denial = bound(asked, model(), strict=False)
    assert isinstance(denial, Denial)
    assert denial.reason is Reason.CAP_TOO_LARGE


@pytest.mark.parametrize("cap", ["10", "", 10.0, 0.5, True, False, [], [10], {}, {"value": 10}])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_that_is_not_a_plain_integer_is_400(name: str, cap: Any) -> None:
    for denial in (chat(**{name: cap}), completion(prompt="hello", **{name: cap})):
        assert isinstance(denial, Denial)
        assert (denial.reason, denial.http_status, denial.param) == (Reason.MALFORMED_REQUEST, 400, name)


@pytest.mark.parametrize(("text", "cap"), [("1e1", None), ("10.0", None), ("1E+1", None), ("-0.0", None), ("-0", 100), ("10", 10)])
def test_a_cap_is_judged_as_it_is_written(text: str, cap: int | None) -> None:
    asked = read_chat(b'{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":%s}' % text.encode())
    if cap is None:
        assert isinstance(asked, Denial)
        assert asked.http_status == 400
    else:
        assert bounded(asked, model()).cap == cap


@BOTH
@pytest.mark.parametrize("members", [{}, {"max_tokens": None}, {"max_tokens": 0}, {"max_tokens": -5, "max_completion_tokens": 0}])
def test_a_model_may_refuse_requests_without_a_cap(members: dict[str, Any], strict: bool) -> None:
    asked = chat(**members)
    assert isinstance(asked, Ask)
    denial = bound(asked, model(cap_absent="refuse"), strict=strict)
    assert isinstance(denial, Denial)
    assert (denial.reason, denial.http_status, denial.param) == (Reason.MALFORMED_REQUEST, 400, "max_tokens")
    assert "max_tokens" in denial.message


@BOTH
def test_a_model_that_refuses_requests_without_a_cap_takes_the_others(strict: bool) -> None:
    of = model(cap_absent="refuse")
    assert bounded(chat(max_tokens=3), of, strict=strict).output_tokens == 3
    assert bounded(embedding(), of, strict=strict).output_tokens == 0


@BOTH
@pytest.mark.parametrize("members", [{}, {"max_tokens": 50}, {"max_tokens": 4000}, {"n": 4}])
def test_embeddings_generate_nothing(members: dict[str, Any], strict: bool) -> None:
    for given_input, prompts in [("hello", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1], [2, 3]], 2)]:
        found = bounded(embedding(input=given_input, **members), model(), strict=strict)
        assert (found.cap, found.output_tokens, found.copies) == (0, 0, prompts)
        assert found.tokens == found.input_tokens


# -- copies


@BOTH
@pytest.mark.parametrize(
    ("members", "prompts", "choices"),
    [
        ({"prompt": "a"}, 1, 1),
        ({}, 1, 1),
        ({"prompt": None}, 1, 1),
        ({"prompt": "a", "n": 3}, 1, 3),
        ({"prompt": "a", "best_of": 5}, 1, 5),
        ({"prompt": "a", "n": 3, "best_of": 5}, 1, 5),
        ({"prompt": "a", "n": 5, "best_of": 3}, 1, 5),
        ({"prompt": "a", "n": 128, "best_of": 1}, 1, 128),
        ({"prompt": "a", "n": None, "best_of": None}, 1, 1),
        ({"prompt": ["a", "b"]}, 2, 1),
        ({"prompt": ["a", "b", ""], "n": 2, "best_of": 4}, 3, 4),
        ({"prompt": [1, 2, 3], "n": 2}, 1, 2),
        ({"prompt": [[1], [2], [3], [4]], "n": 2}, 4, 2),
        ({"prompt": ["a", [1, 2]], "best_of": 128}, 2, 128),
    ],
)
def test_output_is_prompts_times_choices_times_cap(members: dict[str, Any], prompts: int, choices: int, strict: bool) -> None:
    for cap, effective in [(None, 100), (0, 100), (7, 7), (400, 400)]:
        found = bounded(completion(max_tokens=cap, **members), model(), strict=strict)
        assert (found.cap, found.copies) == (effective, prompts * choices)
        assert found.output_tokens == prompts * choices * effective


@pytest.mark.parametrize("name", ["n", "best_of"])
@pytest.mark.parametrize("count", [0, -1, 129, 10**30, "2", 2.0, True, [2]])
def test_choices_are_from_1_to_128(name: str, count: Any) -> None:
    for denial in (chat(**{name: count}), completion(prompt="a", **{name: count})):
        assert isinstance(denial, Denial)
        assert (denial.http_status, denial.param) == (400, name)


# -- input


@pytest.mark.parametrize(
    ("prompts", "changes", "tokens"),
    [
        ([Prompt(0)], {}, 64),
        ([Prompt(1)], {}, 65),
        ([Prompt(2)], {}, 65),
        ([Prompt(3)], {}, 65),
        ([Prompt(4)], {}, 66),
        ([Prompt(300)], {}, 164),
        ([Prompt(300)], {"template_tokens": 0}, 100),
        ([Prompt(300)], {"tokens_per_byte": 11}, 164),
        ([Prompt(300)], {"tokens_per_byte": None}, 164),
        ([Prompt(300_000)], {}, 100_064),  # an estimate knows no context
        ([Prompt(300)], {"context": None}, 164),
        ([Prompt(0, tokens=7)], {}, 71),
        ([Prompt(4, tokens=7)], {}, 73),
        ([Prompt(1), Prompt(1)], {}, 130),
        ([Prompt(4), Prompt(0, tokens=3), Prompt(0)], {}, 66 + 67 + 64),
        ([Prompt(3, images=2)], {"image_tokens": 85}, 65 + 170),
        ([Prompt(3, images=2)], {"image_tokens": 0}, 65),
        ([Prompt(3, opaque=True)], {}, 65),
    ],
)
def test_an_estimate_is_a_third_of_the_bytes_and_the_template(prompts: list[Prompt], changes: dict[str, Any], tokens: int) -> None:
    of = model(**changes)
    for distrusted in (False, True):
        assert bounded(ask(*prompts), of, distrusted=distrusted).input_tokens == tokens
        assert bounded(embed(*prompts), of, distrusted=distrusted).input_tokens == tokens


@pytest.mark.parametrize(
    ("prompts", "changes", "tokens"),
    [
        ([Prompt(0)], {}, 64),
        ([Prompt(1)], {}, 65),
        ([Prompt(300)], {}, 364),
        ([Prompt(935)], {}, 999),
        ([Prompt(936)], {}, 1000),
        ([Prompt(937)], {}, 1000),
        ([Prompt(10**9)], {}, 1000),
        ([Prompt(0)], {"template_tokens": 5000}, 1000),
        # 3 for NFC and NFD, 11 for NFKC and NFKD, unknown: the context
        ([Prompt(100)], {"tokens_per_byte": 3}, 364),
        ([Prompt(312)], {"tokens_per_byte": 3}, 1000),
        ([Prompt(10)], {"tokens_per_byte": 11}, 174),
        ([Prompt(86)], {"tokens_per_byte": 11}, 1000),
        ([Prompt(0)], {"tokens_per_byte": None}, 1000),
        ([Prompt(0, tokens=1)], {"tokens_per_byte": None}, 1000),
        # ids are tokens already
        ([Prompt(0, tokens=7)], {}, 71),
        ([Prompt(0, tokens=7)], {"tokens_per_byte": 11}, 71),
        ([Prompt(2, tokens=7)], {"tokens_per_byte": 3}, 77),
        ([Prompt(0, tokens=5000)], {}, 1000),
        # images
        ([Prompt(3, images=2)], {"image_tokens": 85}, 67 + 170),
        ([Prompt(3, images=2)], {"image_tokens": 0}, 67),
        ([Prompt(3, images=20)], {"image_tokens": 85}, 1000),
        ([Prompt(3, images=1)], {"image_tokens": None}, 1000),
        ([Prompt(3)], {"image_tokens": None}, 67),
        # what bytes do not bound
        ([Prompt(0, opaque=True)], {}, 1000),
        ([Prompt(0, images=1, opaque=True)], {"image_tokens": 1}, 1000),
        # each prompt has a context of its own
        ([Prompt(1), Prompt(1)], {}, 130),
        ([Prompt(10**6), Prompt(10**6), Prompt(0)], {}, 2064),
        ([Prompt(0, opaque=True), Prompt(0, tokens=7)], {}, 1071),
        ([Prompt(0)] * 3, {"tokens_per_byte": None}, 3000),
        ([Prompt(300)], {"context": 100, "max_output_tokens": 100}, 100),
    ],
)
def test_a_strict_bound_is_bytes_and_template_up_to_the_context(prompts: list[Prompt], changes: dict[str, Any], tokens: int) -> None:
    of = model(**changes)
    assert bounded(ask(*prompts), of, strict=True).input_tokens == tokens
    assert bounded(embed(*prompts), of, strict=True).input_tokens == tokens


def test_an_estimate_of_an_image_that_nobody_described_is_a_large_one() -> None:
    assert bounded(ask(Prompt(3, images=2)), model(image_tokens=None)).input_tokens == 2065


def test_an_estimate_counts_what_may_become_text_up_to_the_context() -> None:
    assert bounded(ask(Prompt(3, opaque=True, other_bytes=300)), model()).input_tokens == 165
    assert bounded(ask(Prompt(3, opaque=True, other_bytes=10**7)), model()).input_tokens == 1000
    assert bounded(ask(Prompt(30000)), model()).input_tokens == 10064


@pytest.mark.parametrize("tokens_per_byte", [1, 3, 11, None])
@pytest.mark.parametrize("prompt", [Prompt(0), Prompt(5), Prompt(0, tokens=3), Prompt(0, images=1), Prompt(0, opaque=True)])
def test_a_model_that_broke_its_bound_takes_its_context_from_then_on(tokens_per_byte: int | None, prompt: Prompt) -> None:
    of = model(tokens_per_byte=tokens_per_byte, image_tokens=1)
    found = bounded(ask(prompt, prompt, choices=3), of, strict=True, distrusted=True)
    assert (found.input_tokens, found.output_tokens) == (2000, 60)


def test_strict_needs_a_context_and_an_estimate_does_not() -> None:
    of = model(context=None)
    assert bounded(ask(), of).input_tokens == 66
    with pytest.raises(AssertionError):
        bound(ask(), of, strict=True)


@pytest.mark.parametrize(
    "members",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"functions": [{"name": "f"}]},
        {"documents": [{"text": "x"}]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        {"previous_response_id": "r"},
        {"a_member_that_nobody_knows": 1},
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
    ],
)
def test_what_bytes_do_not_bound_is_the_context(members: dict[str, Any]) -> None:
    assert bounded(chat(**members), model(), strict=True).input_tokens == 1000


@pytest.mark.parametrize(
    ("asked", "estimate", "strict"),
    [
        (chat(), 66, 69),
        (chat(messages=[{"role": "user", "content": "é😀"}]), 66, 70),
        (chat(messages=[{"role": "user", "content": ""}] * 9), 67, 72),
        (chat(tools=[]), 66, 69),
        (completion(prompt=["hello", [1, 2, 3]], suffix="ab"), 67 + 68, 71 + 69),
        (completion(), 64, 64),
        (embedding(input=["a", ""]), 65 + 64, 65 + 64),
    ],
)
def test_requests_as_they_are_written(asked: Ask | Denial, estimate: int, strict: int) -> None:
    assert bounded(asked, model()).input_tokens == estimate
    assert bounded(asked, model(), strict=True).input_tokens == strict


def test_a_strict_bound_may_be_below_an_estimate() -> None:
    """The server refuses prompts over its context, so nothing more needs to be held; an estimate does not look at it."""
    asked = ask(Prompt(30_000))
    assert bounded(asked, model(), strict=True).input_tokens == 1000
    assert bounded(asked, model()).input_tokens == 10_064


def test_nothing_is_held_where_nothing_is_asked() -> None:
    assert (NO_TOKENS.tokens, NO_TOKENS.cost) == (0, None)
    for strict in (False, True):
        assert bounded(Ask("other"), model(), strict=strict).tokens == 0


# -- money


@pytest.mark.parametrize(
    ("price", "tokens_in", "tokens_out", "nanos"),
    [
        (None, 65, 10, None),
        ("free", 65, 10, None),
        ({"input": "0", "output": "0"}, 65, 10, 0),
        ({"input": "0.000000001", "output": "0"}, 65, 10, 1),  # a millionth of 65 nanos, rounded up
        ({"input": "0.15", "output": "0.60"}, 65, 10, 15_750),
        ({"input": "0.000000003", "output": "0.000000007", "per": 2}, 65, 10, 133),  # 132.5: once, not 98 + 35
        ({"input": "0.000000001", "output": "0.000000001", "per": 3}, 65, 10, 25),
        ({"input": "0.000000001", "output": "0.000000001", "per": 4}, 65, 10, 19),
        ({"input": "0", "output": "2", "per": 1}, 65, 10, 20 * 10**9),
    ],
)
def test_a_call_costs_nanos_rounded_up_once(price: Any, tokens_in: int, tokens_out: int, nanos: int | None) -> None:
    of = model(price=price)
    assert cost(price_of(of), tokens_in, tokens_out) == nanos
    assert bounded(ask(Prompt(1)), of).cost == nanos
    assert bounded(ask(Prompt(1)), of, strict=True).cost == nanos


# -- properties

contexts = st.integers(400, 200_000)
rates = st.sampled_from([1, 3, 11, None])
prompts_of = st.builds(
    Prompt,
    text_bytes=st.integers(0, 300_000) | st.integers(0, 2_000),
    tokens=st.integers(0, 50_000) | st.just(0),
    images=st.integers(0, 20) | st.just(0),
    opaque=st.booleans(),
)
many = st.lists(prompts_of, min_size=1, max_size=5)
models = st.builds(
    model,
    context=contexts,
    tokens_per_byte=rates,
    template_tokens=st.integers(0, 5_000),
    image_tokens=st.none() | st.integers(0, 2_000),
    price=st.none() | st.fixed_dictionaries({"input": st.sampled_from(["0", "0.15", "3"]), "output": st.sampled_from(["0", "0.6", "15"])}),
)
caps = st.none() | st.integers(1, 400)


@given(of=models, prompts=many, cap=caps, choices=st.integers(1, 128), strict=st.booleans(), distrusted=st.booleans())
def test_the_hold_is_the_sum_over_prompts_and_all_copies_of_the_cap(
    of: Model, prompts: list[Prompt], cap: int | None, choices: int, strict: bool, distrusted: bool
) -> None:
    found = bounded(ask(*prompts, cap=cap, choices=choices), of, strict=strict, distrusted=distrusted)
    apart = [bounded(ask(prompt, cap=cap, choices=choices), of, strict=strict, distrusted=distrusted) for prompt in prompts]
    assert found.input_tokens == sum(one.input_tokens for one in apart)
    assert found.output_tokens == sum(one.output_tokens for one in apart) == len(prompts) * choices * (cap or 100)
    assert found.tokens == found.input_tokens + found.output_tokens
    assert min(found.input_tokens, found.output_tokens) >= 0
    assert found == bounded(ask(*reversed(prompts), cap=cap, choices=choices), of, strict=strict, distrusted=distrusted)


@given(of=models, prompts=many)
def test_a_strict_input_is_at_most_a_context_per_prompt(of: Model, prompts: list[Prompt]) -> None:
    assert of.context is not None
    trusted = bounded(ask(*prompts), of, strict=True).input_tokens
    assert trusted <= of.context * len(prompts)
    assert bounded(ask(*prompts), of, strict=True, distrusted=True).input_tokens == of.context * len(prompts)


@given(of=models, prompt=prompts_of, more=st.integers(0, 10_000), strict=st.booleans())
def test_more_of_anything_never_holds_less(of: Model, prompt: Prompt, more: int, strict: bool) -> None:
    least = bounded(ask(prompt), of, strict=strict).input_tokens
    for larger in (
        Prompt(prompt.text_bytes + more, prompt.tokens, prompt.images, prompt.opaque),
        Prompt(prompt.text_bytes, prompt.tokens + more, prompt.images, prompt.opaque),
        Prompt(prompt.text_bytes, prompt.tokens, prompt.images + more, prompt.opaque),
        Prompt(prompt.text_bytes, prompt.tokens, prompt.images, opaque=True),
    ):
        assert bounded(ask(larger), of, strict=strict).input_tokens >= least
    assert bounded(ask(prompt, Prompt(more)), of, strict=strict).input_tokens >= least


@given(of=models, prompt=prompts_of)
def test_a_tokenizer_that_expands_more_never_holds_less(of: Model, prompt: Prompt) -> None:
    held = [bounded(ask(prompt), of.model_copy(update={"tokens_per_byte": rate}), strict=True).input_tokens for rate in (1, 3, 11, None)]
    assert held == sorted(held)
    assert held[-1] == of.context


@given(text=st.text(max_size=300), of=models)
def test_a_strict_bound_covers_every_byte_of_the_text(text: str, of: Model) -> None:
    """The most that a tokenizer can make of a text is `tokens_per_byte` for each of its bytes; more than the context the server refuses."""
    assert of.context is not None
    found = bounded(chat(messages=[{"role": "user", "content": text}]), of, strict=True)
    rate = of.tokens_per_byte if of.tokens_per_byte is not None else of.context
    assert found.input_tokens == of.context or found.input_tokens >= len(text.encode()) * rate + of.template_tokens


@given(of=models, prompts=many, cap=caps, choices=st.integers(1, 128), strict=st.booleans())
def test_the_price_is_that_of_all_tokens_rounded_up_once(
    of: Model, prompts: list[Prompt], cap: int | None, choices: int, strict: bool
) -> None:
    found = bounded(ask(*prompts, cap=cap, choices=choices), of, strict=strict)
    price = of.price
    if not isinstance(price, Price):
        assert found.cost is None
        return
    exact = Fraction(found.input_tokens * price.input + found.output_tokens * price.output, price.per)
    assert found.cost is not None
    assert 0 <= found.cost - exact < 1


@given(of=models, prompts=many, cap=st.integers(1, 400), strict=st.booleans())
def test_embeddings_hold_their_input_and_nothing_else(of: Model, prompts: list[Prompt], cap: int, strict: bool) -> None:
    found = bounded(embed(*prompts, cap=cap), of, strict=strict)
    assert (found.cap, found.output_tokens) == (0, 0)
    assert found.input_tokens == bounded(ask(*prompts), of, strict=strict).input_tokens
