"""Writes down every request as one JSON line: what arrived, header for header, and what was counted. The end-to-end tests' witness.

It records credentials if any arrive; that is its purpose. The file is 0600 and exists only when `--log` names one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slm_authz.local.upstream.answers import Usage

Note = MutableMapping[str, Any]


class Journal:
    """ASGI middleware around the application. `clock` returns Unix milliseconds.

    A line: `time, method, path, query, http_version, headers ([[name, value], ...]), kind, model, stream, status, sent_bytes,
    complete, input_tokens, output_tokens, reported, usage`. complete: the whole answer was handed over; reported: usage that can be
    read stood in it; usage: OpenAI's figures for a complete answer, else null.
    """

    def __init__(self, app: ASGIApp, path: Path, clock: Callable[[], int]) -> None:
        self._app = app
        self._clock = clock
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        line: dict[str, Any] = {
            "time": self._clock(),
            "method": scope["method"],
            "path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "http_version": scope["http_version"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "kind": None,
            "model": None,
            "stream": False,
            "status": None,
            "sent_bytes": 0,
            "complete": False,
            "input_tokens": 0,
            "output_tokens": 0,
            "reported": False,
        }
        usage = Usage()
        scope["sample_note"], scope["sample_usage"] = line, usage

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
            elif message["type"] == "http.response.body":
                line["sent_bytes"] += len(message.get("body", b""))
                line["complete"] = not message.get("more_body", False)

        try:
            await self._app(scope, receive, watched)
        finally:
            line["input_tokens"], line["output_tokens"] = usage.input_tokens, usage.output_tokens
            line["usage"] = usage.shape() if line["complete"] and line["kind"] is not None else None
            # One write of one line: O_APPEND keeps lines whole.
            os.write(self._file, json.dumps(line).encode() + b"\n")


def note(scope: Scope) -> Note:
    """The line that will be written for this request; a scratch mapping where nothing is written."""
    found: Note = scope.setdefault("sample_note", {})
    return found


def usage_of(scope: Scope) -> Usage:
    """The counters of this request."""
    found: Usage = scope.setdefault("sample_usage", Usage())
    return found
