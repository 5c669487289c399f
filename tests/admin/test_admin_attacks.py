"""What must not open the admin listener: hosts, origins, schemes, tokens in places where they do not belong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.admin.api import create_app
from slm_authz.errors import ConfigError
from slm_authz.quota.usage import UsageRow

TOKEN = "t0ken-" + "x" * 30
ROW = UsageRow("free.requests.minute.client", "requests", "client", "acme", None, "minute", 20, 3, 1, 16, "2023-11-15T12:01:00Z")
HOST = ("host", "localhost:9002")
GOOD = ("authorization", f"Bearer {TOKEN}")
APP = create_app(TOKEN, ["localhost", "127.0.0.1", "[::1]"], lambda query: [ROW], list, "1.2.3")


@pytest.mark.parametrize("host", ["localhost", "localhost:9002", "LOCALHOST:1", "127.0.0.1:9002", "[::1]:9002", "[::1]"])
def test_configured_hosts_pass_with_and_without_port(ask: Any, host: str) -> None:
    assert ask(APP, headers=[("host", host), GOOD]).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:9002", "localhost.evil.example", "localhost.", "evil.example:localhost", "localhost:9002:1", "127.0.0.2",
        "localhost@evil.example", "localhost:port", "[localhost]", "[::1", "::1]", "0.0.0.0", "localhost, evil.example", " localhost ",
    ],
)  # fmt: skip
def test_other_hosts_are_refused_even_with_the_token(ask: Any, host: str) -> None:
    answer = ask(APP, headers=[("host", host), GOOD])
    assert answer.status == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["fix"]


def test_no_host_and_two_hosts_are_refused(ask: Any) -> None:
    assert ask(APP, headers=[GOOD]).status == 403
    assert ask(APP, headers=[HOST, ("host", "evil.example"), GOOD]).status == 403
    assert ask(APP, headers=[HOST, HOST, GOOD]).status == 403


@pytest.mark.parametrize("origin", ["http://localhost:9002", "https://localhost:9002", "HTTP://LOCALHOST:9002"])
def test_the_own_origin_passes(ask: Any, origin: str) -> None:
    assert ask(APP, headers=[HOST, GOOD, ("origin", origin)]).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://localhost",
        "http://localhost:3000",
        "http://[",
        "http://localhost:9002.evil.example",
        "file://localhost:9002",
    ],
)
def test_a_foreign_origin_is_403_even_with_the_token(ask: Any, origin: str) -> None:
    assert ask(APP, headers=[HOST, GOOD, ("origin", origin)]).status == 403


def test_one_foreign_origin_among_two_is_enough(ask: Any) -> None:
    assert ask(APP, headers=[HOST, GOOD, ("origin", "http://localhost:9002"), ("origin", "http://evil.example")]).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", TOKEN)],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN.upper()}")],
        [("authorization", f"Bearer {TOKEN}, Bearer {TOKEN}")],
        [("authorization", "Bearer wrong"), GOOD],
        [GOOD, ("authorization", "Bearer wrong")],
        [("authorization", "Bearer \xff\xfe")],
        [("x-api-key", TOKEN)],
        [("cookie", f"token={TOKEN}")],
        [("proxy-authorization", f"Bearer {TOKEN}")],
    ],
)
def test_anything_but_one_right_bearer_token_is_401(ask: Any, headers: list[tuple[str, str]]) -> None:
    answer = ask(APP, headers=[HOST, *headers])
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("path", ["/v1/usage", "/openapi.json", "/nowhere", "/"])
def test_nothing_is_told_without_a_token(ask: Any, path: str) -> None:
    assert ask(APP, path, [HOST]).status == 401


@pytest.mark.parametrize("query", [f"token={TOKEN}", f"access_token={TOKEN}", f"{TOKEN}=1", f"authorization=Bearer%20{TOKEN}"])
def test_a_token_in_the_url_is_never_accepted_nor_repeated(ask: Any, query: str) -> None:
    assert ask(APP, f"/v1/usage?{query}", [HOST]).status == 401
    answer = ask(APP, f"/v1/usage?{query}", [HOST, GOOD])
    assert answer.status == 400
    assert TOKEN.encode() not in answer.body


@pytest.mark.parametrize("token", ["", " ", "\n", "with space", "ümlaut", "line\nbreak"])
def test_a_token_that_lets_everybody_in_or_nobody_is_no_token(token: str) -> None:
    with pytest.raises(ConfigError):
        create_app(token, ["localhost"], lambda query: [], list, "1")


@settings(max_examples=200)
@given(st.text(st.characters(max_codepoint=255), max_size=60), st.text(st.characters(max_codepoint=255), max_size=60))
def test_no_host_or_origin_makes_the_guard_fail(ask: Any, host: str, origin: str) -> None:
    answer = ask(APP, headers=[("host", host), ("origin", origin), GOOD])
    assert answer.status == 403


@settings(max_examples=100)
@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_no_guess_is_a_token(ask: Any, guess: str) -> None:
    if guess.strip().partition(" ")[2].strip() != TOKEN:
        assert ask(APP, headers=[HOST, ("authorization", guess)]).status == 401
