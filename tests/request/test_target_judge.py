"""Paths as every server reads them: a long table of spellings, and the hosts that policies compare."""

from __future__ import annotations

import pytest

from slm_authz.reason import Denial, Reason
from slm_authz.request.target import Target, host_name, judge

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (CHAT, CHAT, ""),
        (CHAT + "?api-version=1&x=%2e%2e/;\\", CHAT, "api-version=1&x=%2e%2e/;\\"),
        (CHAT + "?", CHAT, ""),
        (CHAT + "?a?b", CHAT, "a?b"),
        ("/", "/", ""),
        ("/?q", "/", "q"),
        ("//v1//chat///completions", CHAT, ""),
        ("/./v1/./chat/completions", CHAT, ""),
        ("/health/../v1/chat/completions", CHAT, ""),
        ("/v1/chat/completions/../../models", "/v1/models", ""),
        ("/health/%2e%2e/v1/chat/completions", CHAT, ""),
        ("/health/.%2E/v1/chat/completions", CHAT, ""),
        ("/%76%31/chat/completions", CHAT, ""),
        ("/v1/chat/completion%73", CHAT, ""),
        ("/v1//../v1/models", "/v1/models", ""),
        ("/v1/chat/completions/", CHAT + "/", ""),
        ("/v1/chat/completions/.", CHAT + "/", ""),
        ("/v1/chat/completions/x/..", CHAT + "/", ""),
        ("/a/..", "/", ""),
        ("/V1/Chat/Completions", "/V1/Chat/Completions", ""),
        ("/.well-known/x", "/.well-known/x", ""),
        ("/v1/...", "/v1/...", ""),
        ("/v1/models/qwen3-1.7b", "/v1/models/qwen3-1.7b", ""),
        ("/caf%C3%A9", "/café", ""),
        ("/a%20b", "/a b", ""),
        ("/a+b", "/a+b", ""),
        ("/a:b@c,d=e&f!$'()*~_-", "/a:b@c,d=e&f!$'()*~_-", ""),
    ],
)
def test_a_path_is_read_as_the_upstream_reads_it(target: str, path: str, query: str) -> None:
    assert judge(target) == Target(path, query)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", Reason.MALFORMED_REQUEST),
        ("*", Reason.MALFORMED_REQUEST),
        ("v1/models", Reason.MALFORMED_REQUEST),
        ("?x", Reason.MALFORMED_REQUEST),
        ("http://host/v1/models", Reason.MALFORMED_REQUEST),
        ("host:443", Reason.MALFORMED_REQUEST),
        ("\\v1\\models", Reason.MALFORMED_REQUEST),
        ("/v1/models#x", Reason.MALFORMED_REQUEST),
        ("/v1/models?x#y", Reason.MALFORMED_REQUEST),
        ("/v1/ models", Reason.MALFORMED_REQUEST),
        ("/v1/models\n", Reason.MALFORMED_REQUEST),
        ("/v1/models\r\nx: y", Reason.MALFORMED_REQUEST),
        ("/v1/models\x00", Reason.MALFORMED_REQUEST),
        ("/v1/models?\x7f", Reason.MALFORMED_REQUEST),
        ("/v1/modèls", Reason.MALFORMED_REQUEST),
        ("/v1/%", Reason.MALFORMED_REQUEST),
        ("/v1/%2", Reason.MALFORMED_REQUEST),
        ("/v1/%zz", Reason.MALFORMED_REQUEST),
        ("/v1/%u002e", Reason.MALFORMED_REQUEST),
        ("/v1/%0a", Reason.MALFORMED_REQUEST),
        ("/v1/%0d%0ax", Reason.MALFORMED_REQUEST),
        ("/v1/%7f", Reason.MALFORMED_REQUEST),
        ("/v1/%ff", Reason.MALFORMED_REQUEST),
        ("/health/%c0%ae%c0%ae/v1", Reason.MALFORMED_REQUEST),  # overlong UTF-8 of two dots
        ("/health/%e2%80%8b", Reason.MALFORMED_REQUEST),  # a character of no width
        ("/health/%252e%252e/v1/chat/completions", Reason.AMBIGUOUS_REQUEST),
        ("/health/%25", Reason.AMBIGUOUS_REQUEST),
        ("/health/..%2fv1/chat/completions", Reason.AMBIGUOUS_REQUEST),
        ("/v1%2Fchat%2Fcompletions", Reason.AMBIGUOUS_REQUEST),
        ("/health/..%5cv1/chat", Reason.AMBIGUOUS_REQUEST),
        ("/health\\..\\v1", Reason.AMBIGUOUS_REQUEST),
        ("/health/..;/v1/chat/completions", Reason.AMBIGUOUS_REQUEST),
        ("/health;x=1", Reason.AMBIGUOUS_REQUEST),
        ("/health%3bx", Reason.AMBIGUOUS_REQUEST),
        ("/health%00.txt", Reason.AMBIGUOUS_REQUEST),
        ("/health%3f/../x", Reason.AMBIGUOUS_REQUEST),
        ("/health%23", Reason.AMBIGUOUS_REQUEST),
        ("/..", Reason.AMBIGUOUS_REQUEST),
        ("/../v1/models", Reason.AMBIGUOUS_REQUEST),
        ("/v1/../../v1/models", Reason.AMBIGUOUS_REQUEST),
        ("/%2e%2e/v1/models", Reason.AMBIGUOUS_REQUEST),
        ("//../v1/models", Reason.AMBIGUOUS_REQUEST),
    ],
)
def test_what_servers_read_differently_is_refused(target: str, reason: Reason) -> None:
    denial = judge(target)
    assert isinstance(denial, Denial)
    assert denial.reason is reason
    assert denial.http_status == 400
    assert "chat" not in denial.message, "a refusal does not echo the path"


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com.", "example.com"),
        ("Example.Com:8443", "example.com"),
        ("example.com.:80", "example.com"),
        ("example.com:", "example.com"),
        (" example.com ", "example.com"),
        ("127.0.0.1:10000", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("[0:0:0:0:0:0:0:1]:443", "[::1]"),
        ("[2001:DB8::00A]", "[2001:db8::a]"),
        ("[::1", ""),
        ("[nonsense]:80", ""),
        ("::1", ""),
        ("2001:db8::a", ""),
        ("a:b", ""),
        ("", ""),
    ],
)
def test_hosts_that_are_one_are_spelled_alike(authority: str, host: str) -> None:
    assert host_name(authority) == host
