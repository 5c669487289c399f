"""`slm-authz up`: a guarded model API on this machine, in one command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from slm_authz.cli.main import add_common

if TYPE_CHECKING:
    from slm_authz.local.gateway import Gateway
    from slm_authz.settings.schema import Settings

HELP = (
    "Run Envoy, the service and a model server together: prints the gateway's URL, a fresh key, and what to paste. Ctrl-C stops all of it."
)
EXAMPLES = """\
  slm-authz up
  slm-authz up --upstream http://127.0.0.1:8000
  slm-authz up --upstream https://models.example.com --upstream-key-env MODELS_KEY -c slm-authz.yaml

Without -c (or SLM_AUTHZ_CONFIG) a built-in configuration is used and everything is kept in a temporary directory.
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
    """0 after Ctrl-C or SIGTERM; 1 where the configuration has problems; 3 where a part cannot run, or ends by itself."""
    import os
    import signal
    import sys
    import tempfile
    from pathlib import Path

    from slm_authz.errors import ConfigError
    from slm_authz.local.gateway import Gateway, Plan
    from slm_authz.local.wiring import parse_listen, parse_variable

    key_env = parse_variable(args.upstream_key_env) if args.upstream_key_env is not None else None
    parse_listen(args.listen)
    config = args.config or os.environ.get("SLM_AUTHZ_CONFIG")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="slm-authz-up-") as directory:
        plan = Plan(Path(directory), args.listen, Path(config) if config else None, args.upstream, key_env, args.envoy, temporary=True)
        gateway = Gateway(plan, os.environ, lambda text: print(text, file=sys.stderr, flush=True))
        print(f"Starting with {config or 'the built-in configuration'} ...", file=sys.stderr, flush=True)
        try:
            gateway.start()
            _serve(args, gateway, keep=config is None)
        except ConfigError as error:
            _explain(error)
            return error.exit_code
        except KeyboardInterrupt:
            print("\nStopping ...", file=sys.stderr, flush=True)
        finally:
            gateway.stop()
    return 0


def _serve(args: argparse.Namespace, gateway: Gateway, *, keep: bool) -> None:
    """Until a part ends by itself (DependencyError) or somebody stops us (KeyboardInterrupt). In a user's own store the key is revoked then."""
    import time

    from slm_authz.errors import NotFound

    tiers = list(gateway.settings.tiers)
    tier = args.tier or tiers[-1]
    if tier not in tiers:
        raise NotFound(f"There is no tier {tier!r}.", f"Configured tiers: {', '.join(tiers)}.")
    record = gateway.cli("keys", "create", "--client", "me", "--tier", tier, "--name", "slm-authz up", "--expires", "7d")
    try:
        _greet(args, gateway, record, _model(gateway.settings, tier))
        while (dead := gateway.stack.dead()) is None:
            time.sleep(_LOOK_S)
        raise dead.ended()
    finally:
        if not keep:
            gateway.cli("keys", "revoke", record["id"])


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


def _greet(args: argparse.Namespace, gateway: Gateway, record: dict[str, Any], model: str) -> None:
    from slm_authz.cli.output import json_line, paint

    url, key = gateway.url, record["key"]
    if args.output == "json":
        import sys

        shown = {"url": url, "key": key, "key_id": record["id"], "client": record["client"], "tier": record["tier"], "model": model}
        json_line({**shown, "config": str(gateway.config), "envoy": gateway.envoy.version})
        sys.stdout.flush()
        return
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
slm-authz usage -c {gateway.config}
slm-authz audit tail -c {gateway.config}

Ctrl-C stops all of it.""",
        flush=True,
    )
