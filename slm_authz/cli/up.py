"""`slm-authz up`: a guarded model API on this machine, in one command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_authz.cli.main import DEFAULT_CONFIG, add_common, named_config

if TYPE_CHECKING:
    from slm_authz.local.gateway import Gateway
    from slm_authz.settings.address import Address
    from slm_authz.settings.schema import Settings

HELP = (
    "Run Envoy, the service and a model server together: prints the gateway's URL, a fresh key, and what to paste. Ctrl-C stops all of it."
)
EXAMPLES = """\
  slm-authz up
  slm-authz up --upstream http://127.0.0.1:8000
  slm-authz up --upstream https://models.example.com --upstream-key-env MODELS_KEY -c slm-authz.yaml

Without -c, SLM_AUTHZ_CONFIG and ./slm-authz.yaml a built-in configuration is used and everything is kept in a temporary directory.
"""
_LOOK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the product contract, and --tier."""
    add_common(parser)
    parser.add_argument("--upstream", metavar="URL", help="your own model server (default: a small sample that comes with the package)")
    parser.add_argument("--upstream-key-env", metavar="NAME", help="environment variable with the key that Envoy sends to the upstream")
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1:10000", help="where clients connect (default: %(default)s)")
    parser.add_argument("--envoy", metavar="PATH", help="your Envoy (default: a pinned one is installed once)")
    parser.add_argument("--tier", metavar="T", help="tier of the fresh key (default: the file's last)")


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C or SIGTERM, 130 where that comes before all is ready; 1: the configuration has problems; 3: a part cannot run, or ends."""
    import os
    import signal
    import sys
    import tempfile

    from slm_authz.compose import load_all
    from slm_authz.errors import ConfigError
    from slm_authz.local.gateway import Gateway, Plan
    from slm_authz.local.wiring import parse_listen, parse_variable

    key_env = parse_variable(args.upstream_key_env) if args.upstream_key_env is not None else None
    listen = parse_listen(args.listen)
    config = named_config(args) or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    ready = False
    with tempfile.TemporaryDirectory(prefix="slm-authz-up-") as directory:
        plan = Plan(Path(directory), listen.target, Path(config) if config else None, args.upstream, key_env, args.envoy, temporary=True)
        gateway = Gateway(plan, os.environ, lambda text: print(text, file=sys.stderr, flush=True))
        print(f"Starting with {config or 'the built-in configuration'} ...", file=sys.stderr, flush=True)
        try:
            if config is not None:
                load_all(config, os.environ)  # all that is wrong with it, before anything runs
            gateway.start()
            with _fresh_key(args, gateway, keep=config is None) as record:
                ready = True
                _greet(args, gateway, listen, record)
                _watch(gateway)
        except ConfigError as error:
            _explain(error)
            return error.exit_code
        except KeyboardInterrupt:
            print("\nStopping ...", file=sys.stderr, flush=True)
        finally:
            gateway.stop()
    return 0 if ready else 130


@contextmanager
def _fresh_key(args: argparse.Namespace, gateway: Gateway, *, keep: bool) -> Iterator[dict[str, Any]]:
    """A key for trying; in a user's own store it is revoked afterwards."""
    from slm_authz.errors import NotFound

    tiers = list(gateway.settings.tiers)
    tier = args.tier or tiers[-1]
    if tier not in tiers:
        raise NotFound(f"There is no tier {tier!r}.", f"Configured tiers: {', '.join(tiers)}.")
    record = gateway.cli("keys", "create", "--client", "me", "--tier", tier, "--name", "slm-authz up", "--expires", "7d")
    try:
        yield record
    finally:
        if not keep:
            gateway.cli("keys", "revoke", record["id"])


def _watch(gateway: Gateway) -> None:
    """Until a part ends by itself (DependencyError) or somebody stops us (KeyboardInterrupt)."""
    import time

    while (dead := gateway.stack.dead()) is None:
        time.sleep(_LOOK_S)
    raise dead.ended()


def _model(settings: Settings, tier: str) -> str:
    """The first model that the tier may use."""
    from slm_authz.settings.patterns import matches

    patterns = settings.tiers[tier].models
    return next(name for name, model in settings.models.items() if any(matches(pattern, name, model.aliases) for pattern in patterns))


def _explain(error: Any) -> None:
    """Every problem of the configuration, with its line and remedy."""
    import sys

    print(f"slm-authz: {error}", file=sys.stderr)
    for problem in error.problems:
        print(f"  line {problem.line or 1}: {problem.message}. {problem.fix}", file=sys.stderr)


def _greet(args: argparse.Namespace, gateway: Gateway, listen: Address, record: dict[str, Any]) -> None:
    """What to paste. DependencyError: nobody could read it, the key least of all."""
    import sys

    from slm_authz.cli.output import paint
    from slm_authz.cli.streams import Unwritten
    from slm_authz.errors import DependencyError

    if not listen.local:
        warning = f"the gateway listens on {listen.target}: it can be reached from outside this machine, without TLS"
        print(f"{paint('warning', 'yellow', sys.stderr)}: {warning}", file=sys.stderr, flush=True)
    try:
        _show(args, gateway, _url(listen), record, _model(gateway.settings, record["tier"]))
    except Unwritten as lost:
        raise DependencyError(f"Nobody can read the key: {lost}.") from lost


def _url(listen: Address) -> str:
    """Where a client on this machine connects: 0.0.0.0 and :: are addresses to listen on, and lead nowhere."""
    from ipaddress import ip_address

    if not ip_address(listen.host.strip("[]")).is_unspecified:
        return f"http://{listen.target}"
    return f"http://{'[::1]' if ':' in listen.host else '127.0.0.1'}:{listen.port}"


def _show(args: argparse.Namespace, gateway: Gateway, url: str, record: dict[str, Any], model: str) -> None:
    import shlex

    from slm_authz.cli.output import json_line, paint
    from slm_authz.local.demo import own_command

    key = record["key"]
    if args.output == "json":
        shown = {"url": url, "key": key, "key_id": record["id"], "client": record["client"], "tier": record["tier"], "model": model}
        json_line({**shown, "config": str(gateway.config), "envoy": gateway.envoy.version})
        print(end="", flush=True)
        return
    command, config = own_command(), shlex.quote(str(gateway.config))
    print(
        f"""
{paint("Gateway", "bold")}  {url}   (Envoy {gateway.envoy.version})
{paint("Key", "bold")}      {key}   (client me, tier {record["tier"]}; shown this once)
{paint("Models", "bold")}   {", ".join(gateway.settings.models)}

{paint("curl", "bold")}
curl {url}/v1/chat/completions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

{paint("Python", "bold")}
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{key}")
print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)

{paint("Look", "bold")}
{command} usage -c {config}
{command} audit tail -c {config}

Ctrl-C stops all of it.""",
        flush=True,
    )
