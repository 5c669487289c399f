"""Whether the body that we see is the body that the upstream reads."""

from __future__ import annotations

import pytest

from slm_authz.reason import Denial, Reason
from slm_authz.request import RequestContext
from slm_authz.request.body import check_media, is_whole

MAX = 100
PARTIAL = "x-envoy-auth-partial-body"


def call(body: bytes = b"", **headers: str) -> RequestContext:
    return RequestContext(
        "POST", "/v1/chat/completions", "h", {name.replace("_", "-"): value for name, value in headers.items()}, body=body
    )


@pytest.mark.parametrize(
    ("size", "headers", "whole"),
    [
        (10, {"content-length": "10"}, True),
        (10, {"content-length": "10", PARTIAL: "false"}, True),
        (10, {}, True),
        (99, {}, True),
        (99, {PARTIAL: "false"}, True),
        (100, {"content-length": "100"}, True),
        (100, {"content-length": "100", PARTIAL: "false"}, True),
        (0, {"content-length": "0"}, True),
        # Envoy says so
        (10, {"content-length": "10", PARTIAL: "true"}, False),
        (10, {PARTIAL: "true"}, False),
        (10, {PARTIAL: "TRUE"}, False),
        (10, {PARTIAL: "false,true"}, False),
        (10, {PARTIAL: "false,false"}, False),
        (10, {PARTIAL: ""}, False),
        # fewer, or more, bytes than Content-Length
        (0, {"content-length": "10"}, False),
        (9, {"content-length": "10"}, False),
        (11, {"content-length": "10"}, False),
        # exactly at the maximum, or above it
        (100, {}, False),
        (100, {PARTIAL: "false"}, False),
        (100, {"content-length": "101"}, False),
        (101, {}, False),
        (101, {"content-length": "101"}, False),
        # garbage and repetitions
        (10, {"content-length": ""}, False),
        (10, {"content-length": "10,10"}, False),
        (10, {"content-length": "10, 10"}, False),
        (10, {"content-length": "+10"}, False),
        (10, {"content-length": "-10"}, False),
        (10, {"content-length": "1_0"}, False),
        (10, {"content-length": "0xa"}, False),
        (10, {"content-length": "ten"}, False),
        (10, {"content-length": "10 "}, False),
        (10, {"content-length": "1²"}, False),
        (10, {"content-length": "١٠"}, False),
        (10, {"content-length": "9" * 5000}, False),
    ],
)
def test_a_body_is_whole_only_where_nothing_speaks_against_it(size: int, headers: dict[str, str], whole: bool) -> None:
    request = RequestContext("POST", "/v1/chat/completions", "h", headers, body=b"x" * size)
    assert is_whole(request, MAX) is whole


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        " application/json ",
        "application/json;",
        "application/json;charset=utf-8",
        "application/json; charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json; Charset=utf8",
    ],
)
def test_json_is_json(kind: str) -> None:
    assert check_media(call(content_type=kind)) is None


def test_without_a_content_type_the_bytes_decide() -> None:
    assert check_media(call(b"{}")) is None


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/vnd.api+json",
        "application/json+x",
        "application/jsonp",
        "application/json, text/plain",
        "text/plain, application/json",
        "application/json,application/json",
        "text/plain; application/json",
        "application/json; charset=utf-16",
        "application/json; charset=utf-8; charset=utf-7",
        "application/json; charset",
        "application/json; charset=utf-8, text/plain",
        "application/json; boundary=x",
        "application/json; x=multipart/form-data",
    ],
)
def test_json_under_another_content_type_is_ambiguous(kind: str) -> None:
    denial = check_media(call(content_type=kind))
    assert isinstance(denial, Denial)
    assert denial.reason is Reason.AMBIGUOUS_REQUEST


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "identity, gzip", "identity,identity", "deflate", "zstd", "x"])
def test_an_encoded_body_cannot_be_read(encoding: str) -> None:
    denial = check_media(call(content_type="application/json", content_encoding=encoding))
    assert isinstance(denial, Denial)
    assert denial.reason is Reason.AMBIGUOUS_REQUEST


@pytest.mark.parametrize("encoding", ["identity", " Identity ", ""])
def test_identity_is_no_encoding(encoding: str) -> None:
    assert check_media(call(content_type="application/json", content_encoding=encoding)) is None
