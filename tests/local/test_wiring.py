"""What a person writes on the command line about the edge."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.errors import UsageError
from slm_authz.local.wiring import Upstream, parse_listen, parse_upstream, parse_variable


@pytest.mark.parametrize(
    ("text", "expected", "url"),
    [
        ("http://127.0.0.1:8000", Upstream("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        ("http://localhost:8000/v1/", Upstream("localhost", 8000), "http://localhost:8000"),
        ("https://models.example.com", Upstream("models.example.com", 443, tls=True), "https://models.example.com"),
        ("https://api.example.com/openai/v1", Upstream("api.example.com", 443, True, "/openai"), "https://api.example.com/openai"),
        ("http://[::1]:80", Upstream("::1", 80), "http://[::1]"),
        ("HTTPS://Models.Example.com:8443", Upstream("models.example.com", 8443, True), "https://models.example.com:8443"),
    ],
)
def test_a_base_url_as_people_write_it(text: str, expected: Upstream, url: str) -> None:
    assert parse_upstream(text) == expected
    assert expected.url == url


@pytest.mark.parametrize(
    "text",
    [
        "", "127.0.0.1:8000", "ftp://x", "http://", "http://:8000", "http://u:p@host", "http://host?x=1", "http://host#x", "http://host:0",
        "http://host:99999", "http://ho st", "http://host/%2e%2e", "http://host/a//b", "http://host/\r\nx", "http://[::1", "http://-x",
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_upstream(text)


@given(st.text(max_size=40))
def test_no_text_does_anything_else_than_parse_or_be_refused(text: str) -> None:
    for candidate in (text, f"http://{text}", f"https://host/{text}"):
        try:
            upstream = parse_upstream(candidate)
        except UsageError:
            continue
        assert set(upstream.url) <= set(map(chr, range(33, 127))) - set("\"'`\\{}%")
        assert parse_upstream(upstream.url) == upstream


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://u:hunter2@h", "a user name, a password or a query"),
        ("u:hunter2@h", "a user name, a password or a query"),
        ("https://u:hunter2@h:x/", "a user name, a password or a query"),
        ("https://h/v1?api_key=hunter2", "a user name, a password or a query"),
        ("https://h/v1#hunter2", "a user name, a password or a query"),
        ("https://h:hunter2", "its host or port is malformed"),
        ("https://hunter2_", "its host or port is malformed"),
        ("https://h/hunter2!", "its path has more than plain names"),
        ("hunter2", "does not begin with http:// or https://"),
        ("https://h/hunter2 ", "characters that no URL has"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_without_repeating_it(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse_upstream(text)
    assert "hunter2" not in str(caught.value)
    assert ("--upstream-key-env" in str(caught.value)) == ("password" in why)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "127.0.0.1:0", "unix:/x", "127.0.0.1:70000", ":1", "models.example.com:1", "localhost.:1", "localhost"]
)
@pytest.mark.parametrize("flag", ["--listen", "--admin"])
def test_envoy_listens_on_an_address_and_a_port(text: str, flag: str) -> None:
    with pytest.raises(UsageError, match=rf"^{flag}.*Write it like 127\.0\.0\.1:\d+, or \[::1\]") as caught:
        parse_listen(text, flag)
    assert "like unix:" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "target"), [("localhost:1", "127.0.0.1:1"), ("[::1]:2", "[::1]:2"), ("0.0.0.0:3", "0.0.0.0:3"), ("192.0.2.1:4", "192.0.2.1:4")]
)
def test_localhost_is_written_as_its_address(text: str, target: str) -> None:
    assert parse_listen(text).target == target


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A%B", "A\nB", "sk-secret:value", "A" * 200, "slm_test_0123456789AB_0123"])
def test_a_variables_name_is_a_name_and_never_repeated(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_variable(name)
    assert name == "" or name not in str(caught.value)
