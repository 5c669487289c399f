"""The sample upstream's HTTP side: /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings; whole and as SSE.

Honours max_tokens, max_completion_tokens, n and stream_options.include_usage; refuses prompts over its context; counts with its own
tokenizer. With a log file it writes one JSON line per request: every header it received, and the tokens it counted.

For tests, the header `x-sample` asks for trouble: `status=500`, `bytes=20000000` (a whole answer that large), `delay=0.05` (seconds per
chunk), `hangup=3` (break the connection after so many chunks), `garbled=1` (JSON that cannot be read), `charset=1`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slm_authz.local.upstream.model import Model, shipped_model

CONTEXT: Final = 16384
DEFAULT_OUTPUT: Final = 128
TEMPLATE: Final = "<|{role}|>\n{content}\n"


class UpstreamError(Exception):
    """A request that the model server refuses, in OpenAI's shape."""


class _HangUp(Exception):
    """The test asked for a broken connection."""


class Sample:
    """The application's state: a model, the names it is served under, a log."""

    def __init__(self, models: tuple[str, ...], log: Path | None) -> None:
        self.models = models
        self._log = log
        self._model: Model = shipped_model()
        self.count = 0

    # -- what is asked

    def prompts(self, body: dict[str, Any], path: str) -> list[list[int]]:
        """Token lists of the prompts of a request."""
        encode = self._model.tokenizer.encode
        if path == "/v1/chat/completions":
            text = "".join(TEMPLATE.format(role=m.get("role"), content=_content(m.get("content"))) for m in body["messages"])
            return [encode(text)]
        value = body["input"] if path == "/v1/embeddings" else body.get("prompt", "")
        if isinstance(value, str):
            return [encode(value)]
        if value and isinstance(value[0], int):
            return [value]
        return [encode(item) if isinstance(item, str) else item for item in value]

    def log(self, request: Request, usage: dict[str, int] | None, status: int) -> None:
        """One line per request."""
        if self._log is not None:
            entry = {
                "method": request.method,
                "path": request.url.path,
                "query": request.url.query,
                "headers": request.headers.items(),
                "usage": usage,
                "status": status,
            }
            with self._log.open("a") as file:
                file.write(json.dumps(entry) + "\n")

    # -- answers

    async def models_list(self, request: Request) -> Response:
        """GET /v1/models."""
        self.log(request, None, 200)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "slm-authz-sample"} for name in self.models]
        return JSONResponse({"object": "list", "data": data})

    async def answer(self, request: Request) -> Response:
        """Any of the POST paths."""
        path = request.url.path
        trouble = dict(part.partition("=")[::2] for part in request.headers.get("x-sample", "").split(",") if part)
        try:
            body = await request.json()
            prompts = self.prompts(body, path)
            cap = self._cap(body, path)
            if max(map(len, prompts)) + cap > CONTEXT:
                raise UpstreamError(f"This model's maximum context length is {CONTEXT} tokens.")
        except (UpstreamError, KeyError, TypeError, ValueError, AttributeError) as error:
            self.log(request, None, 400)
            return JSONResponse({"error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}}, 400)
        if "status" in trouble:
            status = int(trouble["status"])
            self.log(request, None, status)
            return JSONResponse({"error": {"message": "asked for", "type": "api_error", "param": None, "code": None}}, status)
        tokens_in = sum(map(len, prompts))
        if path == "/v1/embeddings":
            return self._embeddings(request, body, prompts, tokens_in)
        choices = [prompt for prompt in prompts for _ in range(body.get("n") or 1)]
        if body.get("stream"):
            return StreamingResponse(self._stream(request, body, choices, cap, tokens_in, trouble), media_type="text/event-stream")
        return self._whole(request, body, choices, cap, tokens_in, trouble)

    def _cap(self, body: dict[str, Any], path: str) -> int:
        if path == "/v1/embeddings":
            return 0
        caps = [body.get(name) for name in ("max_completion_tokens", "max_tokens")]
        return max((cap for cap in caps if isinstance(cap, int) and cap > 0), default=DEFAULT_OUTPUT)

    def _embeddings(self, request: Request, body: dict[str, Any], prompts: list[list[int]], tokens_in: int) -> Response:
        usage = {"prompt_tokens": tokens_in, "total_tokens": tokens_in}
        self.log(request, usage, 200)
        data = [{"object": "embedding", "index": i, "embedding": self._model.embed(prompt)} for i, prompt in enumerate(prompts)]
        return JSONResponse({"object": "list", "data": data, "model": body["model"], "usage": usage})

    def _generate(self, choices: list[list[int]], cap: int) -> Iterator[tuple[int, int]]:
        """(choice, token), choice by choice; a sentence end past three quarters of the cap ends an answer as a model would."""
        for index, prompt in enumerate(choices):
            for count, token in enumerate(self._model.generate(prompt, cap, index)):
                yield index, token
                if count >= cap * 3 // 4 and self._model.tokenizer.decode([token]).rstrip().endswith(b"."):
                    break

    def _frame(self, request: Request, body: dict[str, Any], *, chunk: bool) -> dict[str, Any]:
        self.count += 1
        chat = request.url.path == "/v1/chat/completions"
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if chat else "text_completion"
        return {"id": f"sample-{self.count}", "object": kind, "created": int(time.time()), "model": body["model"]}

    def _whole(
        self, request: Request, body: dict[str, Any], choices: list[list[int]], cap: int, tokens_in: int, trouble: dict[str, str]
    ) -> Response:
        tokens: dict[int, list[int]] = {index: [] for index in range(len(choices))}
        for index, token in self._generate(choices, cap):
            tokens[index].append(token)
        tokens_out = sum(map(len, tokens.values()))
        chat = request.url.path == "/v1/chat/completions"
        answers = []
        for index, found in tokens.items():
            text = self._model.tokenizer.decode(found).decode("utf-8", "replace")
            content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            answers.append({"index": index, **content, "finish_reason": "length" if len(found) >= cap else "stop", "logprobs": None})
        usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
        answer = {**self._frame(request, body, chunk=False), "choices": answers, "usage": usage}
        if "bytes" in trouble:
            answer["padding"] = "x" * int(trouble["bytes"])
        self.log(request, usage, 200)
        text = json.dumps(answer)
        media = "application/json; charset=utf-8" if "charset" in trouble else "application/json"
        return Response(text[: len(text) // 2] if "garbled" in trouble else text, media_type=media)

    async def _stream(
        self, request: Request, body: dict[str, Any], choices: list[list[int]], cap: int, tokens_in: int, trouble: dict[str, str]
    ) -> AsyncIterator[str]:
        frame = self._frame(request, body, chunk=True)
        chat = request.url.path == "/v1/chat/completions"
        include = bool((body.get("stream_options") or {}).get("include_usage"))
        tokens_out = 0
        complete = False
        try:
            for index, token in self._generate(choices, cap):
                text = self._model.tokenizer.decode([token]).decode("utf-8", "replace")
                content = {"delta": {"content": text}} if chat else {"text": text}
                tokens_out += 1
                yield _event({**frame, "choices": [{"index": index, **content, "finish_reason": None}]})
                await asyncio.sleep(float(trouble.get("delay", 0)))
                if tokens_out == int(trouble.get("hangup", 0)):
                    raise _HangUp
            empty: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
            yield _event({**frame, "choices": [{"index": index, **empty, "finish_reason": "stop"} for index in range(len(choices))]})
            usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
            if include:
                yield _event({**frame, "choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
            complete = True
        finally:
            usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}
            self.log(request, usage if complete else None, 200)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _content(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def create_app(models: tuple[str, ...], log: Path | None = None) -> Starlette:
    """The application."""
    sample = Sample(models, log)
    posts = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
    return Starlette(routes=[Route("/v1/models", sample.models_list), *(Route(path, sample.answer, methods=["POST"]) for path in posts)])
