"""A whole guarded gateway on this machine: sample upstream (or the user's), service, Envoy. What `up` and the demo run."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from slm_authz.errors import DependencyError, UsageError
from slm_authz.local.envoy_binary import Envoy, find, validate
from slm_authz.local.envoy_config import bootstrap, to_json
from slm_authz.local.stack import Stack, answers, free_port, require_free
from slm_authz.local.wiring import Wiring, parse_upstream, system_ca_file
from slm_authz.settings.address import parse_address
from slm_authz.settings.load import load

_BUILT_IN: Final = Path(__file__).with_name("slm-authz.yaml")
_SELF: Final = (sys.executable, "-m", "slm_authz")


class Plan(msgspec.Struct, frozen=True):
    """What to run.

    directory: for files of the run; config: the user's file, None: the built-in one
    upstream: the user's model server, None: the sample; upstream_key_env: variable with the key that Envoy sends it
    """

    directory: Path
    listen: str = "127.0.0.1:10000"
    config: Path | None = None
    upstream: str | None = None
    upstream_key_env: str | None = None
    envoy: str | None = None


class Gateway:
    """Start with `start`, stop with `stop`; `url` is where clients connect."""

    def __init__(self, plan: Plan, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._plan = plan
        self._env = dict(env)
        self._say = say
        self.stack = Stack(plan.directory, env)
        self.url = ""
        self.config = plan.directory / "slm-authz.yaml"
        self.upstream_log = plan.directory / "upstream.jsonl"
        self.envoy: Envoy

    def start(self) -> None:
        """All parts, each ready before the next. Whatever fails stops the rest."""
        plan = self._plan
        listen = parse_address(plan.listen)
        if listen.port:
            require_free(listen.host, listen.port, "the gateway")
        else:
            listen = parse_address(f"{listen.host}:{free_port()}")
        self.envoy = find(plan.envoy, self._env, self._say)
        try:
            upstream = plan.upstream or self._start_upstream()
            self._write_config(upstream)
            self._start_service()
            self._start_envoy(listen.target, upstream)
        except BaseException:
            self.stop()
            raise
        self.url = f"http://{listen.target}"

    def _start_upstream(self) -> str:
        port = free_port()
        command = (sys.executable, "-m", "slm_authz.local.upstream", "--port", str(port), "--log", str(self.upstream_log))
        child = self.stack.start("upstream", command)
        url = f"http://127.0.0.1:{port}"
        self.stack.wait(child, lambda: answers(f"{url}/v1/models"))
        return url

    def _write_config(self, upstream: str) -> None:
        if self._plan.config is not None:
            self.config = self._plan.config
            return
        text = _BUILT_IN.read_text().replace("{admin_port}", str(free_port())).replace("{health_port}", str(free_port()))
        if self._plan.upstream is not None:
            document = yaml.safe_load(text)
            _discover(document, upstream, self._env.get(self._plan.upstream_key_env or ""))
            text = yaml.safe_dump(document, sort_keys=False)
        self.config.write_text(text)

    def _start_service(self) -> None:
        settings = load(self.config, self._env).settings
        child = self.stack.start("service", (*_SELF, "serve", "-c", str(self.config), "--log-level", "info"))
        health = parse_address(settings.listen.health)
        self.stack.wait(child, lambda: answers(f"http://{health.target}/readyz"))

    def _start_envoy(self, listen: str, upstream: str) -> None:
        settings = load(self.config, self._env).settings
        admin = parse_address(f"127.0.0.1:{free_port()}")
        roots = system_ca_file(self._env.get("SSL_CERT_FILE"))
        wiring = Wiring(parse_address(listen), parse_upstream(upstream), self._plan.upstream_key_env, admin, roots)
        path = self._plan.directory / "envoy.json"
        path.write_text(to_json(bootstrap(settings, wiring)))
        complaint = validate(self.envoy, path)
        if complaint is not None:
            raise DependencyError(f"Envoy {self.envoy.version} refuses the configuration:\n{complaint}")
        command = (str(self.envoy.path), "-c", str(path), "--disable-hot-restart", "--concurrency", "2", "-l", "warning")
        child = self.stack.start("envoy", command)
        self.stack.wait(child, lambda: answers(f"http://{admin.target}/ready") and _serving(admin.target))

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


def _serving(admin: str) -> bool:
    """Whether Envoy holds the service for healthy, so that the first call is not refused."""
    try:
        with urllib.request.urlopen(f"http://{admin}/clusters", timeout=1) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return False
    return any(line.startswith("slm_authz::") and line.endswith("::health_flags::healthy") for line in lines)


def _discover(document: dict[str, Any], upstream: str, key: str | None) -> None:
    """Replace the sample's models by those that the user's server lists, with cautious defaults and without prices."""
    request = urllib.request.Request(f"{parse_upstream(upstream).url}/v1/models")  # noqa: S310 - the user's own URL
    if key is not None:
        request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - the user's own URL
            names = [model["id"] for model in json.load(answer)["data"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DependencyError(
            f"The upstream's list of models cannot be read: {error}.", "Is it up? With -c FILE its models come from your file."
        ) from error
    if not names:
        raise UsageError("The upstream lists no models.", "Describe them in a file and give it with -c FILE.")
    document["models"] = {name: {"default_output_tokens": 1024, "max_output_tokens": 4096, "price": "free"} for name in names}
    document["tiers"] = {"default": {"models": ["*"], "limits": [{"requests": 60, "per": "minute"}, {"concurrent": 4}]}}
    document.pop("policies", None)
