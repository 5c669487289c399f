"""What goes back in whose words, and what settlement must know of each API."""

from __future__ import annotations

import json

import pytest

from slm_authz.llm.dialects import ROUTES, dialect_of, settlement_facts
from slm_authz.llm.listing import models_body
from slm_authz.llm.refusal import refusal_body
from slm_authz.reason import STATUS, Denial, Reason

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 413: "invalid_request_error",
    429: "rate_limit_error", 503: "api_error",
}  # fmt: skip


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_openai(reason: Reason) -> None:
    denial = Denial(reason, 'Do "this".', param="model")
    error = {"message": 'Do "this".', "type": TYPES[STATUS[reason]], "param": "model", "code": denial.public_code}
    assert json.loads(refusal_body("openai", denial)) == {"error": error}


def test_bad_keys_answer_alike() -> None:
    assert json.loads(refusal_body("openai", Denial(Reason.KEY_REVOKED, "x")))["error"]["code"] == "invalid_api_key"
    assert json.loads(refusal_body("openai", Denial(Reason.UNKNOWN_KEY, "x")))["error"]["param"] is None


def test_a_policys_own_words() -> None:
    denial = Denial(Reason.POLICY, "x", code="output_too_long", status=422)
    assert json.loads(refusal_body("openai", denial))["error"] == {
        "message": "x", "type": "invalid_request_error", "param": None, "code": "output_too_long",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.MALFORMED_REQUEST, "invalid_request_error"),
        (Reason.NO_CREDENTIAL, "authentication_error"),
        (Reason.MODEL_NOT_ALLOWED, "permission_error"),
        (Reason.BODY_NOT_WHOLE, "request_too_large"),
        (Reason.RATE_LIMITED, "rate_limit_error"),
        (Reason.INTERNAL, "api_error"),
    ],
)
def test_anthropic(reason: Reason, kind: str) -> None:
    assert json.loads(refusal_body("anthropic", Denial(reason, "x"))) == {"type": "error", "error": {"type": kind, "message": "x"}}


def test_ollama() -> None:
    assert json.loads(refusal_body("ollama", Denial(Reason.NO_CREDENTIAL, "Send é."))) == {"error": "Send é."}


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", "openai"),
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/api/chat", "ollama"),
        ("/api/", "ollama"),
        ("/api", "openai"),
        ("/", "openai"),
        ("", "openai"),
    ],
)
def test_whose_words(path: str, dialect: str) -> None:
    assert dialect_of(path) == dialect


def test_routes_are_what_this_release_serves() -> None:
    assert {(method, path): route.api for (method, path), route in ROUTES.items()} == {
        ("POST", "/v1/chat/completions"): "openai.chat",
        ("POST", "/v1/completions"): "openai.completions",
        ("POST", "/v1/embeddings"): "openai.embeddings",
        ("GET", "/v1/models"): "openai.models",
    }


def test_the_smallest_chunk_is_smaller_than_any_real_one() -> None:
    real = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    assert 0 < settlement_facts("openai.chat").smallest_chunk < len(real)
    assert settlement_facts("openai.completions").smallest_chunk < settlement_facts("openai.chat").smallest_chunk
    assert not settlement_facts("openai.embeddings").reports_output
    assert settlement_facts("other").smallest_chunk == 1


def test_the_list_of_models() -> None:
    listed = json.loads(models_body(["a", "b"]))
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["a", "b"]
    assert all(model["object"] == "model" and isinstance(model["created"], int) and model["owned_by"] for model in listed["data"])
    assert json.loads(models_body([])) == {"object": "list", "data": []}
