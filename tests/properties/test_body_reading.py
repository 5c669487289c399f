"""Our reading of a body is never looser than a strict JSON reader's: fuzzed against Python's own, which tells of every member."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slm_authz.llm.ask import Ask
from slm_authz.llm.openai import read_chat, read_completions, read_embeddings
from slm_authz.llm.strict import MAX_DEPTH, TWICE, decode
from slm_authz.reason import Denial, Reason


class Loose(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise Loose("twice")
    return dict(pairs)


def _no_constant(_: str) -> None:
    raise Loose("constant")


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def oracle(body: bytes) -> dict[str, Any] | None:
    """What Python's reader and msgspec's both accept, with every member once."""
    try:
        msgspec.json.decode(body)
        value = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _depth(value) <= MAX_DEPTH else None


def spelled(text: str, choices: st.DataObject) -> str:
    """A JSON string in one of its many spellings."""
    out = []
    for char in text:
        plain = json.dumps(char, ensure_ascii=False)[1:-1]
        escaped = json.dumps(char)[1:-1] if ord(char) > 0x7E else f"\\u{ord(char):04x}"
        out.append(escaped if choices.draw(st.integers(0, 9)) == 0 else plain)
    return '"' + "".join(out) + '"'


NAMES = st.sampled_from(["model", "messages", "content", "role", "text", "n", "x", '"', "\\", "é", ""])
TEXTS = st.text(st.sampled_from('ab"\\/{}[]:,é😀\n\x00 u0022'), max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
PAIRS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(NAMES, inner), max_size=4).map(tuple),
    max_leaves=12,
)


def written(value: Any, choices: st.DataObject) -> str:
    """JSON of a value in which an object is a tuple of pairs, so that names may come twice."""
    if isinstance(value, tuple):
        return "{" + " , ".join(f"{spelled(name, choices)}:{written(item, choices)}" for name, item in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(item, choices) for item in value) + "]"
    return spelled(value, choices) if isinstance(value, str) else json.dumps(value)


@settings(max_examples=300)
@given(members=st.lists(st.tuples(NAMES, PAIRS), max_size=5), choices=st.data())
def test_a_document_is_accepted_exactly_if_every_member_is_there_once(members: list[tuple[str, Any]], choices: st.DataObject) -> None:
    body = written(tuple(members), choices).encode()
    expected = oracle(body)
    if expected is None:
        assert decode(body) is TWICE
    else:
        assert decode(body) == expected


SEEDS = [
    b'{"model":"m","messages":[{"role":"user","content":"a \\"b\\" \\\\ \\u00e9"}],"stream":true,"max_tokens":5}',
    b'{"model":"m","prompt":["a",[1,2]],"suffix":"x","n":2,"temperature":0.5}',
    b'{"model":"m","input":[[1,2],[3]],"dimensions":null}',
]


@settings(max_examples=400)
@given(
    seed=st.sampled_from(SEEDS),
    cuts=st.lists(
        st.tuples(
            st.integers(0, 120),
            st.integers(0, 6),
            st.sampled_from([b"", b'"', b"\\", b",", b"{", b"[", b'"model":1,', b"\xff", b"1", b"u"]),
        ),
        max_size=4,
    ),
)
@example(seed=b'{"model":"a","x":["\\\\","\\\\","\\\\","\\\\"],"model":"b"}', cuts=[])
def test_broken_bodies_are_never_accepted(seed: bytes, cuts: list[tuple[int, int, bytes]]) -> None:
    body = seed
    for at, length, put in cuts:
        body = body[:at] + put + body[at + length :]
    document = decode(body)
    expected = oracle(body)
    if isinstance(document, Denial):
        assert expected is None
        assert document.reason in (Reason.MALFORMED_REQUEST, Reason.AMBIGUOUS_REQUEST)
    else:
        assert document == expected
    for read in (read_chat, read_completions, read_embeddings):
        answer = read(body)
        if isinstance(answer, Ask):
            assert expected is not None
            assert answer.model == expected["model"]
            assert answer.stream is (answer.generates and expected.get("stream") is True)


@settings(max_examples=200)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_answered(body: bytes) -> None:
    document = decode(body)
    assert isinstance(document, Denial) or document == oracle(body)


VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6)
MEMBERS = st.sampled_from(
    ["model", "messages", "prompt", "input", "suffix", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "tools",
     "background", "chat_template_kwargs", "response_format", "reasoning_effort", "Model", "unheard_of"]
)  # fmt: skip


@settings(max_examples=300)
@given(members=st.dictionaries(MEMBERS, VALUES, max_size=6))
def test_no_shape_of_a_member_is_an_exception(members: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x"} | members).encode()
    for read in (read_chat, read_completions, read_embeddings):
        answer = read(body)
        if isinstance(answer, Ask):
            assert 1 <= answer.choices <= 128
            assert answer.cap is None or (type(answer.cap) is int and answer.cap > 0)
            assert answer.prompts
            assert all(prompt.text_bytes >= 0 and prompt.tokens >= 0 and prompt.images >= 0 for prompt in answer.prompts)
        else:
            assert answer.http_status == 400


PARTS = st.lists(TEXTS.map(lambda text: {"type": "text", "text": text}), max_size=3)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "wizard"]), "content": TEXTS | st.none() | PARTS},
        optional={"name": TEXTS, "tool_calls": st.none() | st.just([1])},
    ),
    min_size=1,
    max_size=12,
)


def _texts(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    return sum(map(_texts, (part["text"] for part in value))) if isinstance(value, list) else 0


@settings(max_examples=200)
@given(messages=MESSAGES)
def test_no_byte_of_text_is_free(messages: list[dict[str, Any]]) -> None:
    answer = read_chat(json.dumps({"model": "m", "messages": messages}, ensure_ascii=False).encode())
    assert isinstance(answer, Ask)
    (prompt,) = answer.prompts
    assert prompt.text_bytes >= sum(_texts(message["content"]) + _texts(message.get("name")) for message in messages)
    assert prompt.opaque is any(message["role"] == "wizard" or message.get("tool_calls") is not None for message in messages)
