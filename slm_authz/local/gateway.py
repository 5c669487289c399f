"""A whole guarded gateway on this machine: sample upstream (or the user's), service, Envoy. What `up`, the demo and the tests run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from slm_authz.errors import DependencyError, UsageError
from slm_authz.local.discovery import models_of, reachable
from slm_authz.local.envoy_binary import Envoy, find, validate
from slm_authz.local.envoy_config import bootstrap, to_json
from slm_authz.local.stack import Stack, answers, free_port, require_free, speaks_http
from slm_authz.local.wiring import Upstream, Wiring, parse_upstream, system_ca_file
from slm_authz.settings.address import Address, parse_address
from slm_authz.settings.load import load
from slm_authz.settings.schema import Settings

BUILT_IN: Final = Path(__file__).with_name("slm-authz.yaml")
_SELF: Final = (sys.executable, "-m", "slm_authz")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e]{1,4096}")


class Plan(msgspec.Struct, frozen=True):
    """What to run.

    directory: for files of the run; config: the user's file, None: the built-in one
    upstream: the user's model server, None: the sample; upstream_key_env: variable with the key that Envoy sends it
    temporary: the directory goes with us, however we end
    """

    directory: Path
    listen: str = "127.0.0.1:10000"
    config: Path | None = None
    upstream: str | None = None
    upstream_key_env: str | None = None
    envoy: str | None = None
    temporary: bool = False


class Gateway:
    """Start with `start`, stop with `stop`; `url` is where clients connect."""

    def __init__(self, plan: Plan, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._plan = plan
        self._env = dict(env)
        self._say = say
        self.stack = Stack(plan.directory, self._env, remove=plan.temporary)
        self.url = ""
        self.config = plan.config or plan.directory / "slm-authz.yaml"
        self.upstream_log = plan.directory / "upstream.jsonl"
        self.envoy: Envoy
        self.settings: Settings

    def start(self) -> None:
        """All parts, each ready before the next. Whatever fails stops the rest and is told as an SlmAuthzError."""
        plan = self._plan
        listen = parse_address(plan.listen)
        if listen.port:
            require_free(listen.host, listen.port, "The gateway")
        else:
            listen = Address(listen.host, free_port())
        key = self._upstream_key()
        upstream = parse_upstream(plan.upstream) if plan.upstream is not None else None
        self.envoy = find(plan.envoy, self._env, self._say)
        if plan.config is None:
            self._write_config(upstream, key)
        self.settings = load(self.config, self._env).settings
        try:
            if upstream is None:
                upstream = self._start_upstream()
            elif (why := reachable(upstream)) is not None:
                self._say(f"The model server at {upstream.url} cannot be reached: {why}. Calls are answered 503 until it is.")
            self._start_service()
            self._start_envoy(listen, upstream)
        except BaseException:
            self.stop()
            raise
        self.url = f"http://{listen.target}"

    def _upstream_key(self) -> str | None:
        """The model server's key, which must be fit for a header: Envoy writes it into one."""
        name = self._plan.upstream_key_env
        if name is None:
            return None
        key = self._env.get(name, "")
        if _HEADER_VALUE.fullmatch(key) is None:
            raise UsageError(
                f"The environment variable {name} holds no key.", "Export the model server's key there: visible ASCII, no spaces."
            )
        return key

    def _write_config(self, upstream: Upstream | None, key: str | None) -> None:
        """The built-in file on free ports; with the user's own model server, its models."""
        text = BUILT_IN.read_text()
        for address in ("127.0.0.1:9002", "127.0.0.1:9003"):
            text = text.replace(address, f"127.0.0.1:{free_port()}")
        if upstream is not None:
            document = yaml.safe_load(text)
            document["models"] = models_of(upstream, key)
            document["tiers"] = {"pro": {"models": ["*"], "limits": [{"requests": 60, "per": "minute"}, {"concurrent": 4}]}}
            document.pop("policies", None)
            text = yaml.safe_dump(document, sort_keys=False)
        self.config.write_text(text)

    def _start_upstream(self) -> Upstream:
        """Under the names, aliases and bounds that the configuration has for its models."""
        port = free_port()
        names = [
            f"--model={name}={model.context or 16384},{model.default_output_tokens}"
            for canonical, model in self.settings.models.items()
            for name in (canonical, *model.aliases)
            if not set("=,") & set(name)
        ]
        command = (sys.executable, "-m", "slm_authz.local.upstream", "--port", str(port), "--log", str(self.upstream_log), *names)
        child = self.stack.start("upstream", command, self._without_secrets())
        url = f"http://127.0.0.1:{port}"
        self.stack.wait(child, lambda: answers(f"{url}/v1/models"))
        return parse_upstream(url)

    def _start_service(self) -> None:
        for name in ("grpc", "admin", "health"):
            address = parse_address(getattr(self.settings.listen, name))
            if address.path is None and address.port:
                require_free(address.host, address.port, f"The service (listen.{name})")
        env = {name: value for name, value in self._env.items() if name != self._plan.upstream_key_env}
        if self._plan.temporary:
            env["TMPDIR"] = str(self._plan.directory)  # what a killed service leaves goes with the rest
        child = self.stack.start("service", (*_SELF, "serve", "-c", str(self.config), "--log-level", "info"), env)
        health = parse_address(self.settings.listen.health)
        self.stack.wait(child, lambda: answers(f"http://{health.target}/readyz"))

    def _start_envoy(self, listen: Address, upstream: Upstream) -> None:
        roots = system_ca_file(self._env.get("SSL_CERT_FILE"))
        tree = bootstrap(self.settings, Wiring(listen, upstream, self._plan.upstream_key_env, None, roots))
        path = self._plan.directory / "envoy.json"
        path.touch(0o600)
        path.write_text(to_json(tree))
        complaint = validate(self.envoy, path)
        if complaint is not None:
            raise DependencyError(f"Envoy {self.envoy.version} refuses the configuration:\n{complaint}", "Use Envoy 1.40, or newer.")
        command = (str(self.envoy.path), "-c", str(path), "--disable-hot-restart", "--concurrency", "2", "-l", "warning")
        child = self.stack.start("envoy", command, self._without_secrets() | self._key_for_envoy())
        self.stack.wait(child, lambda: speaks_http(listen.host, listen.port))

    def _without_secrets(self) -> dict[str, str]:
        """The environment of a process that needs neither our secrets nor the model server's key."""
        return {
            name: value for name, value in self._env.items() if not name.startswith("SLM_AUTHZ_") and name != self._plan.upstream_key_env
        }

    def _key_for_envoy(self) -> dict[str, str]:
        name = self._plan.upstream_key_env
        return {} if name is None else {name: self._env[name]}

    def cli(self, *words: str) -> Any:
        """Run a command of ours on this gateway's configuration and return its JSON."""
        command = [*_SELF, *words, "-c", str(self.config), "--output", "json"]
        answer = subprocess.run(command, capture_output=True, text=True, env=self._env, check=False)  # noqa: S603 - our own words
        if answer.returncode != 0:
            raise DependencyError(f"`slm-authz {' '.join(words)}` failed: {answer.stderr.strip()}")
        lines = [json.loads(line) for line in answer.stdout.splitlines() if line]
        return lines if words[0] == "audit" else lines[0]

    def stop(self) -> None:
        """Everything, in reverse order."""
        self.stack.stop()
