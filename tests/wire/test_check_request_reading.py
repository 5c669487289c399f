"""A call as Envoy serializes it, in both of its spellings."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.reason import Denial, Reason
from slm_authz.request import RequestContext
from slm_authz.wire.check_request import decode


def request(**http: Any) -> Any:
    message = external_auth_pb2.CheckRequest()
    fields = message.attributes.request.http
    for name, value in ({"method": "POST", "path": "/v1/chat/completions?a=%2F", "host": "h", "id": "r"} | http).items():
        if name == "headers":
            for key, text in value.items():
                fields.headers[key] = text
        elif name == "header_map":
            for key, raw in value:
                fields.header_map.headers.add(key=key, raw_value=raw)
        else:
            setattr(fields, name, value)
    message.attributes.source.address.socket_address.address = "192.0.2.7"
    return message


def read(message: Any) -> RequestContext:
    found = decode(message.SerializeToString(), traceparent="00-t", remaining=0.5)
    assert isinstance(found, RequestContext)
    return found


def test_every_field() -> None:
    context = read(request(headers={"content-type": "application/json"}, raw_body=b"\xff{"))
    assert (context.method, context.target, context.host) == ("POST", "/v1/chat/completions?a=%2F", "h")
    assert (context.body, context.peer, context.request_id) == (b"\xff{", "192.0.2.7", "r")
    assert read(request(headers={"x-request-id": "theirs"})).request_id == "theirs"
    assert (context.traceparent, context.remaining) == ("00-t", 0.5)
    assert context.headers.get("content-type") == "application/json"
    assert context.headers.get("absent") is None
    assert (context.repeated, context.foreign) == (frozenset(), ())


def test_a_unix_peer_has_no_address() -> None:
    message = request()
    message.attributes.source.address.pipe.path = "/run/x"
    assert read(message).peer == ""


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "B", "authorization", "X-SLM-Client", "x_slm-tier"]), st.text(max_size=5)), max_size=6),
    st.text(max_size=20),
)
def test_both_spellings_of_headers_and_body_read_the_same(pairs: list[tuple[str, str]], body: str) -> None:
    joined: dict[str, str] = {}
    for name, value in pairs:
        joined[name.lower()] = f"{joined[name.lower()]},{value}" if name.lower() in joined else value
    one = read(request(headers=joined, body=body))
    other = read(request(header_map=[(name, value.encode()) for name, value in pairs], raw_body=body.encode()))
    assert dict(one.headers) == dict(other.headers)
    assert one.body == other.body
    assert sorted(one.foreign) == sorted(other.foreign)
    lower = [name.lower() for name, _ in pairs]
    assert other.repeated == {name for name in lower if lower.count(name) > 1}


def test_a_header_that_is_not_utf8_does_not_lose_the_call() -> None:
    assert read(request(header_map=[("a", b"x\xff"), ("b", b"fine")])).headers["b"] == "fine"


@pytest.mark.parametrize(
    "name", ["x-slm-client", "X-Slm-Client", "x_slm_client", "x-slm_model", "x_slm-", "X-SLM-ANYTHING", "x-slm-decision-id", "x_SLM_new"]
)
def test_headers_that_claim_to_be_ours(name: str) -> None:
    assert read(request(headers={name: "admin", "accept": "*/*"})).foreign == (name,)


@pytest.mark.parametrize("name", ["x-slmclient", "y-x-slm-client", "slm-client", "x-slim-a", "xslm-client"])
def test_headers_that_only_resemble_ours(name: str) -> None:
    assert read(request(headers={name: "x-slm-client"}, raw_body=b"x-slm-client")).foreign == ()


@pytest.mark.parametrize("missing", [{"method": ""}, {"path": ""}, {"method": "", "path": ""}])
def test_without_method_or_path_it_is_malformed(missing: dict[str, str]) -> None:
    found = decode(request(**missing).SerializeToString(), traceparent=None, remaining=None)
    assert isinstance(found, Denial)
    assert found.reason is Reason.MALFORMED_REQUEST


def test_a_tunnel_without_a_path_is_no_path_of_ours() -> None:
    found = decode(request(method="CONNECT", path="").SerializeToString(), traceparent=None, remaining=None)
    assert isinstance(found, Denial)
    assert found.reason is Reason.PATH_NOT_ALLOWED


def test_an_empty_call_is_malformed() -> None:
    found = decode(b"", traceparent=None, remaining=None)
    assert isinstance(found, Denial)


whole = request(headers={"a": "b"}, raw_body=b"{}").SerializeToString()


@settings(max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.integers(0, len(whole)).map(lambda n: whole[:n]),
        st.tuples(st.integers(0, len(whole) - 1), st.binary(max_size=3)).map(lambda x: whole[: x[0]] + x[1] + whole[x[0] + 1 :]),
    )
)
def test_no_bytes_raise(payload: bytes) -> None:
    found = decode(payload, traceparent=None, remaining=None)
    assert isinstance(found, (RequestContext, Denial))
    if isinstance(found, Denial):
        assert found.reason is Reason.MALFORMED_REQUEST
