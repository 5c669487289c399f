"""What we tell users to run is run: every shipped file is accepted by a real Envoy, and what is rendered does at the edge what it claims."""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest
import yaml
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import struct_pb2

from slm_authz.cli.main import main
from slm_authz.local.envoy_binary import Envoy, find, validate
from slm_authz.local.envoy_config import bootstrap, to_json
from slm_authz.local.stack import Stack, answers, free_port, speaks_http
from slm_authz.local.wiring import Wiring, parse_listen, parse_upstream, system_ca_file
from slm_authz.settings.schema import Settings

pytestmark = pytest.mark.envoy

SHIPPED = sorted((Path(__file__).parents[2] / "deploy" / "envoy").glob("*.yaml"))
BODY = {"model": "phi-4-mini", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
MAX_BODY = 65536


def settings_with(**changes: Any) -> Settings:
    document: dict[str, Any] = {
        "version": 1,
        "identity": [{"api_key": {}}],
        "models": {"m": {}},
        "tiers": {"free": {"models": ["m"]}},
    }
    return Settings.model_validate(document | changes)


@pytest.fixture(scope="session")
def envoy() -> Envoy:
    return find(None, os.environ, print)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_file_is_valid(envoy: Envoy, path: Path) -> None:
    assert validate(envoy, path) is None


def test_all_shipped_files_are_seen() -> None:
    assert [path.name for path in SHIPPED] == ["envoy-minimal.yaml", "envoy.yaml"]


def test_the_shipped_file_is_what_is_rendered() -> None:
    shipped = yaml.safe_load((SHIPPED[0].parent / "envoy.yaml").read_text())
    assert shipped == bootstrap(settings_with(), Wiring(parse_listen("127.0.0.1:10000"), parse_upstream("http://127.0.0.1:8000")))


@pytest.mark.parametrize(
    ("upstream", "key_env", "changes"),
    [
        ("http://localhost:8000/v1", None, {"listen": {"grpc": "unix:/run/slm/authz.sock"}}),
        ("https://models.example.com/openai/v1", "MODELS_KEY", {"client_address": {"from": "xff", "trusted_hops": 2}}),
        ("https://192.0.2.1", None, {"metering": {"usage_from": "none"}}),
        ("http://[::1]:8000", None, {"listen": {"grpc": "[::1]:9001", "max_body": "1KiB"}, "metering": {"lease": "3s"}}),
    ],
)
def test_what_is_rendered_is_valid(envoy: Envoy, tmp_path: Path, upstream: str, key_env: str | None, changes: dict[str, Any]) -> None:
    roots = system_ca_file(None)
    if roots is None:
        pytest.skip("this machine has no trusted roots")
    wiring = Wiring(parse_listen("127.0.0.1:10000"), parse_upstream(upstream), key_env, parse_listen("127.0.0.1:9901"), roots)
    path = tmp_path / "envoy.json"
    path.write_text(to_json(bootstrap(settings_with(**changes), wiring)))
    assert validate(envoy, path) is None


def test_an_invalid_file_is_told(envoy: Envoy, tmp_path: Path) -> None:
    path = tmp_path / "envoy.yaml"
    path.write_text("static_resources: {listners: []}\n")
    assert "listners" in (validate(envoy, path) or "")


def test_the_command_prints_what_it_validated(envoy: Envoy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text("version: 1\nidentity: [{api_key: {}}]\nmodels: {m: {}}\ntiers: {free: {models: [m]}}\n")
    assert main(["envoy-config", "-c", str(config), "--upstream", "http://127.0.0.1:8000", "--validate", "--envoy", str(envoy.path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# Made by `slm-authz envoy-config`")
    assert yaml.safe_load(printed)["static_resources"]["listeners"][0]["name"] == "gateway"
    assert main(["envoy-config", "-c", str(config), "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(printed)


# -- a running edge, with a service that allows everything and writes down what it is asked


class Recorder:
    """Check and access log, recorded."""

    def __init__(self, address: str) -> None:
        self.checks: queue.Queue[Any] = queue.Queue()
        self.ends: queue.Queue[Any] = queue.Queue()
        self.server = grpc.server(ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "envoy.service.auth.v3.Authorization",
                    {
                        "Check": grpc.unary_unary_rpc_method_handler(
                            self._check, external_auth_pb2.CheckRequest.FromString, external_auth_pb2.CheckResponse.SerializeToString
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "envoy.service.accesslog.v3.AccessLogService",
                    {
                        "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(
                            self._log, als_pb2.StreamAccessLogsMessage.FromString, als_pb2.StreamAccessLogsResponse.SerializeToString
                        )
                    },
                ),
            )
        )
        self.server.add_insecure_port(address)
        self.server.start()

    def _check(self, request: Any, _: Any) -> Any:
        self.checks.put(request.attributes.request.http)
        answer = external_auth_pb2.CheckResponse()
        answer.ok_response.headers.add(
            header=base_pb2.HeaderValue(key="x-slm-client", value="acme"),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        answer.ok_response.headers_to_remove.extend(["authorization", "accept-encoding"])
        answer.dynamic_metadata.CopyFrom(struct_pb2.Struct())
        answer.dynamic_metadata.update({"slm": {"hold": "the hold"}})
        return answer

    def _log(self, messages: Iterator[Any], _: Any) -> Any:
        for message in messages:
            for entry in message.http_logs.log_entry:
                self.ends.put(entry)
        return als_pb2.StreamAccessLogsResponse()


class Edge:
    def __init__(self, url: str, port: int, recorder: Recorder, log: Path) -> None:
        self.url = url
        self.port = port
        self.recorder = recorder
        self._log = log
        self._posted = 0

    def post(self, body: Any = None, headers: dict[str, str] | None = None) -> httpx2.Response:
        self._posted += 1
        with httpx2.Client(trust_env=False, timeout=60) as client:
            return client.post(f"{self.url}/v1/chat/completions?n={self._posted}", json=BODY | (body or {}), headers=headers)

    def asked(self) -> Any:
        """What the service was asked about the last post; what it was asked about other calls is passed over."""
        while True:
            http = self.recorder.checks.get(timeout=10)
            if http.path.endswith(f"?n={self._posted}"):
                return http

    def end(self) -> Any:
        """The access log entry of the end of the last post; those of other calls, and its own signs of life, are passed over."""
        while (entry := self.entry()).common_properties.access_log_type != accesslog_pb2.DownstreamEnd:
            pass
        return entry

    def entry(self) -> Any:
        """The next access log entry of the last post."""
        while True:
            entry = self.recorder.ends.get(timeout=10)
            if entry.request.path.endswith(f"?n={self._posted}"):
                return entry

    def raw(self, text: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(text)
            answer = b""
            while b"\r\n\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
            return answer

    def seen(self) -> dict[str, str]:
        """Headers of the last request that the model server got."""
        last = json.loads(self._log.read_text().splitlines()[-1])
        assert len({name for name, _ in last["headers"]}) == len(last["headers"])
        return dict(last["headers"])


@pytest.fixture(scope="module")
def edge(envoy: Envoy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("configs")
    service, upstream, gateway = free_port(), free_port(), free_port()
    recorder = Recorder(f"127.0.0.1:{service}")
    env = dict(os.environ) | {"MODELS_KEY": "the%key"}
    stack = Stack(directory, env)
    try:
        log = directory / "upstream.jsonl"
        child = stack.start("upstream", [sys.executable, "-m", "slm_authz.local.upstream", "--port", str(upstream), "--log", str(log)])
        stack.wait(child, lambda: answers(f"http://127.0.0.1:{upstream}/health"))
        settings = settings_with(
            listen={"grpc": f"127.0.0.1:{service}", "max_body": MAX_BODY, "max_answer": "24MiB"},
            metering={"lease": "4s", "settle_wait": "10ms"},
        )
        wiring = Wiring(parse_listen(f"127.0.0.1:{gateway}"), parse_upstream(f"http://localhost:{upstream}/v1"), "MODELS_KEY")
        config = directory / "envoy.json"
        config.write_text(to_json(bootstrap(settings, wiring)))
        child = stack.start("envoy", [str(envoy.path), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error"])
        stack.wait(child, lambda: speaks_http("127.0.0.1", gateway))
        yield Edge(f"http://127.0.0.1:{gateway}", gateway, recorder, log)
    finally:
        stack.stop()
        recorder.server.stop(None).wait()


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    """No records of another test's calls."""
    if "edge" in request.fixturenames:
        recorder = request.getfixturevalue("edge").recorder
        while not recorder.checks.empty():
            recorder.checks.get()


def figures(entry: Any) -> tuple[float, float]:
    usage = entry.common_properties.metadata.filter_metadata["slm.usage"].fields
    return usage["input_tokens"].number_value, usage["output_tokens"].number_value


@pytest.mark.parametrize("sample", ["", "charset=1", "bytes=20000000"])
def test_usage_and_hold_of_a_whole_answer_reach_the_access_log(edge: Edge, sample: str) -> None:
    answer = edge.post(headers={"x-sample": sample})
    usage = answer.json()["usage"]
    entry = edge.end()
    assert figures(entry) == (usage["prompt_tokens"], usage["completion_tokens"])
    held = entry.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields["slm"].struct_value
    assert held.fields["hold"].string_value == "the hold"
    assert entry.response.response_code_details == "via_upstream"


@pytest.mark.parametrize("padding", [0, 900_000])
def test_usage_of_a_stream_reaches_the_access_log(edge: Edge, padding: int) -> None:
    answer = edge.post({"stream": True, "stream_options": {"include_usage": True}}, {"x-sample": f"bytes={padding}"})
    last = [line for line in answer.text.splitlines() if line.startswith("data: {")][-1]
    usage = json.loads(last.removeprefix("data: "))["usage"]
    assert figures(edge.end()) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_an_answer_over_max_answer_is_envoys_500(edge: Edge) -> None:
    assert edge.post(headers={"x-sample": "bytes=30000000"}).status_code == 500
    assert edge.end().response.response_code_details == "response_payload_too_large"


def test_forged_headers_and_words_to_the_router_are_gone_before_anyone_sees_them(edge: Edge) -> None:
    forged = {
        "X-SLM-Tier": "pro",
        "x-slm-client": "root",
        "X-Slm-Anything": "1",
        "x-ai-eg-model": "m",
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "9",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "connection": "x-slm-client, x-slm-tier",
    }
    assert edge.post(headers=forged | {"authorization": "Bearer client"}).status_code == 200
    asked = edge.asked().headers
    seen = edge.seen()
    assert not [name for name in asked if name.startswith(("x-slm-", "x-ai-", "x-envoy-retry", "x-envoy-max", "x-envoy-upstream"))]
    ours = {name: value for name, value in seen.items() if name.startswith(("x-slm-", "x-ai-", "x-envoy-"))}
    assert ours == {"x-slm-client": "acme", "x-envoy-external-address": "127.0.0.1"}
    assert "accept-encoding" not in seen


def test_the_upstreams_own_key_replaces_the_clients(edge: Edge) -> None:
    edge.post(headers={"authorization": "Bearer client"})
    assert edge.asked().headers["authorization"] == "Bearer client"
    assert edge.seen()["authorization"] == "Bearer the%key"


def test_an_upstream_that_fails_is_asked_once(edge: Edge) -> None:
    assert edge.post(headers={"x-sample": "status=503", "x-envoy-retry-on": "5xx"}).status_code == 503
    assert edge.end().common_properties.upstream_request_attempt_count == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1%2fmodels HTTP/1.1\r\nhost: a\r\n\r\n", b"400"),
        (b"GET /v1%5Cmodels HTTP/1.1\r\nhost: a\r\n\r\n", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx_slm_tier: pro\r\n\r\n", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", b"403"),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", b"404"),
    ],
)
def test_what_envoy_refuses_by_itself_is_never_asked(edge: Edge, request_: bytes, status: bytes) -> None:
    assert edge.raw(request_).split()[1] == status
    assert edge.recorder.checks.empty()


@pytest.mark.parametrize("claim", [None, "false"])
def test_a_cut_body_is_marked_whatever_the_client_says(edge: Edge, claim: str | None) -> None:
    headers = {} if claim is None else {"x-envoy-auth-partial-body": claim}
    edge.post({"user": "x" * (2 * MAX_BODY)}, headers)
    asked = edge.asked()
    assert asked.headers["x-envoy-auth-partial-body"] == "true"
    assert len(asked.raw_body) == MAX_BODY


def test_dots_and_double_slashes_are_resolved_before_anyone_judges_the_path(edge: Edge) -> None:
    edge.raw(b"GET //v1/x/../models HTTP/1.1\r\nhost: a\r\n\r\n")
    assert edge.recorder.checks.get(timeout=5).path == "/v1/models"


def test_a_call_ends_before_its_lease(edge: Edge) -> None:
    """The lease is 4 s: after 2 s Envoy ends the call, and says so."""
    with pytest.raises(httpx2.RemoteProtocolError):
        edge.post({"stream": True, "max_tokens": 64}, {"x-sample": "stall=1"})
    alive = edge.entry().common_properties
    assert alive.access_log_type == accesslog_pb2.DownstreamPeriodic, "a long answer shows that it lives"
    assert alive.metadata.filter_metadata["envoy.filters.http.ext_authz"]["slm"]["hold"], "and whose hold it is"
    assert edge.end().response.response_code_details == "max_duration_timeout"


def test_without_a_service_the_answer_is_503(envoy: Envoy, tmp_path: Path) -> None:
    gateway = free_port()
    stack = Stack(tmp_path, dict(os.environ))
    config = tmp_path / "envoy.json"
    settings = settings_with(listen={"grpc": f"127.0.0.1:{free_port()}"})
    config.write_text(to_json(bootstrap(settings, Wiring(parse_listen(f"127.0.0.1:{gateway}"), parse_upstream("http://127.0.0.1:1")))))
    try:
        child = stack.start("envoy", [str(envoy.path), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error"])
        stack.wait(child, lambda: speaks_http("127.0.0.1", gateway))
        assert httpx2.post(f"http://127.0.0.1:{gateway}/v1/chat/completions", json=BODY, trust_env=False).status_code == 503
    finally:
        stack.stop()
