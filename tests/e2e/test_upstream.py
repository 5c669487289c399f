"""The sample upstream as the openai SDK sees it, and as its own log tells it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from slm_authz.local.stack import Stack, answers, free_port
from slm_authz.local.upstream.tokenizer import shipped
from tests.patience import eventually

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a token?"}]
TOKENIZER = shipped()


class Sample:
    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self._log = log
        self._asked = 0

    def client(self, **more: Any) -> openai.OpenAI:
        http = openai.DefaultHttpxClient(event_hooks={"request": [self._count]})
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="a-client's-key", max_retries=0, http_client=http, **more)

    def _count(self, request: Any) -> None:
        self._asked += 1
        request.headers["x-number"] = str(self._asked)

    def last(self) -> dict[str, Any]:
        """What was written down about the SDK's last request; it is written when its answer has left."""
        assert eventually(self._found)
        return self._found()[0]

    def _found(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if ["x-number", str(self._asked)] in line["headers"]]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sample]:
    directory = tmp_path_factory.mktemp("upstream")
    stack, port, log = Stack(directory, dict(os.environ)), free_port(), directory / "log.jsonl"
    try:
        command = [sys.executable, "-m", "slm_authz.local.upstream", "--port", str(port), "--log", str(log), "--model", "m=600,20"]
        child = stack.start("upstream", command)
        stack.wait(child, lambda: answers(f"http://127.0.0.1:{port}/health"))
        assert child.log.read_text() == f"http://127.0.0.1:{port}\n"
        yield Sample(f"http://127.0.0.1:{port}", log)
    finally:
        stack.stop()


def test_it_lists_its_models(sample: Sample) -> None:
    with sample.client() as client:
        assert [model.id for model in client.models.list()] == ["m"]


def test_a_whole_answer_counts_what_its_tokenizer_counts(sample: Sample) -> None:
    with sample.client() as client:
        answer = client.chat.completions.create(model="m", messages=HELLO, max_tokens=12)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(TOKENIZER.encode(b"Be brief.What is a token?")) + 2
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].finish_reason == "length"
    line = sample.last()
    assert (line["input_tokens"], line["output_tokens"], line["reported"], line["complete"]) == (answer.usage.prompt_tokens, 12, True, True)
    assert line["usage"]["total_tokens"] == answer.usage.total_tokens


def test_a_stream_says_the_same_as_the_whole_answer(sample: Sample) -> None:
    with sample.client() as client:
        whole = client.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=15)
        options: Any = {"include_usage": True}
        stream = client.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=15, stream=True, stream_options=options)
        chunks = list(stream)
        assert chunks[-1].choices == []
        assert chunks[-1].usage == whole.usage
        assert all(chunk.usage is None for chunk in chunks[:-1])
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        blind = list(client.chat.completions.create(model="m", messages=HELLO, max_tokens=5, stream=True))
        assert all(chunk.usage is None and chunk.choices for chunk in blind)
        assert sample.last()["reported"] is False


def test_the_same_question_gets_the_same_answer_unless_the_seed_differs(sample: Sample) -> None:
    with sample.client() as client:
        texts = [
            client.chat.completions.create(model="m", messages=HELLO, max_tokens=20, seed=seed).choices[0].message.content
            for seed in (1, 1, 2, 3, 4)
        ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 2


def test_choices_candidates_and_prompts_are_all_counted(sample: Sample) -> None:
    with sample.client() as client:
        many = client.chat.completions.create(model="m", messages=HELLO, max_tokens=4, n=3)
        assert [choice.index for choice in many.choices] == [0, 1, 2]
        assert many.usage is not None
        assert many.usage.completion_tokens == 12
        best = client.completions.create(model="m", prompt=["one", "two"], max_tokens=4, n=1, best_of=3)
        assert [choice.index for choice in best.choices] == [0, 1]
        assert best.usage is not None
        assert best.usage.completion_tokens == 24


def test_a_stop_word_and_the_end_of_a_text(sample: Sample) -> None:
    with sample.client() as client:
        answer = client.completions.create(model="m", prompt="Once upon a", max_tokens=60, stop=["."], temperature=0)
        assert answer.choices[0].finish_reason == "stop"
        assert "." not in answer.choices[0].text
        long = client.completions.create(model="m", prompt="Once", max_tokens=500, extra_body={"ignore_eos": True})
        assert long.usage is not None
        assert long.usage.completion_tokens == 500


def test_embeddings(sample: Sample) -> None:
    with sample.client() as client:
        encoded = client.embeddings.create(model="m", input=["one", "one", "another text"], dimensions=16)
        plain = client.embeddings.create(model="m", input="one", dimensions=16, encoding_format="float")
    first, second, third = (item.embedding for item in encoded.data)
    assert first == second != third
    assert first == pytest.approx(plain.data[0].embedding)
    assert sum(x * x for x in first) == pytest.approx(1)
    assert plain.usage.prompt_tokens == len(TOKENIZER.encode(b"one"))


async def _async(sample: Sample) -> None:
    async with openai.AsyncOpenAI(base_url=f"{sample.url}/v1", api_key="x", max_retries=0) as client:
        calls = [client.chat.completions.create(model="m", messages=HELLO, max_tokens=5) for _ in range(5)]
        whole = await asyncio.gather(*calls)
        assert len({answer.choices[0].message.content for answer in whole}) == 1
        stream = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=5, stream=True)
        assert len([chunk async for chunk in stream]) == 5


def test_the_async_sdk(sample: Sample) -> None:
    asyncio.run(_async(sample))


def test_errors_are_the_sdks(sample: Sample) -> None:
    with sample.client() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="other", messages=HELLO)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "word, " * 2000}])
        assert long.value.code == "context_length_exceeded"
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="m", messages=HELLO, extra_headers={"x-sample": "status=500"})
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="m", messages=HELLO, temperature=7)
    for body in (b"", b"[]", b"{", b"\xff", b'{"model": "m"}', b'{"model": ["m"]}', b'{"model": "m", "messages": [5]}'):
        answer = httpx2.post(f"{sample.url}/v1/chat/completions", content=body, trust_env=False)
        assert answer.status_code in (400, 404)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_no_cap_is_the_models_default_and_no_cap_exceeds_the_context(sample: Sample) -> None:
    with sample.client() as client:
        for cap in (None, 0, -1):
            answer = client.chat.completions.create(model="m", messages=HELLO, max_tokens=cap, extra_body={"ignore_eos": True})
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 20
        full = client.chat.completions.create(model="m", messages=HELLO, max_tokens=100_000, extra_body={"ignore_eos": True})
        assert full.usage is not None
        assert full.usage.total_tokens == 600


def test_misbehaviour_on_request(sample: Sample) -> None:
    with sample.client() as client:

        def ask(hook: str, **more: Any) -> Any:
            return client.chat.completions.create(model="m", messages=HELLO, max_tokens=6, extra_headers={"x-sample": hook}, **more)

        with pytest.raises(openai.APIConnectionError):
            ask("hangup=1")
        assert sample.last()["complete"] is False
        with pytest.raises(openai.APIConnectionError):
            list(ask("hangup=2", stream=True))
        assert sample.last()["usage"] is None
        with pytest.raises(json.JSONDecodeError):
            ask("garbled=1")
        assert ask("gzip=1").usage.completion_tokens == 6
        assert ask("usage=bad").usage.prompt_tokens == -3
        assert ask("usage=none").usage is None
        assert sample.last()["reported"] is False
        assert ask("charset=1,bytes=5000").usage.completion_tokens == 6
        assert sample.last()["sent_bytes"] > 5000
        with pytest.raises(openai.BadRequestError):
            ask("nonsense=1")


def test_the_log_has_every_header_as_it_came(sample: Sample) -> None:
    with sample.client() as client:
        client.chat.completions.create(model="m", messages=HELLO, max_tokens=1, extra_headers={"X-SLM-Tier": "pro"})
    line = sample.last()
    assert ["authorization", "Bearer a-client's-key"] in line["headers"]
    assert ["x-slm-tier", "pro"] in line["headers"]
    assert (line["method"], line["path"], line["kind"], line["model"]) == ("POST", "/v1/chat/completions", "chat", "m")


@pytest.mark.parametrize("hook", ["delay=0.05", "stall=1"])
def test_a_client_that_hangs_up_stops_the_generation(sample: Sample, hook: str) -> None:
    with sample.client() as client:
        stream = client.chat.completions.create(model="m", messages=HELLO, max_tokens=400, stream=True, extra_headers={"x-sample": hook})
        next(iter(stream))
        stream.close()
    line = sample.last()
    assert (line["stream"], line["complete"]) == (True, False)
    assert line["output_tokens"] < 400


@pytest.mark.parametrize("arguments", [["--model", "a,b"], ["--model", "a=b"], ["--model", ""]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from slm_authz.local.upstream.__main__ import main

    assert main(["--port", "0", *arguments]) == 2
    assert "--model" in capsys.readouterr().err
