"""Paths beyond the API's own: everything that is not listed is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.policy.paths import PathTable, is_upgrade
from slm_authz.request import RequestContext
from slm_authz.settings.schema import PathRule


def table_of(*rules: dict[str, Any]) -> PathTable:
    return PathTable([PathRule.model_validate({"model": "none", **rule}) for rule in rules])


TABLE = table_of(
    {"prefix": "/health"},
    {"prefix": "/v1/", "methods": ["OPTIONS"], "identity": "none"},
    {"prefix": "/v1/files/", "methods": ["GET", "POST"]},
    {"prefix": "/v1/files/private", "methods": ["OPTIONS"]},
)


@pytest.mark.parametrize(
    ("method", "path", "prefix"),
    [
        ("GET", "/health", "/health"),
        ("GET", "/health/", "/health"),
        ("GET", "/health/live", "/health"),
        ("GET", "/healthy", None),
        ("GET", "/health.json", None),
        ("GET", "/healt", None),
        ("GET", "/Health", None),
        ("GET", "/", None),
        ("GET", "", None),
        ("POST", "/health", None),
        ("get", "/health", None),
        ("HEAD", "/health", None),
        ("OPTIONS", "/v1/chat/completions", "/v1/"),
        ("OPTIONS", "/v1/", "/v1/"),
        ("OPTIONS", "/v1", None),
        ("OPTIONS", "/v10", None),
        ("GET", "/v1/chat/completions", None),
        ("GET", "/v1/files/1", "/v1/files/"),
        ("POST", "/v1/files/1", "/v1/files/"),
        ("DELETE", "/v1/files/1", None),
        ("OPTIONS", "/v1/files/1", "/v1/"),
        ("OPTIONS", "/v1/files/private/1", "/v1/files/private"),
        ("OPTIONS", "/v1/files/privately", "/v1/"),
    ],
)
def test_match(method: str, path: str, prefix: str | None) -> None:
    entry = TABLE.match(method, path)
    assert (entry.prefix if entry is not None else None) == prefix


def test_the_longest_prefix_that_has_the_method_wins_whatever_the_order() -> None:
    rules: list[dict[str, Any]] = [{"prefix": "/a/", "identity": "none"}, {"prefix": "/a/b"}, {"prefix": "/a/b/c", "methods": ["PUT"]}]
    for order in (rules, rules[::-1]):
        entry = table_of(*order).match("GET", "/a/b/c")
        assert entry is not None
        assert (entry.prefix, entry.needs_identity) == ("/a/b", True)


def test_identity_is_needed_unless_the_file_says_none() -> None:
    with_identity, without = TABLE.match("GET", "/health"), TABLE.match("OPTIONS", "/v1/models")
    assert with_identity is not None
    assert without is not None
    assert with_identity.needs_identity
    assert not without.needs_identity


def test_of_two_equal_prefixes_the_stricter_one_wins() -> None:
    rules = [{"prefix": "/a", "identity": "none"}, {"prefix": "/a"}]
    for order in (rules, rules[::-1]):
        entry = table_of(*order).match("GET", "/a")
        assert entry is not None
        assert entry.needs_identity


def test_the_root_prefix_is_everything() -> None:
    assert table_of({"prefix": "/"}).match("GET", "/anything") is not None


@given(st.text("/ab", max_size=8), st.text("/ab", max_size=8))
def test_a_prefix_ends_at_a_segment(prefix: str, path: str) -> None:
    prefix = "/" + prefix
    matched = table_of({"prefix": prefix}).match("GET", path) is not None
    assert matched == (path == prefix or path.startswith(prefix.rstrip("/") + "/" if not prefix.endswith("/") else prefix))


@pytest.mark.parametrize(
    ("method", "headers", "upgrade"),
    [
        ("POST", {}, False),
        ("GET", {"connection": "keep-alive"}, False),
        ("GET", {"upgrade-insecure-requests": "1"}, False),
        ("CONNECT", {}, True),
        ("GET", {"upgrade": "websocket", "connection": "Upgrade"}, True),
        ("GET", {"upgrade": ""}, True),
        ("GET", {"connection": "keep-alive, UPGRADE"}, True),
        ("POST", {"upgrade": "h2c"}, True),
    ],
)
def test_upgrades_are_recognised(method: str, headers: dict[str, str], upgrade: bool) -> None:
    request = RequestContext(method, "/v1/chat/completions", "h", headers)
    assert is_upgrade(request) is upgrade
