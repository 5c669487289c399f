"""The service as a process runs it: real sockets, real files, one configuration after another."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2

from slm_authz.app import Service
from slm_authz.errors import ConfigError, PortTaken
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.quota.usage import UsageQuery

CONFIG = """
version: 1
listen: {grpc: "unix:./run/a.sock", admin: "127.0.0.1:0", health: "127.0.0.1:0", drain: 0s}
identity: [{api_key: {}}]
models: {m: {context: 16384, price: free}}
tiers: {free: {models: [m], limits: [{requests: %d, per: day}, {tokens: 100000, per: day}]}}
"""
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}'


@pytest.fixture(params=["native", "grpcio"])
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    config = tmp_path / "slm-authz.yaml"
    config.write_text(CONFIG % 2)
    one = Service(config, {}, transport=request.param)
    one.start()
    yield one
    one.stop()


def check(service: Service, key: str) -> external_auth_pb2.CheckResponse:
    request = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.raw_body = "POST", "/v1/chat/completions", BODY
    http.headers.update({"authorization": f"Bearer {key}", "content-type": "application/json", "content-length": str(len(BODY))})
    with grpc.insecure_channel(service.server.address) as channel:
        call = channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=external_auth_pb2.CheckRequest.SerializeToString,
            response_deserializer=external_auth_pb2.CheckResponse.FromString,
        )
        response: external_auth_pb2.CheckResponse = call(request, timeout=5)
        return response


def make_key(service: Service, **more: str) -> str:
    life = Lifecycle(service._viewer, service.directory.pepper, os.urandom)
    return life.create(1_700_000_000_000, client="acme", tier="free", **more)[1]  # type: ignore[arg-type]


def get(service: Service, path: str) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{service.http.ports['health']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_check_from_socket_to_socket(service: Service) -> None:
    key = make_key(service)
    allowed = check(service, key)
    assert allowed.status.code == 0
    assert allowed.dynamic_metadata["slm"]["hold"]
    check(service, key)
    refused = check(service, key)
    assert refused.denied_response.status.code == 429
    assert refused.status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert json.loads(refused.denied_response.body)["error"]["code"] == "quota_exceeded"


def test_reload_is_atomic_and_forgets_nothing(service: Service) -> None:
    key = make_key(service)
    check(service, key)
    check(service, key)
    file = service._loaded.path
    file.write_text("version: 1\nmodels: [")
    assert not service.reload()
    assert check(service, key).denied_response.status.code == 429
    status, body = get(service, "/readyz")
    assert status == 200
    assert "old configuration serves on" in json.loads(body)["config"]["error"]
    assert b"slm_config_reload_failures_total 1.0" in get(service, "/metrics")[1]
    file.write_text(CONFIG % 3)
    assert service.reload()
    assert json.loads(get(service, "/readyz")[1])["config"]["error"] is None
    assert check(service, key).status.code == 0
    assert check(service, key).denied_response.status.code == 429


def test_a_reload_takes_a_section_whole_or_not_at_all(service: Service) -> None:
    key = make_key(service)
    file = service._loaded.path
    changed = CONFIG.replace("drain: 0s}", "drain: 0s, max_body: 1KiB}\naudit: {sinks: [{file: ./elsewhere}], on_failure: drop}") % 3
    file.write_text(changed)
    assert service.reload()
    rules, settings = service.engine.rules, service._loaded.settings
    assert (rules.max_body, settings.listen.max_body, rules.deny_without_audit) == (4 << 20, 4 << 20, True)
    assert [check(service, key).status.code for _ in range(3)] == [0, 0, 0]
    restart = json.loads(get(service, "/readyz")[1])["config"]["restart"]
    assert restart == "changes of listen, audit take a restart: what was there at the start is in force"
    assert restart in service.warnings()
    assert service.reload()
    assert json.loads(get(service, "/readyz")[1])["config"]["restart"] == restart
    file.write_text(CONFIG % 3)
    assert service.reload()
    assert json.loads(get(service, "/readyz")[1])["config"]["restart"] is None


def test_keys_of_a_tier_that_is_gone_are_told(service: Service) -> None:
    make_key(service)
    assert json.loads(get(service, "/readyz")[1])["keys"] == "ok"
    service._loaded.path.write_text(CONFIG.replace("free: {models", "renamed: {models") % 3)
    assert service.reload()
    service.housekeeper._look_at_tiers(again=False)  # a second later
    status, body = get(service, "/readyz")
    assert status == 200
    assert "does not have (free)" in json.loads(body)["keys"]
    assert json.loads(body)["keys"] in service.warnings()


def test_a_key_file_that_is_moved_serves_known_keys_and_says_that_it_is_down(service: Service, tmp_path: Path) -> None:
    key = make_key(service)
    assert check(service, key).status.code == 0
    file = tmp_path / "var" / "slm-authz.db"
    aside = file.rename(file.with_name("aside.db"))
    assert check(service, key).status.code == 0
    status, body = get(service, "/readyz")
    assert (status, json.loads(body)["store"]) == (503, "down")
    assert b"slm_store_up 0.0" in get(service, "/metrics")[1]
    aside.rename(file)
    assert check(service, key).denied_response.status.code == 429
    assert get(service, "/readyz")[0] == 200


def test_a_service_whose_events_nobody_takes_is_not_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(service.recorder), "available", property(lambda _: False))
    status, body = get(service, "/readyz")
    assert (status, json.loads(body)["ready"]) == (503, False)
    assert "does not take events" in json.loads(body)["audit"]


def test_health_names_nobody(service: Service) -> None:
    key = make_key(service, name="acme-secret-name")
    check(service, key)
    text = b"".join(get(service, path)[1] for path in ("/healthz", "/readyz", "/metrics"))
    assert b"acme" not in text
    assert b'slm_decisions_total{limit="",model="m",outcome="allow",reason="ok"} 1.0' in text
    assert b"slm_holds_outstanding 1.0" in text
    assert get(service, "/v1/usage")[0] == 404


def test_usage_shows_every_limit(service: Service) -> None:
    check(service, make_key(service))
    rows = {row.name: row for row in service.usage(UsageQuery())}
    requests, tokens = rows["free.requests.day.client"], rows["free.tokens.day.client"]
    assert (requests.limit, requests.used, requests.held, requests.left) == (2, 0, 1, 1)
    assert (tokens.held, tokens.left) == (1 + 64 + 5, 100000 - 70)
    assert requests.reset_at is not None


def test_a_second_service_on_the_same_store_is_refused(service: Service) -> None:
    with pytest.raises(PortTaken):
        Service(service._loaded.path, {})


def test_a_service_that_cannot_be_built_leaves_the_store_to_the_next(tmp_path: Path) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text(CONFIG % 2 + "store: {key_max_stale: 3s}\n")
    with pytest.raises(ConfigError):
        Service(config, {"SLM_AUTHZ_PEPPER": "too short"})
    one = Service(config, {})
    assert one.directory._max_stale == 3000
    one.stop()


def test_a_wrong_pepper_is_an_error_at_the_start(tmp_path: Path) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text(CONFIG % 2)
    first = Service(config, {"SLM_AUTHZ_PEPPER": "a" * 32})
    first.start()
    make_key(first)
    first.stop()
    with pytest.raises(ConfigError, match="pepper"):
        Service(config, {"SLM_AUTHZ_PEPPER": "b" * 32})


def test_a_restart_remembers(tmp_path: Path) -> None:
    config = tmp_path / "slm-authz.yaml"
    config.write_text(CONFIG % 2)
    first = Service(config, {})
    first.start()
    key = make_key(first)
    check(first, key)
    first.stop()
    again = Service(config, {})
    again.start()
    rows = {row.name: row for row in again.usage(UsageQuery())}
    assert rows["free.requests.day.client"].held == 1
    assert check(again, key).status.code == 0
    assert check(again, key).denied_response.status.code == 429
    again.stop()
