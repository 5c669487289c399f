"""What does a caller pay end to end: through Envoy with us, beside Envoy alone and Envoy with an empty ext_authz?"""

from __future__ import annotations

import copy
import json
import os
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from bench import http1, load
from bench.context import Context, Section, Service
from bench.process import Server
from slm_authz.compose import load_all
from slm_authz.local.envoy_binary import find
from slm_authz.local.envoy_config import bootstrap, to_json
from slm_authz.local.stack import free_port
from slm_authz.local.wiring import Wiring, parse_upstream
from slm_authz.settings.address import parse_address

DECIDES, READS_USAGE = "ext_authz", ("json_to_metadata", "sse_to_metadata")


def _manager(tree: dict[str, Any]) -> dict[str, Any]:
    manager: dict[str, Any] = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _without(tree: dict[str, Any], *filters: str) -> dict[str, Any]:
    """The same Envoy without these filters and without the access log."""
    tree = copy.deepcopy(tree)
    manager = _manager(tree)
    manager["http_filters"] = [one for one in manager["http_filters"] if not any(word in json.dumps(one) for word in filters)]
    manager.pop("access_log", None)
    return tree


def _pointed_at(tree: dict[str, Any], port: int) -> dict[str, Any]:
    """The same Envoy, asking another service; an empty one has no health."""
    tree = copy.deepcopy(tree)
    cluster = next(one for one in tree["static_resources"]["clusters"] if one["name"] == "slm_authz")
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"] = port
    cluster.pop("health_checks")
    return tree


class _Gateway:
    """One Envoy with one worker."""

    def __init__(
        self, context: Context, stack: ExitStack, binary: str, name: str, render: Callable[[Wiring], dict[str, Any]], upstream: str
    ) -> None:
        self.port, admin = free_port(), free_port()
        wiring = Wiring(parse_address(f"127.0.0.1:{self.port}"), parse_upstream(upstream), None, parse_address(f"127.0.0.1:{admin}"))
        config = context.directory / f"{name}.json"
        config.write_text(to_json(render(wiring)))
        command = (binary, "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "error")

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=1) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        self.server = Server(name, command, context.server_core, context.directory / f"{name}.log", ready=ready)
        stack.callback(self.server.stop)


def run(context: Context) -> Section:
    envoy = find(None, os.environ, context.say)
    with context.servers() as stack:
        other = context.other_core
        upstream = f"http://127.0.0.1:{context.python(stack, 'upstream', 'upstream', core=other).port}"
        empty = context.python(stack, "empty-authz", "empty_front", core=other)
        service = context.service(stack, "envoy", core=other)
        settings = load_all(service.config, os.environ).settings

        def whole(wiring: Wiring) -> dict[str, Any]:
            return bootstrap(settings, wiring)

        def alone(wiring: Wiring) -> dict[str, Any]:
            return _without(whole(wiring), DECIDES, *READS_USAGE)

        def asking(wiring: Wiring) -> dict[str, Any]:
            return _without(_pointed_at(whole(wiring), empty.port), *READS_USAGE)

        kinds = {"Envoy alone": alone, "Envoy with an empty ext_authz": asking, "**Envoy with slm-authz**": whole}
        gateways = {
            name: _Gateway(context, stack, str(envoy.path), f"envoy-{number}", render, upstream)
            for number, (name, render) in enumerate(kinds.items())
        }
        return _measure(context, gateways, service, envoy.version)


def _measure(context: Context, gateways: dict[str, _Gateway], service: Service, version: str) -> Section:
    requests = [http1.request(key) for key in service.keys]
    runs: dict[str, list[load.Load]] = {name: [] for name in gateways}
    used: list[float] = []
    for gateway in gateways.values():
        http1.drive(gateway.port, requests, cpu=gateway.server.cpu, seconds=2.5)  # Envoy has seen its clusters healthy by then
    for number in range(context.rounds):
        context.say(f"envoy: round {number + 1} of {context.rounds}")
        for name, gateway in gateways.items():
            before = service.server.cpu()
            one = http1.drive(gateway.port, requests, cpu=gateway.server.cpu, seconds=context.seconds)
            runs[name].append(one)
            if name.startswith("**"):
                used.append((service.server.cpu() - before) / max(1, one.requests) * 1e6)
    middle = {name: load.middle(of) for name, of in runs.items()}
    alone, asking, ours = middle.values()
    return Section(
        title="End to end through Envoy",
        method=(
            f"Envoy {version} with one worker on the measured core; load, model server, the empty service and slm-authz share the other core. 32 connections, "
            "whole chat completions from a model server that answers at once. With slm-authz Envoy also reads the usage and reports it in the access "
            "log; the other two do neither."
        ),
        columns=("", "requests/s", "p50 ms", "p99 ms", "Envoy's CPU µs per request", "Envoy's core busy"),
        rows=[
            (name, f"{one.rate:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.cpu:.0f}", f"{one.rate * one.cpu / 1e6:.0%}")
            for name, one in middle.items()
        ],
        notes=[
            f"CPU of slm-authz per request, settlement and audit included: {sorted(used)[len(used) // 2]:.0f} µs.",
            f"Throughput with slm-authz: {ours.rate / alone.rate:.0%} of Envoy alone, {ours.rate / asking.rate:.0%} of Envoy with an empty ext_authz.",
            "Where Envoy's core is not busy, the other one was the bottleneck: that throughput is a lower bound, and its CPU the figure to compare.",
            f"Answers other than 200: {sum(one.refused for one in middle.values())}.",
        ],
    )
