"""A real gateway for the end-to-end tests: Envoy, the service and the sample upstream, as `slm-authz up` runs them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_authz.local.gateway import Gateway, Plan
from slm_authz.local.stack import free_port

CONFIG = """
version: 1
listen: {{grpc: "unix:./run/slm-authz.sock", admin: "127.0.0.1:{admin}", health: "127.0.0.1:{health}", drain: 0s, max_body: 1MiB}}
store: {{url: "sqlite:///./var/slm-authz.db"}}
identity: [{{api_key: {{in: [{{header: authorization, scheme: Bearer}}, {{header: x-api-key}}, {{header: api-key}}, {{query: key}}]}}}}]
models:
  phi-4-mini:
    {{aliases: [phi4], context: 16384, default_output_tokens: 64, max_output_tokens: 1024, tokens_per_byte: 1,
      price: {{input: "0.05", output: "0.20", per: 1000}}}}
  qwen3-1.7b: {{context: 16384, default_output_tokens: 64, max_output_tokens: 1024, price: free}}
tiers:
  free: {{models: [phi-4-mini], limits: [{{requests: 4, per: day}}, {{concurrent: 1}}]}}
  metered: {{models: ["*"], limits: [{{tokens: 100000000, per: day}}, {{cost: "1000000", per: month}}, {{concurrent: 300}}]}}
  single: {{models: ["*"], limits: [{{concurrent: 1}}, {{tokens: 100000000, per: day}}]}}
policies:
  - {{name: no-shouting, when: "request.host == 'shout.example.com'", deny: {{status: 403, code: too_loud, message: "Be quiet."}}}}
metering: {{bound: {bound}, settle_wait: 400ms}}
audit: {{sinks: [{{file: ./var/audit}}]}}
"""


class Edge:
    """A running gateway, and what its parts wrote down."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.url = gateway.url

    def key(self, tier: str, client: str, *more: str) -> str:
        key: str = self.gateway.cli("keys", "create", "--client", client, "--tier", tier, *more)["key"]
        return key

    def requests(self) -> list[dict[str, Any]]:
        """What the upstream logged."""
        log = self.gateway.upstream_log
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def events(self, client: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.gateway.cli("audit", "query", "--client", client)
        return events

    def usage(self, client: str) -> dict[str, dict[str, Any]]:
        rows: list[dict[str, Any]] = self.gateway.cli("usage", "--client", client)["data"]
        return {row["kind"]: row for row in rows}


def run_edge(directory: Path, bound: str) -> Edge:
    config = directory / "slm-authz.yaml"
    config.write_text(CONFIG.format(admin=free_port(), health=free_port(), bound=bound))
    gateway = Gateway(Plan(directory, "127.0.0.1:0", config), os.environ, lambda _: None)
    gateway.start()
    return Edge(gateway)


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """One gateway for all tests that do not break it; clients of their own keep them apart."""
    one = run_edge(tmp_path_factory.mktemp("edge"), "estimate")
    yield one
    one.gateway.stop()
