"""What OpenAI's requests ask for: tables of bodies and the asks, or the refusals, that they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slm_authz.llm.ask import Ask, Prompt
from slm_authz.llm.dialects import ROUTES
from slm_authz.llm.openai import read_chat, read_completions, read_embeddings
from slm_authz.reason import Denial, Reason

HELLO = [{"role": "user", "content": "hello"}]


def chat(**members: Any) -> Ask | Denial:
    return read_chat(json.dumps({"model": "m", "messages": HELLO} | members).encode())


def completion(**members: Any) -> Ask | Denial:
    return read_completions(json.dumps({"model": "m"} | members).encode())


def embedding(**members: Any) -> Ask | Denial:
    return read_embeddings(json.dumps({"model": "m", "input": "hello"} | members).encode())


def prompt_of(answer: Ask | Denial) -> Prompt:
    assert isinstance(answer, Ask), answer
    (prompt,) = answer.prompts
    return prompt


def refused(answer: Ask | Denial, param: str | None, reason: Reason = Reason.MALFORMED_REQUEST) -> None:
    assert isinstance(answer, Denial), answer
    assert (answer.reason, answer.param, answer.http_status) == (reason, param, 400)


def test_the_plainest_chat() -> None:
    assert chat() == Ask("openai.chat", "m", prompts=(Prompt(5),))


def test_every_route_reads() -> None:
    bodies: dict[str, dict[str, Any]] = {
        "openai.chat": {"messages": HELLO},
        "openai.completions": {"prompt": "x"},
        "openai.embeddings": {"input": "x"},
    }
    for route in ROUTES.values():
        if route.read is not None:
            answer = route.read(json.dumps({"model": "m"} | bodies[route.api]).encode())
            assert isinstance(answer, Ask)
            assert answer.api == route.api


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([{"role": "user", "content": ""}], Prompt(0)),
        ([{"role": "system", "content": "ab"}, {"role": "user", "content": "cde"}], Prompt(5)),
        ([{"role": "user", "content": "é😀"}], Prompt(6)),
        ([{"role": "user", "content": None}], Prompt(0)),
        ([{"role": "user"}], Prompt(0)),
        ([{"role": "user", "content": "ab", "name": "bob"}], Prompt(5)),
        ([{"role": "user", "content": "ab", "name": 1}], Prompt(2, opaque=True)),
        ([{"role": "user", "content": []}], Prompt(0)),
        ([{"role": "user", "content": [{"type": "text", "text": "abc"}]}], Prompt(3)),
        ([{"role": "user", "content": [{"type": "text", "text": "abc"}, {"type": "text", "text": "é"}]}], Prompt(6)),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}], Prompt(0, images=1)),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}, "text": "x"}]}], Prompt(0, opaque=True)),
        ([{"role": "user", "content": [{"type": "text", "text": "x", "image_url": {}}]}], Prompt(0, opaque=True)),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], Prompt(0, opaque=True)),
        ([{"role": "user", "content": [{"type": "file", "file": {}}]}], Prompt(0, opaque=True)),
        ([{"role": "user", "content": [{"text": "x"}]}], Prompt(0, opaque=True)),
        ([{"role": "user", "content": [{"type": ["text"]}]}], Prompt(0, opaque=True)),
        # the SDKs send back what they got: nulls hold nothing
        ([{"role": "assistant", "content": "ab", "refusal": None, "annotations": [], "tool_calls": None, "audio": None}], Prompt(2)),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], Prompt(0, opaque=True)),
        ([{"role": "tool", "content": "ab", "tool_call_id": "1"}], Prompt(2, opaque=True)),
        ([{"role": "assistant", "content": "ab", "reasoning_content": "cd"}], Prompt(2, opaque=True)),
        # a template writes the role, too
        ([{"role": "x" * 1000, "content": "ab"}], Prompt(2, opaque=True)),
        ([{"role": ["user"], "content": "ab"}], Prompt(2, opaque=True)),
        ([{"content": "ab"}], Prompt(2, opaque=True)),
        # eight messages are covered by the template's tokens, others are not free
        ([{"role": "user", "content": ""}] * 8, Prompt(0)),
        ([{"role": "user", "content": ""}] * 9, Prompt(8)),
        ([{"role": "user", "content": "a"}] * 108, Prompt(908)),
        ([{"role": "user", "content": [{"type": "text", "text": ""}] * 1001}], Prompt(1000)),
    ],
)
def test_the_text_of_messages(messages: list[Any], prompt: Prompt) -> None:
    found = prompt_of(chat(messages=messages))
    if prompt.opaque:
        assert found.opaque
    else:
        assert found == prompt


@pytest.mark.parametrize(
    "messages",
    [
        None, [], {}, "hello", 1, [1], [None], ["hello"], [[]], [{"role": "user", "content": 1}], [{"role": "user", "content": {}}],
        [{"role": "user", "content": ["hello"]}], [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 1}]}], [{"role": "user", "content": True}],
    ],
)  # fmt: skip
def test_messages_of_another_shape(messages: Any) -> None:
    refused(chat(messages=messages), "messages")


def test_no_messages() -> None:
    refused(read_chat(b'{"model":"m"}'), "messages")


@pytest.mark.parametrize("model", [None, "", 1, True, ["m"], {"name": "m"}])
def test_a_model_is_named(model: Any) -> None:
    refused(chat(model=model), "model")
    refused(completion(model=model, prompt="x"), "model")
    refused(embedding(model=model), "model")


@pytest.mark.parametrize(("stream", "asked"), [(True, True), (False, False), (None, False)])
def test_stream(stream: Any, asked: bool) -> None:
    answer = chat(stream=stream)
    assert isinstance(answer, Ask)
    assert answer.stream is asked


@pytest.mark.parametrize("stream", [1, 0, "true", "", [], {}, 1.0])
def test_stream_is_a_boolean(stream: Any) -> None:
    refused(chat(stream=stream), "stream")


@pytest.mark.parametrize(
    ("members", "cap"),
    [
        ({}, None),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9),
        ({"max_tokens": None, "max_completion_tokens": 7}, 7),
        ({"max_tokens": None}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": -1, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 0, "max_completion_tokens": 0}, None),
        ({"max_tokens": 10**30}, 10**30),
        ({"min_tokens": 50, "ignore_eos": True, "max_tokens": 7}, 7),
    ],
)
def test_the_largest_cap_that_is_named(members: dict[str, Any], cap: int | None) -> None:
    for answer in (chat(**members), completion(prompt="x", **members)):
        assert isinstance(answer, Ask)
        assert answer.cap == cap


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("literal", [b"1.0", b"1e2", b"1E2", b"true", b"false", b'"7"', b'""', b"[7]", b"{}", b"0.0", b"-0.0", b"1e-1"])
def test_a_cap_is_a_plain_integer(name: str, literal: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"%s":%s}' % (name.encode(), literal)
    refused(read_chat(body), name)


@pytest.mark.parametrize("name", ["n", "best_of"])
def test_choices(name: str) -> None:
    for value, choices in ((1, 1), (2, 2), (128, 128), (None, 1)):
        answer = completion(prompt="x", **{name: value})
        assert isinstance(answer, Ask)
        assert answer.choices == choices
    wrong: list[Any] = [0, -1, 129, 10**20, 1.0, True, "2", [2]]
    for value in wrong:
        refused(completion(prompt="x", **{name: value}), name)
    both = completion(prompt="x", n=2, best_of=5)
    assert isinstance(both, Ask)
    assert both.choices == 5


@pytest.mark.parametrize("options", [True, "x", [], 1, {"include_usage": 1}, {"include_usage": "true"}, {"include_usage": None}])
def test_stream_options_of_another_shape(options: Any) -> None:
    refused(chat(stream=True, stream_options=options), "stream_options")


@pytest.mark.parametrize("options", [None, {}, {"include_usage": True}, {"include_usage": False, "continuous_usage_stats": True}])
def test_stream_options(options: Any) -> None:
    assert isinstance(chat(stream=True, stream_options=options), Ask)


HARMLESS: dict[str, Any] = {
    "temperature": 0.7, "top_p": 1, "top_k": 40, "min_p": 0.1, "stop": ["a", "b"], "user": "u", "seed": 1, "logprobs": True,
    "top_logprobs": 2, "metadata": {"a": "b"}, "logit_bias": {"50256": -100}, "presence_penalty": 0, "frequency_penalty": 0.0,
    "store": False, "service_tier": "auto", "priority": 1, "min_tokens": 1, "ignore_eos": True, "truncate_prompt_tokens": 10,
    "add_generation_prompt": True, "prompt_logprobs": 1, "parallel_tool_calls": True, "reasoning_effort": "low",
    "response_format": {"type": "json_object"}, "chat_template_kwargs": {"enable_thinking": False}, "background": False,
    "safety_identifier": "x", "tools": None, "functions": [], "documents": None,
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_leaves_the_prompt_alone(name: str) -> None:
    assert prompt_of(chat(**{name: HARMLESS[name]})) == Prompt(5)


def test_what_leaves_the_prompt_alone_together() -> None:
    assert prompt_of(chat(**HARMLESS)) == Prompt(5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("functions", [{"name": "f"}]),
        ("documents", [{"text": "x"}]),
        ("files", ["x"]),
        ("audio", {"voice": "x"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("response_format", {"type": "text", "schema": {}}),
        ("guided_json", {"type": "object"}),
        ("structured_outputs", {"json": {}}),
        ("extra_body", {"x": 1}),
        ("web_search", True),
        ("prompt", "another prompt"),
        ("input", "another input"),
        ("previous_response_id", "x"),
        ("reasoning_effort", "x" * 1000),
        ("verbosity", {"x": 1}),
        ("chat_template_kwargs", {"system": "x" * 1000}),
        ("chat_template_kwargs", {"n": 1}),
        ("prediction", {"type": "content", "content": "x"}),
        ("", "x"),
        ("mm_processor_kwargs", {"x": 1}),
        ("unheard_of", 0),
    ],
)
def test_what_we_cannot_bound_is_opaque(name: str, value: Any) -> None:
    assert prompt_of(chat(**{name: value})).opaque


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chat_template", "{{ x }}"),
        ("chat_template", ""),
        ("chat_template", False),
        ("chat_template_kwargs", {"chat_template": "x"}),
        ("chat_template_kwargs", {"chat_template": None}),
        ("chat_template_kwargs", {"Chat_Template": "x"}),
        ("chat_template_kwargs", "x"),
        ("chat_template_kwargs", []),
        ("background", True),
        ("background", "false"),
        ("background", 0),
        ("n_predict", -1),
        ("num_predict", 100),
        ("max_new_tokens", 100),
        ("max_output_tokens", 100),
        ("models", ["m", "larger"]),
        ("fallbacks", [{"model": "larger"}]),
    ],
)
def test_what_changes_the_call_behind_our_back_is_refused(name: str, value: Any) -> None:
    refused(chat(**{name: value}), name)
    refused(completion(prompt="x", **{name: value}), name)
    refused(embedding(**{name: value}), name)


@pytest.mark.parametrize("name", ["chat_template", "chat_template_kwargs", "background", "models"])
def test_null_is_absent(name: str) -> None:
    assert isinstance(chat(**{name: None}), Ask)


@pytest.mark.parametrize(
    ("name", "proper"),
    [
        ("Model", "model"),
        ("MODEL", "model"),
        ("mo_del", "model"),
        ("ſtream", "stream"),
        ("STREAM", "stream"),
        ("maxTokens", "max_tokens"),
        ("Max_Tokens", "max_tokens"),
        ("max-tokens", "max_tokens"),
        ("maxCompletionToKens", "max_completion_tokens"),
        ("N", "n"),
        ("Messages", "messages"),
        ("bestOf", "best_of"),
        ("chatTemplate", "chat_template"),
        ("Background", "background"),
    ],
)
def test_a_look_alike_is_the_same_member_for_some_servers(name: str, proper: str) -> None:
    refused(chat(**{name: 1}), proper, Reason.AMBIGUOUS_REQUEST)


@pytest.mark.parametrize(
    ("members", "prompts"),
    [
        ({}, (Prompt(0),)),
        ({"prompt": None}, (Prompt(0),)),
        ({"prompt": ""}, (Prompt(0),)),
        ({"prompt": "é"}, (Prompt(2),)),
        ({"prompt": ["ab", "c"]}, (Prompt(2), Prompt(1))),
        ({"prompt": [1, 2, 3]}, (Prompt(0, 3),)),
        ({"prompt": [[1, 2], [3]]}, (Prompt(0, 2), Prompt(0, 1))),
        ({"prompt": ["ab", [1, 2]]}, (Prompt(2), Prompt(0, 2))),
        ({"prompt": "ab", "suffix": "cde"}, (Prompt(5),)),
        ({"prompt": ["ab", [1]], "suffix": "cde"}, (Prompt(5), Prompt(3, 1))),
        ({"prompt": [1], "suffix": "cde"}, (Prompt(3, 1),)),
        ({"prompt": "ab", "suffix": None}, (Prompt(2),)),
        ({"prompt": "ab", "echo": True, "logprobs": 1, "max_tokens": 0}, (Prompt(2),)),
        ({"prompt": ["x"] * 2048}, (Prompt(1),) * 2048),
        ({"prompt": list(range(10_000))}, (Prompt(0, 10_000),)),
    ],
)
def test_prompts_of_completions(members: dict[str, Any], prompts: tuple[Prompt, ...]) -> None:
    answer = completion(**members)
    assert isinstance(answer, Ask)
    assert answer.prompts == prompts


def test_a_completion_with_messages_is_opaque() -> None:
    assert prompt_of(completion(prompt="x", messages=HELLO)).opaque
    assert prompt_of(completion(prompt_embeds="AAAA")).opaque


BAD_PROMPTS: list[Any] = [[], {}, 1, True, [None], [1, "a"], [True], [1.0], [-1], [[]], [[1], []], [["a"]], [{}], ["x"] * 2049]


@pytest.mark.parametrize("prompt", BAD_PROMPTS)
def test_prompts_of_another_shape(prompt: Any) -> None:
    refused(completion(prompt=prompt), "prompt")
    refused(embedding(input=prompt), "input")


def test_an_embedding_needs_an_input() -> None:
    refused(embedding(input=None), "input")
    refused(completion(prompt="x", suffix=1), "suffix")


def test_embeddings_generate_nothing() -> None:
    answer = embedding(input=["ab", "c"], max_tokens=100, n=5, stream=True, encoding_format="float", dimensions=64)
    assert answer == Ask("openai.embeddings", "m", prompts=(Prompt(2), Prompt(1)), generates=False)
    assert prompt_of(embedding(messages=HELLO)).opaque


def test_no_refusal_shows_what_was_sent() -> None:
    secret = "hunter2-secret"
    for name in ("model", "messages", "stream", "max_tokens", "n", "stream_options", "background", "chat_template", "chat_template_kwargs"):
        answer = chat(**{name: [secret]})
        assert isinstance(answer, Denial)
        assert secret not in answer.message


# -- what may become text


LONG = "word " * 8000


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG, "x": 1}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_text", "text": LONG}]}]},
        {"messages": [{"role": LONG, "content": "a"}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": LONG}}]}]},
        {"tools": [{"type": "function", "function": {"name": LONG}}]},
        {"documents": [{"text": LONG}]},
    ],
)
def test_what_is_not_known_counts_as_if_it_were_text(changes: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}]} | changes).encode()
    prompt = prompt_of(read_chat(body))
    assert prompt.opaque
    assert prompt.text_bytes + prompt.other_bytes == len(body)


def test_images_are_counted_as_images_also_beside_what_is_not_known() -> None:
    url = "data:image/png;base64," + "A" * 100_000
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}], "tools": [{"name": "look"}]}).encode()
    prompt = prompt_of(read_chat(body))
    assert (prompt.images, prompt.opaque) == (1, True)
    assert prompt.other_bytes < 500


def test_what_is_not_known_may_stand_before_each_of_the_prompts() -> None:
    body = json.dumps({"model": "m", "prompt": ["a", "bc"], "preamble": LONG}).encode()
    found = read_completions(body)
    assert isinstance(found, Ask)
    first, second = found.prompts
    assert first.other_bytes == second.other_bytes == len(body) - 3


@pytest.mark.parametrize("member", ["n_cmpl", "num_return_sequences", "lora", "adapter_id"])
def test_what_multiplies_answers_or_changes_the_model_is_refused(member: str) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}], member: 2}).encode()
    assert isinstance(read_chat(body), Denial)


def test_a_cap_of_nothing_beside_another_is_remembered() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "max_completion_tokens": -1}).encode()
    ask = read_chat(body)
    assert isinstance(ask, Ask)
    assert (ask.cap, ask.open_cap) == (1, True)
