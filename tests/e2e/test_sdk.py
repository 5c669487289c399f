"""What the developer who calls the model with an SDK sees: nothing, except clear errors and honest headers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from tests.patience import eventually

pytestmark = pytest.mark.envoy

HELLO: Any = [{"role": "user", "content": "Tell me about keys."}]


def client_of(edge: Any, key: str, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{edge.url}/v1", api_key=key, **{"max_retries": 0, **more})


def test_a_whole_answer(edge: Any) -> None:
    with client_of(edge, edge.key("metered", "whole")) as client:
        raw = client.chat.completions.with_raw_response.create(model="phi4", messages=HELLO, max_tokens=12)
    answer = raw.parse()
    assert answer.choices[0].message.content
    assert answer.usage is not None
    decision = raw.headers["x-slm-decision-id"]
    assert eventually(lambda: bool(edge.events("whole")))
    (event,) = edge.events("whole")
    assert event["decision_id"] == decision
    assert (event["input_tokens"], event["output_tokens"]) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert (event["usage_source"], event["status"], event["outcome"], event["model"]) == ("upstream", 200, "allow", "phi-4-mini")


def test_a_streamed_answer(edge: Any) -> None:
    with client_of(edge, edge.key("metered", "streamed")) as client:
        stream = client.chat.completions.create(
            model="phi-4-mini", messages=HELLO, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
        usage = [chunk.usage for chunk in stream][-1]
    assert usage is not None
    assert eventually(lambda: bool(edge.events("streamed")))
    (event,) = edge.events("streamed")
    assert (event["input_tokens"], event["output_tokens"], event["usage_source"]) == (
        usage.prompt_tokens,
        usage.completion_tokens,
        "upstream",
    )


async def _async_calls(edge: Any, key: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=key, max_retries=0) as client:
        whole = await client.chat.completions.create(model="qwen3-1.7b", messages=HELLO, max_tokens=5)
        assert whole.usage is not None
        stream = await client.chat.completions.create(model="qwen3-1.7b", messages=HELLO, max_tokens=5, stream=True)
        assert [chunk async for chunk in stream]
        embedding = await client.embeddings.create(model="qwen3-1.7b", input=["one", "two"])
        assert len(embedding.data) == 2
        text = await client.completions.create(model="qwen3-1.7b", prompt="The key", max_tokens=5)
        assert text.choices[0].text


def test_the_async_sdk(edge: Any) -> None:
    import asyncio

    asyncio.run(_async_calls(edge, edge.key("metered", "async")))
    assert eventually(lambda: len(edge.events("async")) == 4)
    assert {event["api"] for event in edge.events("async")} == {"openai.chat", "openai.embeddings", "openai.completions"}


@pytest.mark.parametrize("key", ["", "sk-something", "slm_live_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV000000"])
def test_authentication_error(edge: Any, key: str) -> None:
    with client_of(edge, key or "x") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="phi-4-mini", messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
    assert caught.value.response.headers["x-slm-decision-id"]


def test_permission_denied_error(edge: Any) -> None:
    with client_of(edge, edge.key("free", "denied")) as client, pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model="qwen3-1.7b", messages=HELLO)
    assert caught.value.code == "model_not_allowed"
    assert "phi-4-mini" in caught.value.message


def test_rate_limit_error(edge: Any) -> None:
    with client_of(edge, edge.key("free", "limited")) as client:
        for _ in range(4):
            client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=2)
        assert eventually(lambda: edge.usage("limited")["requests"]["used"] == 4)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=2)
    headers = caught.value.response.headers
    assert int(headers["retry-after"]) > 0
    assert headers["x-should-retry"] == "false"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert caught.value.code == "quota_exceeded"


def test_the_sdk_retries_by_itself(edge: Any) -> None:
    """Two calls at once for a client that may run one: the second is told to wait, and its own retry succeeds."""
    key = edge.key("single", "retries")
    with client_of(edge, key, max_retries=10) as client, ThreadPoolExecutor(1) as pool:
        first = client.chat.completions.create(
            model="phi-4-mini", messages=HELLO, max_tokens=15, stream=True, extra_headers={"x-sample": "stall=1"}
        )
        second = pool.submit(client.chat.completions.create, model="phi-4-mini", messages=HELLO, max_tokens=2)
        refused = eventually(lambda: any(event["status"] == 429 for event in edge.events("retries")))
        first.close()
        assert second.result().usage is not None
    assert refused


def test_a_sequential_client_is_never_refused_at_one_slot(edge: Any) -> None:
    with client_of(edge, edge.key("single", "sequential")) as client:
        for _ in range(25):
            client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)


def test_the_models_that_the_caller_may_use(edge: Any) -> None:
    with client_of(edge, edge.key("free", "lister")) as client:
        assert [model.id for model in client.models.list()] == ["phi-4-mini"]


def test_no_credential_and_no_forged_header_reaches_the_upstream(edge: Any) -> None:
    key = edge.key("metered", "forger", "--scopes", "read,write")
    body = {"model": "phi-4-mini", "messages": HELLO, "max_tokens": 1, "user": "forger-marker"}
    forged = {"x-slm-client": "root", "X-SLM-Tier": "pro", "x-ai-eg-model": "qwen3-1.7b", "accept-encoding": "gzip"}
    for headers, query in (
        ({"authorization": f"Bearer {key}"}, ""),
        ({"x-api-key": key}, ""),
        ({"api-key": key}, ""),
        ({}, f"?a=1&key={key}"),
    ):
        answer = httpx2.post(
            f"{edge.url}/v1/chat/completions{query}", json=body, headers={**headers, **forged, "connection": "x-slm-client"}
        )
        assert answer.status_code == 200, answer.text

    def arrived() -> list[dict[str, Any]]:  # written down when its answer has left
        return [request for request in edge.requests() if ["x-slm-client", "forger"] in request["headers"]]

    assert eventually(lambda: len(arrived()) == 4)
    for request in edge.requests():
        if request["method"] == "GET":
            continue  # the stack's own probe, past the gateway
        names = {name.lower() for name, _ in request["headers"]}
        text = str(request)
        assert "slm_live_" not in text
        assert not names & {"authorization", "x-api-key", "api-key", "x-ai-eg-model", "accept-encoding"}
        assert ("x-slm-client", "root") not in [(name.lower(), value) for name, value in request["headers"]]
    for ours in [dict(request["headers"]) for request in arrived()]:
        assert ours["x-slm-tier"] == "metered"
        assert ours["x-slm-scopes"] == "read,write"
        assert ours["x-slm-model"] == "phi-4-mini"
        assert len(ours["x-slm-decision-id"]) == 32


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/metrics", 403, "path_not_allowed"),
        ("POST", "/v1/load_lora_adapter", 403, "path_not_allowed"),
        ("POST", "/v1/messages", 403, None),
        ("DELETE", "/v1/models", 403, "path_not_allowed"),
        ("POST", "/v1/chat/../load", 403, "path_not_allowed"),
    ],
)
def test_other_paths_are_refused(edge: Any, method: str, path: str, status: int, code: str | None) -> None:
    key = edge.key("metered", "paths")
    answer = httpx2.request(method, f"{edge.url}{path}", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.get("code") == code


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b'{"model": "phi-4-mini", "model": "qwen3-1.7b", "messages": [{"role": "user", "content": "x"}]}', {}, 400),
        (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}]}', {"content-type": "text/plain"}, 400),
        (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}]}', {"content-encoding": "gzip"}, 400),
        (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5000}', {}, 400),
        (b'{"model": "phi-4-mini", "messages": [{"role": "user", "content": "' + b"x" * (1 << 20) + b'"}]}', {}, 413),
    ],
)
def test_bad_bodies(edge: Any, body: bytes, headers: dict[str, str], status: int) -> None:
    key = edge.key("metered", "bodies")
    answer = httpx2.post(
        f"{edge.url}/v1/chat/completions",
        content=body,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json", **headers},
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["x-slm-decision-id"]


def test_a_policy_refuses_in_its_own_words(edge: Any) -> None:
    key = edge.key("metered", "loud")
    answer = httpx2.post(
        f"{edge.url}/v1/chat/completions",
        json={"model": "phi-4-mini", "messages": HELLO},
        headers={"authorization": f"Bearer {key}", "host": "shout.example.com"},
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "too_loud")


def test_a_rotated_key_goes_on_with_its_limits(edge: Any) -> None:
    """Both secrets spend one budget; without grace the old one is refused at the next call."""
    record = edge.gateway.cli("keys", "create", "--client", "rotated", "--tier", "free")
    rotated = edge.gateway.cli("keys", "rotate", record["id"])
    with client_of(edge, record["key"]) as old, client_of(edge, rotated["key"]) as new:
        for client in (old, new):
            client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
        assert eventually(lambda: edge.usage("rotated")["requests"]["used"] == 2)
        again = edge.gateway.cli("keys", "rotate", record["id"], "--grace", "0s")
        for client in (old, new):
            with pytest.raises(openai.AuthenticationError) as caught:
                client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
            assert caught.value.code == "invalid_api_key"
    with client_of(edge, again["key"]) as newest:
        newest.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
    assert eventually(lambda: edge.usage("rotated")["requests"]["used"] == 3)
    assert {event["key_id"] for event in edge.events("rotated")} == {record["id"]}


def test_a_key_is_in_force_at_once(edge: Any) -> None:
    record = edge.gateway.cli("keys", "create", "--client", "fleeting", "--tier", "metered")
    with client_of(edge, record["key"]) as client:
        client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
        edge.gateway.cli("keys", "disable", record["id"])
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
        edge.gateway.cli("keys", "enable", record["id"])
        client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
        edge.gateway.cli("keys", "revoke", "--client", "fleeting")
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model="phi-4-mini", messages=HELLO, max_tokens=1)
    assert eventually(lambda: {event["reason"] for event in edge.gateway.cli("audit", "query")} >= {"key_disabled", "key_revoked"})
