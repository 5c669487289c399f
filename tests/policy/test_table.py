"""Which models a tier and a credential admit, and what a refusal tells."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.identity.principal import Principal
from slm_authz.llm.ask import Ask, Prompt
from slm_authz.policy.table import Permit, Table
from slm_authz.reason import Denial, Reason
from slm_authz.settings.patterns import matches
from slm_authz.settings.schema import Settings

MODELS: dict[str, Any] = {
    "phi-4-mini": {"aliases": ["phi4", "phi4-latest"]},
    "qwen3-1.7b": {},
    "qwen3-4b": {},
    "secret-7b": {"aliases": ["hidden"]},
}
TIERS: dict[str, Any] = {
    "all": {"models": ["*"]},
    "one": {"models": ["phi-4-mini"]},
    "by-alias": {"models": ["phi4"]},
    "alias-glob": {"models": ["phi4*"]},
    "qwens": {"models": ["qwen3-*b"]},
    "digit": {"models": ["qwen3-?b"]},
    "two": {"models": ["qwen3-4b", "phi-4-mini"]},
}


def table_of(models: dict[str, Any] | None = None, tiers: dict[str, Any] | None = None) -> Table:
    document = {"version": 1, "identity": [{"api_key": {}}], "models": models or MODELS, "tiers": tiers or TIERS}
    return Table.build(Settings.model_validate(document))


TABLE = table_of()


def caller(tier: str, *models: str, listed: bool = True) -> Principal:
    return Principal("api_key", "acme", tier, key_id="k", models=models if models or not listed else None)


def asked(model: str) -> Ask:
    return Ask("openai.chat", model, prompts=(Prompt(10),))


@pytest.mark.parametrize(
    ("tier", "own", "model", "answer"),
    [
        # a tier's names and globs, over canonical names and aliases
        ("all", None, "phi-4-mini", "phi-4-mini"),
        ("all", None, "phi4", "phi-4-mini"),
        ("all", None, "phi4-latest", "phi-4-mini"),
        ("all", None, "hidden", "secret-7b"),
        ("one", None, "phi-4-mini", "phi-4-mini"),
        ("one", None, "phi4", "phi-4-mini"),
        ("by-alias", None, "phi-4-mini", "phi-4-mini"),
        ("alias-glob", None, "phi-4-mini", "phi-4-mini"),
        ("qwens", None, "qwen3-1.7b", "qwen3-1.7b"),
        ("digit", None, "qwen3-4b", "qwen3-4b"),
        ("digit", None, "qwen3-1.7b", Reason.MODEL_NOT_ALLOWED),
        ("one", None, "qwen3-4b", Reason.MODEL_NOT_ALLOWED),
        ("one", None, "hidden", Reason.MODEL_NOT_ALLOWED),
        # "*" never admits one that is not configured
        ("all", None, "gpt-9", Reason.UNKNOWN_MODEL),
        ("all", None, "*", Reason.UNKNOWN_MODEL),
        ("all", None, "", Reason.UNKNOWN_MODEL),
        # names are compared to the letter
        ("all", None, "Phi-4-Mini", Reason.UNKNOWN_MODEL),
        ("all", None, "phi-4-mini ", Reason.UNKNOWN_MODEL),
        ("all", None, "phi-4-mini\n", Reason.UNKNOWN_MODEL),
        ("all", None, "phi-4-mini\0", Reason.UNKNOWN_MODEL),
        ("all", None, "ｐhi-4-mini", Reason.UNKNOWN_MODEL),
        # the credential's own list narrows, and never widens
        ("all", ("phi4",), "phi-4-mini", "phi-4-mini"),
        ("all", ("phi4",), "qwen3-4b", Reason.MODEL_NOT_ALLOWED),
        ("all", ("qwen3-*",), "qwen3-4b", "qwen3-4b"),
        ("all", ("qwen3-*",), "phi4", Reason.MODEL_NOT_ALLOWED),
        ("one", ("*",), "phi4", "phi-4-mini"),
        ("one", ("*",), "qwen3-4b", Reason.MODEL_NOT_ALLOWED),
        ("one", ("qwen3-4b",), "qwen3-4b", Reason.MODEL_NOT_ALLOWED),
        ("one", ("qwen3-4b",), "phi4", Reason.MODEL_NOT_ALLOWED),
        ("all", ("gone-from-the-file",), "phi4", Reason.MODEL_NOT_ALLOWED),
        ("all", (), "phi4", Reason.MODEL_NOT_ALLOWED),
        # a tier that was deleted after the key was made
        ("deleted", None, "phi-4-mini", Reason.CLIENT_BLOCKED),
    ],
)
def test_permit(tier: str, own: tuple[str, ...] | None, model: str, answer: str | Reason) -> None:
    permit = TABLE.permit(asked(model), Principal("api_key", "acme", tier, models=own))
    if isinstance(answer, Reason):
        assert isinstance(permit, Denial)
        assert (permit.reason, permit.http_status) == (answer, 403)
    else:
        assert isinstance(permit, Permit)
        assert permit.model is not None
        assert (permit.tier.name, permit.model.name) == (tier, answer)


def test_a_path_without_a_model_needs_only_the_tier() -> None:
    permit = TABLE.permit(Ask("other"), caller("one"))
    assert isinstance(permit, Permit)
    assert permit.model is None
    refused = TABLE.permit(Ask("other"), caller("deleted"))
    assert isinstance(refused, Denial)
    assert refused.reason is Reason.CLIENT_BLOCKED


def test_a_refusal_lists_what_the_caller_may_use_and_nothing_else() -> None:
    unknown, hidden = TABLE.permit(asked("gpt-9"), caller("two")), TABLE.permit(asked("secret-7b"), caller("two"))
    assert isinstance(unknown, Denial)
    assert isinstance(hidden, Denial)
    assert unknown.message == hidden.message == "This key may not use that model. It may use: phi-4-mini, qwen3-4b."
    assert unknown.param == hidden.param == "model"


def test_a_refusal_never_echoes_what_was_asked() -> None:
    refused = TABLE.permit(asked("<script>\r\nset-cookie: x"), caller("one"))
    assert isinstance(refused, Denial)
    assert "script" not in refused.message


def test_a_refusal_is_bounded() -> None:
    names = [f"model-{number:03d}" for number in range(500)]
    table = table_of({name: {} for name in names}, {"all": {"models": ["*"]}})
    refused = table.permit(asked("x"), caller("all"))
    assert isinstance(refused, Denial)
    assert refused.message.endswith("model-019 and 480 more.")


def test_a_key_whose_models_are_all_gone_is_told_so() -> None:
    refused = TABLE.permit(asked("phi4"), caller("all", "gone"))
    assert isinstance(refused, Denial)
    assert refused.message.endswith("It may use none of the configured models.")


@pytest.mark.parametrize(
    ("tier", "own", "names"),
    [
        ("all", None, ("phi-4-mini", "qwen3-1.7b", "qwen3-4b", "secret-7b")),
        ("two", None, ("phi-4-mini", "qwen3-4b")),
        ("all", ("qwen3-*", "phi4"), ("phi-4-mini", "qwen3-1.7b", "qwen3-4b")),
        ("one", ("qwen3-*",), ()),
        ("deleted", None, ()),
    ],
)
def test_allowed_models_are_canonical_and_in_file_order(tier: str, own: tuple[str, ...] | None, names: tuple[str, ...]) -> None:
    assert TABLE.allowed_models(Principal("api_key", "acme", tier, models=own)) == names


def test_the_memory_of_narrowed_lists_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_authz.policy.table._LISTS_REMEMBERED", 8)
    table = table_of()
    for number in range(100):
        assert isinstance(table.permit(asked("phi4"), caller("all", f"other-{number}", "phi4")), Permit)
        assert len(table._narrowed) <= 8


NAMES = st.text("ab-.[]!", min_size=1, max_size=6)
PATTERNS = st.text("ab-.*?", min_size=1, max_size=6)


@given(PATTERNS, NAMES, st.lists(NAMES, max_size=2))
@settings(max_examples=400)
def test_a_pattern_means_what_the_shell_means_by_it(pattern: str, name: str, aliases: list[str]) -> None:
    assert matches(pattern, name, aliases) == any(fnmatchcase(spelling, pattern) for spelling in (name, *aliases))


@given(st.text("ab[]!^-", min_size=1, max_size=6), NAMES)
def test_brackets_are_plain_characters(pattern: str, name: str) -> None:
    assert matches(pattern, name) == (pattern == name)


@given(
    st.lists(PATTERNS, min_size=1, max_size=3), st.lists(PATTERNS, max_size=3), st.lists(NAMES, min_size=1, max_size=4, unique=True), NAMES
)
@settings(max_examples=200)
def test_the_table_agrees_with_its_definition(tier: list[str], own: list[str], names: list[str], model: str) -> None:
    table = table_of({name: {} for name in names}, {"t": {"models": tier}})
    permit = table.permit(asked(model), Principal("api_key", "acme", "t", models=tuple(own)))
    admitted = model in names and any(matches(p, model) for p in tier) and any(matches(p, model) for p in own)
    assert isinstance(permit, Permit) == admitted
