"""The HTTP application: routes, answers whole and streamed, and the misbehaviour that `hooks` describes. Starlette stays in here."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slm_authz.local.upstream import answers
from slm_authz.local.upstream.answers import Tree, Usage
from slm_authz.local.upstream.asked import ApiError, Job, Kind, read_job
from slm_authz.local.upstream.hooks import HEADER, Hooks, read_hooks
from slm_authz.local.upstream.journal import note, usage_of
from slm_authz.local.upstream.served import Library

_BAD_USAGE = {"prompt_tokens": -3, "completion_tokens": 7.5, "total_tokens": 4.5}


class HungUp(Exception):
    """Raised to make the server drop the connection in the middle of an answer."""


def application(library: Library, clock: Callable[[], int]) -> Starlette:
    """`clock` returns Unix milliseconds; it stands in `created` and nowhere else."""
    api = _Api(library, clock)
    kinds: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/embeddings": "embeddings"}
    routes = [Route(path, api.endpoint(kind), methods=["POST"]) for path, kind in kinds.items()]
    return Starlette(
        routes=[*routes, Route("/v1/models", api.models), Route("/health", api.health)],
        exception_handlers={ApiError: _refused, HTTPException: _no_route},
    )


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - Starlette's handler type is wider than what it is registered for
    return JSONResponse(error.body, error.status)


async def _no_route(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    body = {"error": {"message": "There is nothing here.", "type": "invalid_request_error", "param": None, "code": "not_found"}}
    return JSONResponse(body, status)


class _Api:
    def __init__(self, library: Library, clock: Callable[[], int]) -> None:
        self._library = library
        self._clock = clock

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, _: Request) -> Response:
        data = [
            {"id": model.name, "object": "model", "created": 0, "owned_by": "slm-authz-sample", "max_model_len": model.context}
            for model in self._library.served.values()
        ]
        return JSONResponse({"object": "list", "data": data})

    def endpoint(self, kind: Kind) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            hooks = _hooks(request)
            body = await request.body()
            if hooks.delay:
                await asyncio.sleep(hooks.delay)
            if hooks.status:
                raise ApiError(hooks.status, "This was asked for with x-sample.", "asked_for")
            job = read_job(kind, body, self._library)
            note(request.scope).update(kind=kind, model=job.model.name, stream=job.stream)
            usage = usage_of(request.scope)
            usage.input_tokens = job.input_tokens
            if job.stream:
                return _Stream(self._events(job, usage, hooks, request.scope), hooks.stall)
            created = self._clock() // 1000
            # Generation is a loop of its own: off the event loop, so that other callers are served meanwhile.
            made = await asyncio.to_thread(self._make, job, usage, created)
            return _whole(made, hooks, request.scope)

        return answer

    def _make(self, job: Job, usage: Usage, created: int) -> Tree:
        if job.kind == "embeddings":
            return answers.embeddings(job, usage)
        return answers.whole(job, self._library, usage, created)

    async def _events(self, job: Job, usage: Usage, hooks: Hooks, scope: Scope) -> AsyncIterator[bytes]:
        for sent, event in enumerate(answers.events(job, self._library, usage, self._clock() // 1000)):
            if hooks.hangup and sent >= hooks.hangup:
                raise HungUp
            if event.get("usage") is not None:
                _tamper(event, hooks, scope)
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
            await asyncio.sleep(hooks.delay)
        yield b"data: [DONE]\n\n"


def _hooks(request: Request) -> Hooks:
    try:
        return read_hooks(request.headers.get(HEADER))
    except ValueError as error:
        raise ApiError(400, str(error), "invalid_value", HEADER) from None


def _tamper(made: Tree, hooks: Hooks, scope: Scope) -> None:
    """Pad what carries usage, spoil the usage, and note whether it can be read."""
    if hooks.bytes:
        # Before `usage`, so that whoever reads it has to get through the rest.
        usage = made.pop("usage")
        made.update(padding="x" * hooks.bytes, usage=usage)
    if hooks.usage == "none":
        del made["usage"]
    elif hooks.usage == "bad":
        made["usage"] = _BAD_USAGE
    else:
        note(scope)["reported"] = not hooks.garbled and not hooks.gzip


def _whole(made: Tree, hooks: Hooks, scope: Scope) -> Response:
    _tamper(made, hooks, scope)
    content = json.dumps(made).encode()
    headers = {}
    if hooks.garbled:
        content = content[:-1]
    if hooks.gzip:
        content, headers["content-encoding"] = gzip.compress(content, 1), "gzip"
    if hooks.hangup:
        note(scope)["reported"] = False
        return _Half(content, headers=headers, media_type="application/json")
    return Response(content, headers=headers, media_type="application/json; charset=utf-8" if hooks.charset else "application/json")


class _Half(Response):
    """Announces the whole answer, sends half of it, and drops the connection."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body[: len(self.body) // 2]), "more_body": True})
        raise HungUp


class _Stream(Response):
    """Server-sent events. It stops generating when the client is gone, as real servers do."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], stall: int) -> None:
        super().__init__(headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events = events
        self._stall = stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        gone = asyncio.ensure_future(_gone(receive))
        try:
            sent = 0
            async for event in self._events:
                if self._stall and sent == self._stall:
                    await gone
                if gone.done():
                    note(scope)["reported"] = False
                    return
                await send({"type": "http.response.body", "body": event, "more_body": True})
                sent += 1
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            gone.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
