"""One reading for every reader: duplicates in all spellings, depth, size, and what RFC 8259 leaves open."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from slm_authz.llm.strict import BROKEN, MAX_VALUES, NO_OBJECT, TOO_DEEP, TOO_MANY, TWICE, decode
from slm_authz.reason import Denial

MIB = 1 << 20


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","model":"a"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"mod\\u0065l":"a","model":"b"}',
        b'{"\\u006d\\u006f\\u0064\\u0065\\u006c":"a","model":"b"}',
        b'{"\\u006dodel":"a","\\u006Dodel":"b"}',
        b'{"model":"a" , "model" : "b"}',
        b'{"model":null,"model":"b"}',
        b'{"temperature":1,"temperature":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1},{"c":[{"d":0,"d":0}]}]}',
        b'{"messages":[{"role":"user","content":"short","content":"long"}]}',
        b'{"":0,"":0}',
        b'{"x/y":1,"x\\/y":2}',
        b'{"a\\"b":1,"a\\u0022b":2}',
        b'{"\\ud83d\\ude00":1,"\xf0\x9f\x98\x80":2}',
        # strings that hide as many quotes as a duplicate adds
        b'{"model":"a","x":["\\\\","\\\\","\\\\","\\\\"],"model":"b"}',
        b'{"model":"a","x":["\\"\\"\\"\\""],"model":"b"}',
        b'{"model":"a","x":["\\u0022\\u0022\\u0022\\u0022"],"model":"b"}',
        b'{"model":"a","x":["\\\\\\"","\\\\\\\\"],"model":"b"}',
    ],
)
def test_the_same_member_twice(body: bytes) -> None:
    json.loads(body)
    assert decode(body) is TWICE


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b' {"model" : "a"}\r\n\t',
        b'{"mod\\u0065l":"a"}',
        b'{"model":"model"}',
        b'{"a":"\\"model\\":1","model":"m"}',
        b'{"a":{"model":1},"model":"m"}',
        b'{"a":[{"b":1},{"b":1}],"b":{"a":{"a":{}}}}',
        b'{"a":"\\\\","b":"\\\\\\"","c":"\\\\\\\\","d":"\\\\\\\\\\""}',
        b'{"a":"C:\\\\path\\\\\\"x\\"\\\\"}',
        b'{"a":"\\u0022\\u005c"}',
        b'{"a":"\\u005c\\"b"}',
        b'{"a":"\xe2\x80\x9c\xf0\x9f\x98\x80"}',
        b'{"a":[0,-0,-1,1.5,1e5,1E-5,true,false,null,"",[],{}]}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":123456789012345678901234567890}',
        b'{"A":1,"a":2}',
    ],
)
def test_one_reading(body: bytes) -> None:
    assert decode(body) == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"}", b"{}{}", b"{} x", b'{"a":1,}', b'{"a"}', b"{'a':1}", b"{a:1}", b'{"a":1 "b":2}', b'{"a":01}', b'{"a":1.}',
        b'{"a":.5}', b'{"a":+1}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":nan}', b'{"a":1e400}', b'{"a":-1e400}',
        b'{"a":"\n"}', b'{"a":"\t"}', b'{"a":"\x00"}', b'{"a":"\x1f"}', b'{"a":"\\x41"}', b'{"a":"\\u12"}', b'{"a":"\\ud800"}',
        b'{"a":"\\udc00\\ud800"}', b'{"\\ud800":1}', b'{"a":"\xff"}', b'{"a":"\xc0\xaf"}', b'{"a":"\xed\xa0\x80"}', b'{"\xff":1}',
        b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"{\x00}\x00", b'{"a":1}\x00', b"/**/{}", b'{"a":1}//', b"\x0c{}", b"\xc2\xa0{}",
        b'{"a":tru}', b'{"a":"b}', b'{"a":"\\"}', b"<a/>", b"a=b", b'{"a":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_json(body: bytes) -> None:
    assert decode(body) is BROKEN


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null", b"true", b'[{"model":"a"}]'])
def test_the_top_level_is_an_object(body: bytes) -> None:
    assert decode(body) is NO_OBJECT


def lists(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def objects(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


@pytest.mark.parametrize("nest", [lists, objects])
def test_nesting(nest: Any) -> None:
    assert isinstance(decode(nest(64)), dict)
    assert decode(nest(65)) is TOO_DEEP
    assert decode(nest(900)) is TOO_DEEP
    assert decode(nest(90_000)) is TOO_DEEP


def test_many_containers_side_by_side_are_not_deep() -> None:
    assert isinstance(decode(b'{"a":[' + b"[],{}," * 500 + b"0]}"), dict)


def test_nesting_in_text_is_text() -> None:
    assert isinstance(decode(b'{"a":"' + b"[" * 3 * MIB + b'"}'), dict)


@pytest.mark.parametrize("element", [b"1", b"1.5", b"true", b'"x"', b"[]", b"{}"])
def test_too_many_values(element: bytes) -> None:
    most = MAX_VALUES // (2 if element in (b"[]", b"{}") else 1) - 10
    assert isinstance(decode(b'{"a":[' + (element + b",") * most + element + b"]}"), dict)
    assert decode(b'{"a":[' + (element + b",") * MAX_VALUES + element + b"]}") is TOO_MANY


def test_commas_in_text_are_no_values() -> None:
    assert isinstance(decode(b'{"a":"' + b"," * 3 * MIB + b'"}'), dict)


FILLERS = {
    "text": b"abcdefg ",
    "quotes": b'\\"',
    "backslashes": b"\\\\",
    "escapes": b"\\u00e9",
    "brackets": b"[{",
    "strings": b'","',
    "bracket strings": b'{","',
    "ints": b'",1,"',
    "lists": b'",[],"',
    "deep": b'",' + b"[" * 60 + b"]" * 60 + b',"',
    "objects": b'",{"":0},"',
    "floats": b'",1.1234567890123456789e-300,"',
    "broken": b'"",',
    "unclosed": b'",[[[["',
}


@pytest.mark.parametrize("name", FILLERS)
def test_four_mebibytes_of_anything_take_bounded_time(name: str) -> None:
    filler = FILLERS[name]
    body = b'{"a":["' + filler * ((4 * MIB - 20) // len(filler)) + b'"]}'
    begun = time.process_time()
    answer = decode(body)
    assert time.process_time() - begun < 5  # a tenth of it is usual; quadratic behaviour would be minutes
    assert isinstance(answer, (dict, Denial))
    begun = time.process_time()
    assert isinstance(decode(body[:-3]), Denial)
    assert time.process_time() - begun < 5


def test_large_bodies_are_held_to_the_same_rules() -> None:
    pad = b'{"pad":"' + b"x" * 70_000 + b'",'
    assert decode(pad + b'"a":1,"a":1}') is TWICE
    assert decode(pad + b'"a":1e400}') is BROKEN
    assert decode(pad + b'"a":NaN}') is BROKEN
    document = decode(pad + b'"a":1.5,"b":1,"c":1e2}')
    assert isinstance(document, dict)
    assert [type(document[name]) for name in "abc"] == [float, int, float]
