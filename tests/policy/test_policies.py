"""CEL policies: only `true` fires, only `false` passes, everything else denies."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.identity.principal import Principal
from slm_authz.policy.compiler import MAX_EXPRESSION, compile_policies, problems
from slm_authz.policy.evaluate import LONGEST_TEXT, VARIABLES, CompiledPolicy, PolicyFacts, judge
from slm_authz.reason import Reason
from slm_authz.settings.schema import Policy, PolicyDeny

NOON = 1_700_049_600_123
"""2023-11-15T12:00:00.123Z"""
PRINCIPAL = Principal(
    "api_key", "acme", "pro", tenant="corp", key_id="0123456789AB", scopes=("chat", "embed"), labels={"team": "red", "host": "x"}
)
FACTS = PolicyFacts(
    method="POST",
    path="/v1/chat/completions",
    host="models.example.com",
    model="phi-4-mini",
    api="openai.chat",
    source="192.0.2.7",
    stream=False,
    max_output_tokens=3000,
    input_tokens=120,
    body_bytes=512,
    principal=PRINCIPAL,
    now=NOON,
)


def policy(when: str, name: str = "p", mode: str = "enforce", **deny: Any) -> Policy:
    return Policy.model_validate({"name": name, "when": when, "mode": mode, "deny": deny})


def verdict(when: str, **changes: Any) -> bool | None:
    """True: the policy fired; False: it passed; None: it could not be evaluated, and denied."""
    denial, _ = judge(compile_policies([policy(when, code="fired")]), msgspec.structs.replace(FACTS, **changes))
    if denial is None:
        return False
    assert (denial.reason, denial.limit, denial.http_status) == (Reason.POLICY, "p", 403)
    return True if denial.public_code == "fired" else None


@pytest.mark.parametrize(
    "when",
    [
        "request.method == 'POST'",
        "request.path == '/v1/chat/completions'",
        "request.host == 'models.example.com'",
        "request.model == 'phi-4-mini'",
        "request.api == 'openai.chat'",
        "request.source == '192.0.2.7'",
        "request.stream == false",
        "!request.stream",
        "request.max_output_tokens == 3000",
        "request.input_tokens == 120",
        "request.body_bytes == 512",
        "principal.client == 'acme'",
        "principal.tenant == 'corp'",
        "principal.tier == 'pro'",
        "principal.key_id == '0123456789AB'",
        "principal.method == 'api_key'",
        "principal.scopes == ['chat', 'embed']",
        "'chat' in principal.scopes",
        "principal.labels == {'team': 'red', 'host': 'x'}",
        "principal.labels['team'] == 'red'",
        "principal.labels.team == 'red'",
        "has(principal.labels.team) && !has(principal.labels.other)",
        "now == timestamp('2023-11-15T12:00:00.123Z')",
        "now > timestamp('2023-01-01T00:00:00Z')",
        "now.getHours() == 12 && now.getDayOfWeek() == 3",
        "now.getHours('Europe/Berlin') == 13",
        "request.stream == false && request.max_output_tokens > 2048",
        "request.path.startsWith('/v1/') && request.model.matches('^phi-.*')",
        "principal.scopes.exists(scope, scope == 'embed')",
        "request.max_output_tokens + request.input_tokens > 3000",
        # layout does not matter
        "request . method == 'POST'",
        "request\n  .\n  method == 'POST'",
        "request. // the verb\n method == 'POST'",
        "'//' != request. // not a comment before\n host",
        "  true  ",
        "dyn(true)",
        # an error in a branch that does not decide is no error (CEL's commutative logic)
        "true || 1 / 0 == 1",
        "1 / 0 == 1 || true",
    ],
)
def test_fires(when: str) -> None:
    assert verdict(when) is True


@pytest.mark.parametrize(
    "when",
    [
        "false",
        "request.stream",
        "request.model == 'phi'",
        "request.max_output_tokens > 3000",
        "has(principal.labels.x)",
        "'x' in principal.scopes",
    ],
)
def test_passes(when: str) -> None:
    assert verdict(when) is False


TEN = "[0,1,2,3,4,5,6,7,8,9]"
NESTED = "".join(f"{TEN}.all(x{depth}, " for depth in range(8)) + "true" + ")" * 8


@pytest.mark.parametrize(
    "when",
    [
        "1 / 0 == 1",
        "request.max_output_tokens / 0 == 1",
        "principal.labels['absent'] == 'x'",
        "principal.labels['absent'] != 'x'",
        "principal.scopes[9] == 'x'",
        "request.max_output_tokens + 9223372036854775807 > 0",
        "int(request.model) == 1",
        "timestamp(request.model) == now",
        "request.model.matches(request.model + '(')",
        "now.getHours('No/Where') == 1",
        # not a boolean, though the checker could not know
        "dyn(1)",
        "dyn('true')",
        "dyn(0)",
        "dyn([])",
        "dyn(null)",
        "dyn(request.model)",
        # a budget of iterations, not a hang
        NESTED,
    ],
)
def test_what_is_neither_true_nor_false_denies(when: str) -> None:
    assert verdict(when) is None


@pytest.mark.parametrize(
    ("changes", "when"),
    [
        ({"model": "phi\0-4"}, "request.model == 'phi'"),
        ({"model": "\ud800"}, "request.model != 'x'"),
        ({"path": "/" + "x" * LONGEST_TEXT}, "request.path == '/x'"),
        ({"host": 7}, "request.host != 'x'"),
        ({"host": None}, "request.host != 'x'"),
        ({"host": b"x"}, "request.host != 'x'"),
        ({"stream": 1}, "request.stream == false"),
        ({"stream": None}, "!request.stream"),
        ({"max_output_tokens": 2**63}, "request.max_output_tokens > 5"),
        ({"max_output_tokens": 6.5}, "request.max_output_tokens > 7"),
        ({"max_output_tokens": True}, "request.max_output_tokens > 7"),
        ({"principal": Principal("plugin", "c", "t", scopes=(1,))}, "'x' in principal.scopes"),  # type: ignore[arg-type]
        ({"principal": Principal("plugin", "c", "t", labels={"a": 1})}, "principal.labels['a'] == 'x'"),  # type: ignore[dict-item]
        ({"principal": Principal("plugin", "c", "t", labels={1: "a"})}, "'x' in principal.labels"),  # type: ignore[dict-item]
        ({"principal": Principal("plugin", 3, "t")}, "principal.client == 'x'"),  # type: ignore[arg-type]
        ({"principal": Principal("plugin", "c", "t", labels=[])}, "'x' in principal.labels"),  # type: ignore[arg-type]
        ({"now": 2**62}, "now > timestamp('2023-01-01T00:00:00Z')"),
    ],
)
def test_a_value_of_another_type_denies_instead_of_passing(changes: dict[str, Any], when: str) -> None:
    assert verdict(when, **changes) is None


def test_a_value_that_cannot_be_judged_harms_only_the_policies_that_use_it() -> None:
    assert verdict("request.max_output_tokens > 5000", model="a\0b") is False


def test_a_call_without_an_identity_has_empty_words() -> None:
    empty = "principal.client == '' && principal.tenant == '' && principal.tier == '' && principal.key_id == '' && principal.method == ''"
    assert verdict(f"{empty} && principal.scopes == [] && principal.labels == {{}}", principal=None) is True


def test_a_client_without_a_tenant_is_its_own() -> None:
    assert verdict("principal.tenant == 'solo' && principal.key_id == ''", principal=Principal("anonymous", "solo", "free")) is True


@pytest.mark.parametrize(
    ("when", "place", "words"),
    [
        ("request.model == 1", "1:15", "no matching overload"),
        ("true &&\n  request.model == 1", "2:17", "no matching overload"),
        ("request.modell == 'x'", "1:8", "undeclared reference to 'request.modell'"),
        ("principal.roles == []", "1:10", "undeclared reference"),
        ("request.max_output_tokens > '5'", "1:27", "no matching overload"),
        ("request.stream == 'yes'", "1:16", "no matching overload"),
        ("now > 5", "1:5", "no matching overload"),
        ("'x' in principal.client", "1:5", "no matching overload"),
        ("principal.labels['a'] > 1", "1:23", "no matching overload"),
        ("request.model ==", "1:17", "Syntax error"),
        (" ", "1:2", "Syntax error"),
        ("[", "1:2", "Syntax error"),
        ("os.system('x')", "1:1", "undeclared reference"),
        ("request", "1:1", "undeclared reference"),
    ],
)
def test_what_does_not_compile_is_told_with_its_column(when: str, place: str, words: str) -> None:
    [(index, message, fix)] = problems([policy("true"), policy(when)])
    assert index == 1
    assert message.startswith(f"the expression does not compile: {place}: ")
    assert words in message
    assert "\n" not in message
    assert "request.max_output_tokens" in fix


@pytest.mark.parametrize(
    ("when", "kind"), [("1 + 1", "int"), ("request.model", "string"), ("now", "timestamp"), ("[true]", "list<bool>"), ("null", "null")]
)
def test_an_expression_is_boolean(when: str, kind: str) -> None:
    [(_, message, _)] = problems([policy(when)])
    assert message == f"the expression yields {kind}, not a boolean"


@pytest.mark.parametrize("when", ["(" * 7000 + "true" + ")" * 7000, "[" * 8000, "'" + "x" * MAX_EXPRESSION + "' == ''", "a" * 16_000, "\0"])
def test_monstrous_expressions_are_refused_in_few_words(when: str) -> None:
    [(_, message, _)] = problems([policy(when)])
    assert len(message) < 400


@pytest.mark.parametrize("when", ["!" * 16_000 + "true", "true" + " && true" * 1800, "-" * 16_000 + "1 == 1"])
def test_long_expressions_that_compile_can_be_evaluated(when: str) -> None:
    assert verdict(when) is not None


def test_all_problems_are_found_at_once() -> None:
    assert [index for index, _, _ in problems([policy("1"), policy("true"), policy("x")])] == [0, 2]
    with pytest.raises(ValueError, match="not a boolean"):
        compile_policies([policy("1")])


def test_no_policies_need_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.startswith("cel_expr_python"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert problems([]) == []
    assert compile_policies([]) == ()
    [(index, message, _)] = problems([policy("true")])
    assert index == 0
    assert "cel-expr-python" in message


def test_the_first_that_fires_decides_and_all_shadows_are_recorded() -> None:
    policies = compile_policies(
        [
            policy("true", "early", "shadow"),
            policy("false", "quiet", "shadow"),
            policy("false", "passes"),
            policy("request.max_output_tokens > 2048", "first", code="output_too_long", message="Ask for less.", status=422),
            policy("true", "second", code="never"),
            policy("1 / 0 == 1", "broken-shadow", "shadow"),
            policy("true", "late", "shadow"),
        ]
    )
    denial, shadow = judge(policies, FACTS)
    assert denial is not None
    assert (denial.limit, denial.public_code, denial.message, denial.http_status) == ("first", "output_too_long", "Ask for less.", 422)
    assert shadow == ("early", "broken-shadow", "late")


def test_shadow_policies_alone_never_refuse() -> None:
    policies = compile_policies([policy("true", "a", "shadow"), policy("dyn(1)", "b", "shadow"), policy(NESTED, "c", "shadow")])
    assert judge(policies, FACTS) == (None, ("a", "b", "c"))


def test_a_policy_that_cannot_be_evaluated_tells_nothing_of_itself() -> None:
    denial, _ = judge(compile_policies([policy("int(request.model) == 1", code="secret_code", message="secret words")]), FACTS)
    assert denial is not None
    assert "secret" not in denial.message
    assert (denial.public_code, denial.limit) == ("policy", "p")
    assert "phi" not in denial.message


class _Truthy:
    def __bool__(self) -> bool:
        raise AssertionError("a verdict is never asked for its truth")


@pytest.mark.parametrize("answer", [1, 0, "", "true", None, [], b"", 0.0, _Truthy(), RuntimeError("x"), MemoryError()])
def test_whatever_a_program_answers_or_raises_denies(answer: object) -> None:
    def program(_: Mapping[str, Any]) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    denial, _ = judge([CompiledPolicy("odd", False, PolicyDeny(), program, frozenset())], FACTS)
    assert denial is not None
    assert (denial.reason, denial.limit) == (Reason.POLICY, "odd")


def test_only_variables_that_are_named_are_bound() -> None:
    seen: dict[str, Any] = {}

    def program(variables: Mapping[str, Any]) -> object:
        seen.update(variables)
        return False

    judge([CompiledPolicy("x", False, PolicyDeny(), program, frozenset({"request.model"}))], FACTS)
    assert seen == {"request.model": "phi-4-mini"}
    [compiled] = compile_policies([policy("request.model == 'unknown'")])
    assert compiled.variables == {"request.model"}


GAPS = st.sampled_from(["", " ", "\n", "\t ", " // a comment\n", "// 'quoted\n"])


@given(st.sampled_from(sorted(VARIABLES)), GAPS, GAPS, GAPS)
@settings(max_examples=150)
def test_every_variable_is_found_however_it_is_laid_out(name: str, before: str, after: str, end: str) -> None:
    laid_out = f"{before}.{after}".join(name.split(".")) + end
    assert verdict(f"{laid_out} == {laid_out}") is True


WORDS = st.text("abé\0\"'\\\n💥", max_size=8)


@given(WORDS, WORDS)
@settings(max_examples=150)
def test_strings_are_compared_whole_or_not_at_all(model: str, other: str) -> None:
    answer = verdict("request.model == request.host", model=model, host=other)
    assert answer == (None if "\0" in model + other else model == other)


@given(st.integers(-(2**64), 2**64))
@settings(max_examples=100)
def test_numbers_are_compared_exactly_or_not_at_all(number: int) -> None:
    answer = verdict("request.max_output_tokens > 2048", max_output_tokens=number)
    assert answer == (number > 2048 if -(2**63) <= number < 2**63 else None)


@given(st.text(max_size=60))
@settings(max_examples=150)
def test_no_text_makes_the_compiler_or_the_judge_fail(when: str) -> None:
    one = Policy.model_construct(name="p", when=when, deny=PolicyDeny(), mode="enforce")
    if not problems([one]):
        judge(compile_policies([one]), FACTS)
