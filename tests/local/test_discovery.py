"""What a model server says about itself is looked at before it is believed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from slm_authz.errors import DependencyError, UsageError
from slm_authz.local.discovery import models_of, reachable
from slm_authz.local.stack import free_port
from slm_authz.local.wiring import Upstream, parse_upstream
from slm_authz.settings.schema import Model


class Lister(ThreadingHTTPServer):
    answer: tuple[int, bytes] = (200, b"")
    seen: str | None = None


class Handler(BaseHTTPRequestHandler):
    server: Lister

    def do_GET(self) -> None:
        self.server.seen = self.headers["authorization"]
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def lister() -> Iterator[Lister]:
    server = Lister(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def upstream_of(lister: Lister) -> Upstream:
    return parse_upstream(f"http://127.0.0.1:{lister.server_port}/v1")


def test_models_with_cautious_bounds(lister: Lister) -> None:
    data = [{"id": "a/b:7b"}, {"id": "small", "max_model_len": 2048}, {"id": "odd", "max_model_len": "many"}]
    lister.answer = (200, json.dumps({"data": data}).encode())
    models = models_of(upstream_of(lister), "the key")
    assert lister.seen == "Bearer the key"
    assert list(models) == ["a/b:7b", "small", "odd"]
    assert models["small"] == {"context": 2048, "default_output_tokens": 1024, "max_output_tokens": 2048}
    assert "context" not in models["odd"]
    assert all(Model.model_validate(model) for model in models.values())


def test_names_that_cannot_travel_in_a_header_are_left_out(lister: Lister) -> None:
    lister.answer = (
        200,
        json.dumps({"data": [{"id": name} for name in ("a b", "a,b", "ä", "", "x" * 300, 5, None, "a\nb", "fine")]}).encode(),
    )
    assert list(models_of(upstream_of(lister), None)) == ["fine"]
    assert lister.seen is None


def test_no_models(lister: Lister) -> None:
    lister.answer = (200, b'{"data": []}')
    with pytest.raises(UsageError, match="-c FILE"):
        models_of(upstream_of(lister), None)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"data": 5}', b'{"data": [5]}', b'{"data": [{}]}', b"\xff", b'{"data": {"a": 1}}', b"<html>"]
)
def test_an_answer_that_is_no_list_of_models(lister: Lister, body: bytes) -> None:
    lister.answer = (200, body)
    with pytest.raises(DependencyError, match="not a list of models"):
        models_of(upstream_of(lister), None)


def test_a_server_that_wants_a_key(lister: Lister) -> None:
    lister.answer = (401, b"")
    with pytest.raises(DependencyError, match="--upstream-key-env"):
        models_of(upstream_of(lister), None)
    with pytest.raises(DependencyError) as caught:
        models_of(upstream_of(lister), "sk-secret")
    assert "sk-secret" not in str(caught.value)


def test_a_server_that_is_down() -> None:
    upstream = Upstream("127.0.0.1", free_port())
    with pytest.raises(DependencyError, match=r"cannot be reached: Connection refused.*--upstream"):
        models_of(upstream, None)
    assert reachable(upstream) == "Connection refused"
