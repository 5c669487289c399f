"""The health listener: three paths, read-only, honest, without names."""

from __future__ import annotations

from typing import Any

import pytest

from slm_authz.admin.health import create_app
from slm_authz.audit.exposition import CONTENT_TYPE, render
from slm_authz.audit.metrics import Metrics

STATE = {"ready": True, "config": {"digest": "abc", "error": None}, "store": "ok"}


def test_ready_and_not_ready(ask: Any) -> None:
    state = dict(STATE)
    app = create_app(lambda: state, lambda: b"", CONTENT_TYPE)
    answer = ask(app, "/readyz")
    assert answer.status == 200
    assert answer.json() == STATE
    state["ready"] = False
    assert ask(app, "/readyz").status == 503
    assert ask(app, "/healthz").status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_head_is_answered_and_nothing_writes(ask: Any, path: str) -> None:
    app = create_app(lambda: STATE, lambda: render(Metrics()), CONTENT_TYPE)
    head = ask(app, path, method="HEAD")
    assert head.status == 200
    assert head.body == b"" or head.headers["content-length"]
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = ask(app, path, method=method)
        assert answer.status == 405
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/v1/usage", "/openapi.json", "/metrics/", "//metrics"])
def test_nothing_else_is_there(ask: Any, path: str) -> None:
    answer = ask(create_app(lambda: STATE, lambda: b"", CONTENT_TYPE), path)
    assert answer.status in (404, 307)
    if answer.status == 404:
        assert answer.json()["fix"]


def test_metrics_have_the_content_type_of_the_text_format(ask: Any) -> None:
    answer = ask(create_app(lambda: STATE, lambda: render(Metrics()), CONTENT_TYPE), "/metrics")
    assert answer.headers["content-type"] == CONTENT_TYPE
    assert b"slm_store_up 1.0" in answer.body


@pytest.mark.parametrize("path", ["/readyz", "/metrics"])
def test_what_fails_while_looking_is_503_without_detail(ask: Any, path: str) -> None:
    def fail() -> Any:
        raise RuntimeError("client acme is broken")

    answer = ask(create_app(fail, fail, CONTENT_TYPE), path)
    assert answer.status == 503
    assert b"acme" not in answer.body
