"""Answers written by hand are the messages that protobuf would have written, and say what the product contract says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.decision import Decision
from slm_authz.identity.principal import Principal
from slm_authz.llm.refusal import refusal_body
from slm_authz.reason import STATUS, Denial, Reason
from slm_authz.wire.check_response import LAST_RESORT, UnsafeHeaderError, encode
from slm_authz.wire.status import grpc_code

ID = "0123456789abcdef0123456789abcdef"
NAMES = {"client": "x-slm-client", "tenant": "x-slm-tenant", "tier": "x-slm-tier", "key_id": "x-slm-key-id", "scopes": "x-slm-scopes"}
EDGES = [0, 1, 2, 60, 126, 127, 128, 129, 255, 256, 16383, 16384, 16385]


def parse(payload: bytes) -> Any:
    return external_auth_pb2.CheckResponse.FromString(payload)


def option(target: Any, name: str, value: str) -> None:
    added = target.add()
    added.header.key, added.header.value = name, value
    added.append.value = False
    added.append.SetInParent()
    added.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def identity(decision: Decision) -> dict[str, str]:
    p = decision.principal
    if p is None:
        return {}
    found = {"client": p.client, "tenant": p.tenant, "tier": p.tier, "key_id": p.key_id, "scopes": ",".join(p.scopes)}
    return {name: value for name, value in found.items() if value}


def metadata(message: Any, decision: Decision) -> None:
    known = {name: value for name, value in identity(decision).items() if name != "scopes"}
    known |= {"decision_id": decision.id, "model": decision.model, "api": decision.api, "hold": decision.hold}
    fields = message.dynamic_metadata.fields
    ours = fields["slm"].struct_value.fields
    for name, value in known.items():
        if value or name == "decision_id":
            ours[name].string_value = value
    for name, size, unit in decision.limits:
        fields[name].struct_value.fields["requests_per_unit"].number_value = size
        fields[name].struct_value.fields["unit"].string_value = unit


def reference_allow(decision: Decision) -> Any:
    """An allow as protobuf builds it, after the product contract alone."""
    message = external_auth_pb2.CheckResponse()
    message.status.code = 0
    message.status.SetInParent()
    ok = message.ok_response
    set_: dict[str, str] = {NAMES[name]: value for name, value in identity(decision).items()}
    if decision.model:
        set_["x-slm-model"] = decision.model
    set_["x-slm-decision-id"] = decision.id
    for name, value in set_.items():
        option(ok.headers, name, value)
    removed = [*NAMES.values(), "x-slm-model", "x-ai-eg-model", "accept-encoding", *(name.lower() for name in decision.strip_headers)]
    ok.headers_to_remove.extend(dict.fromkeys(name for name in removed if name not in set_))
    ok.query_parameters_to_remove.extend(decision.strip_query)
    option(ok.response_headers_to_add, "x-slm-decision-id", decision.id)
    for name, value in decision.headers:
        option(ok.response_headers_to_add, name, value)
    metadata(message, decision)
    return message


def reference_deny(decision: Decision, denial: Denial) -> Any:
    message = external_auth_pb2.CheckResponse()
    message.status.code = grpc_code(denial.http_status)
    denied = message.denied_response
    denied.status.code = denial.http_status
    option(denied.headers, "x-slm-decision-id", decision.id)
    option(denied.headers, "content-type", "application/json")
    if denial.http_status == 401:
        error = "" if denial.reason is Reason.NO_CREDENTIAL else ', error="invalid_token"'
        option(denied.headers, "www-authenticate", f'Bearer realm="slm-authz"{error}')
    if denial.retry_after is not None:
        option(denied.headers, "retry-after", str(denial.retry_after))
    if not denial.should_retry:
        option(denied.headers, "x-should-retry", "false")
    for name, value in denial.headers:
        option(denied.headers, name, value)
    denied.body = refusal_body(decision.dialect, denial).decode()
    metadata(message, decision)
    return message


def same(ours: bytes, reference: Any) -> bool:
    """Equal but for the order of headers and removals, which carries no meaning: names are unique."""
    left = parse(ours)
    for message in (left, reference):
        response = message.ok_response if message.HasField("ok_response") else message.denied_response
        response.headers.sort(key=lambda option: option.header.key)
        if message.HasField("ok_response"):
            removals = sorted(response.headers_to_remove)
            del response.headers_to_remove[:]
            response.headers_to_remove.extend(removals)
    return bool(left == reference)


visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
lengths = st.sampled_from(EDGES)
values = st.one_of(visible, lengths.map(lambda size: "v" * size))
some = st.one_of(st.none(), values)
names = st.sampled_from(["x-ratelimit-limit-requests", "ratelimit", "retry-after", "n" * 127, "n" * 128])
strips = st.lists(
    st.sampled_from(["authorization", "x-api-key", "x-slm-client", "X-SLM-Model", "x_slm_tier", "x-slm-scopes", "cookie"]), max_size=4
)

principals = st.builds(
    Principal,
    method=st.just("api_key"),
    client=values.filter(bool),
    tier=values.filter(bool),
    tenant=some,
    key_id=some,
    scopes=st.lists(visible, max_size=3).map(tuple),
)
decisions = st.builds(
    Decision,
    id=values,
    principal=st.one_of(st.none(), principals),
    model=values,
    api=values,
    hold=values,
    headers=st.lists(st.tuples(names, values), max_size=8).map(tuple),
    strip_headers=strips.map(tuple),
    strip_query=st.lists(values, max_size=2).map(tuple),
    dialect=st.sampled_from(["openai", "anthropic", "ollama"]),
    limits=st.lists(
        st.tuples(st.sampled_from(["request_limit", "token_limit"]), st.integers(1, 2**53), visible), max_size=2, unique_by=lambda x: x[0]
    ).map(tuple),
)


@settings(max_examples=150)
@given(decisions)
def test_an_allow_is_what_protobuf_would_have_written(decision: Decision) -> None:
    reference = reference_allow(decision)
    assert same(encode(decision), reference)
    assert same(encode(decision), reference), "and so is the one made from what is remembered"


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("where", ["id", "hold", "model", "client", "header"])
def test_lengths_around_every_varint_boundary(where: str, size: int) -> None:
    value = "v" * size
    principal = Principal("api_key", value or "c" if where == "client" else "acme", "free")
    decision = Decision(ID, None, principal, "m", "openai.chat", "hold")
    if where == "header":
        decision.headers = (("x-ratelimit-limit-requests", value), ("ratelimit", "1"))
    elif where != "client":
        setattr(decision, where, value)
    assert same(encode(decision), reference_allow(decision))


@settings(max_examples=100)
@given(
    decisions,
    st.builds(
        Denial,
        reason=st.sampled_from([reason for reason in Reason if reason is not Reason.OK]),
        message=st.text(max_size=300),
        status=st.one_of(st.none(), st.sampled_from([400, 404, 418, 451])),
        retry_after=st.one_of(st.none(), st.integers(0, 10**7)),
        should_retry=st.booleans(),
        headers=st.lists(st.tuples(names, values), max_size=3).map(tuple),
    ),
)
def test_a_refusal_is_what_protobuf_would_have_written_and_never_an_allow(decision: Decision, denial: Denial) -> None:
    try:
        refusal_body(decision.dialect, denial)
    except UnicodeEncodeError:  # a lone surrogate: the pump answers with the last resort
        return
    decision.denial = denial
    payload = encode(decision)
    assert same(payload, reference_deny(decision, denial))
    assert parse(payload).status.code != 0


def test_pieces_remembered_of_a_caller_do_not_leak_into_another_call() -> None:
    principal = Principal("api_key", "acme", "free", key_id="k")
    for model, api, strip in (("m", "a", ()), ("n", "a", ("x-slm-evil",)), ("", "", ("authorization",)), ("m", "b", ()), ("m", "a", ())):
        decision = Decision(ID, None, principal, model, api, "h", strip_headers=strip)
        assert same(encode(decision), reference_allow(decision))


def test_an_allow_to_the_letter() -> None:
    principal = Principal("api_key", "acme", "free", key_id="0123456789AB", scopes=("read", "write"))
    decision = Decision(
        ID, None, principal, "phi", "openai.chat", "h", (("ratelimit", "x"),), ("authorization", "x-slm-client", "x_slm_a"), ("key",)
    )
    message = parse(encode(decision))
    ok = message.ok_response
    assert message.status.code == 0
    assert {o.header.key: o.header.value for o in ok.headers} == {
        "x-slm-client": "acme",
        "x-slm-tier": "free",
        "x-slm-key-id": "0123456789AB",
        "x-slm-scopes": "read,write",
        "x-slm-model": "phi",
        "x-slm-decision-id": ID,
    }
    assert sorted(ok.headers_to_remove) == ["accept-encoding", "authorization", "x-ai-eg-model", "x-slm-tenant", "x_slm_a"]
    assert list(ok.query_parameters_to_remove) == ["key"]
    assert {o.header.key: o.header.value for o in ok.response_headers_to_add} == {"x-slm-decision-id": ID, "ratelimit": "x"}
    for added in (*ok.headers, *ok.response_headers_to_add):
        assert added.HasField("append")
        assert added.append.value is False
        assert added.append_action == base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    ours = message.dynamic_metadata.fields["slm"].struct_value.fields
    assert {name: value.string_value for name, value in ours.items()} == {
        "decision_id": ID,
        "client": "acme",
        "tier": "free",
        "key_id": "0123456789AB",
        "model": "phi",
        "api": "openai.chat",
        "hold": "h",
    }
    assert set(message.dynamic_metadata.fields) == {"slm"}, "no opinion about limits is no member, never 0"


def test_a_body_of_our_own_is_a_denied_response_that_envoy_serves() -> None:
    message = parse(encode(Decision(ID, None, Principal("api_key", "acme", "free"), reply=b'{"data":[]}')))
    assert message.status.code == 7
    assert message.denied_response.status.code == 200
    assert message.denied_response.body == '{"data":[]}'
    assert {o.header.key for o in message.denied_response.headers} == {"x-slm-decision-id", "content-type"}


@pytest.mark.parametrize("bad", ["a\r\nx: y", "a\nb", "a\0b", "a\x7f", "é", "a\tb", "\u2028", "\ud800"])
@pytest.mark.parametrize("where", ["id", "model", "client", "header", "denied"])
def test_what_could_be_an_injection_is_never_written(bad: str, where: str) -> None:
    decision = Decision(ID, None, Principal("api_key", bad if where == "client" else "acme", "free"), "m")
    if where in ("id", "model"):
        setattr(decision, where, bad)
    elif where == "header":
        decision.headers = (("a", "fine"), ("b", bad), ("c", "fine"))
    elif where == "denied":
        decision.denial = Denial(Reason.RATE_LIMITED, "no", headers=(("b", bad),))
    with pytest.raises((UnsafeHeaderError, UnicodeEncodeError)):
        encode(decision)


def test_the_last_resort_is_a_refusal() -> None:
    message = parse(LAST_RESORT)
    assert (message.status.code, message.denied_response.status.code) == (14, 503)
    assert json.loads(message.denied_response.body)["error"]["code"] == "internal"


@pytest.mark.parametrize(("status", "code"), [(400, 3), (401, 16), (403, 7), (413, 3), (429, 8), (503, 14), (404, 7), (418, 7), (500, 14)])
def test_the_table_of_codes(status: int, code: int) -> None:
    assert grpc_code(status) == code


def test_no_reason_maps_to_the_code_that_envoy_reads_as_allow() -> None:
    assert all(grpc_code(status) != 0 for status in (*STATUS.values(), *range(600)))


def test_the_reference_is_not_vacuous() -> None:
    decision = Decision(ID, None, None, "m")
    other = reference_allow(Decision(ID, None, None, "n"))
    assert not same(encode(decision), other)
    assert struct_pb2.Struct() != parse(encode(decision)).dynamic_metadata
