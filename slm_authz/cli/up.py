"""`slm-authz up`: a guarded model API on this machine, in one command."""

from __future__ import annotations

import argparse

from slm_authz.cli.main import add_common

HELP = (
    "Run Envoy, the service and a model server together: prints the gateway's URL, a fresh key, and what to paste. Ctrl-C stops all of it."
)
EXAMPLES = """\
  slm-authz up
  slm-authz up --upstream http://127.0.0.1:8000
  slm-authz up --upstream https://models.example.com --upstream-key-env MODELS_KEY -c slm-authz.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the product contract."""
    add_common(parser)
    parser.add_argument("--upstream", metavar="URL", help="your own model server (default: a small sample that comes with the package)")
    parser.add_argument("--upstream-key-env", metavar="NAME", help="environment variable with the key that Envoy sends to the upstream")
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1:10000", help="where clients connect (default: %(default)s)")
    parser.add_argument("--envoy", metavar="PATH", help="your Envoy (default: a pinned one is installed once)")


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C; 3 where a part cannot run."""
    import os
    import signal
    import sys
    import tempfile
    import time
    from pathlib import Path

    from slm_authz.errors import UsageError
    from slm_authz.local.gateway import Gateway, Plan
    from slm_authz.local.wiring import parse_variable

    key_env = parse_variable(args.upstream_key_env) if args.upstream_key_env is not None else None
    if key_env is not None and not os.environ.get(key_env):
        raise UsageError(f"The environment variable {key_env} is not set.", "Export the upstream's key there.")
    config = args.config or os.environ.get("SLM_AUTHZ_CONFIG")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="slm-authz-up-") as directory:
        plan = Plan(Path(directory), args.listen, Path(config) if config else None, args.upstream, key_env, args.envoy)
        gateway = Gateway(plan, os.environ, lambda text: print(text, file=sys.stderr, flush=True))
        print("Starting ...", file=sys.stderr, flush=True)
        gateway.start()
        try:
            _greet(args, gateway)
            while (dead := gateway.stack.dead()) is None:
                time.sleep(0.5)
            raise dead.ended()
        except KeyboardInterrupt:
            print("\nStopping ...", file=sys.stderr, flush=True)
        finally:
            gateway.stop()
    return 0


def _greet(args: argparse.Namespace, gateway: object) -> None:
    import os

    from slm_authz.cli.output import json_line, paint
    from slm_authz.local.gateway import Gateway
    from slm_authz.settings.load import load

    if not isinstance(gateway, Gateway):
        raise TypeError("a gateway is needed")
    settings = load(gateway.config, os.environ).settings
    tier = list(settings.tiers)[-1]
    key = gateway.cli("keys", "create", "--client", "me", "--tier", tier)["key"]
    model = next(iter(settings.models))
    if args.output == "json":
        json_line({"url": gateway.url, "key": key, "tier": tier, "model": model})
        return
    print(
        f"""
{paint("Gateway", "bold")}  {gateway.url}
{paint("Key", "bold")}      {key}   (client me, tier {tier})

curl {gateway.url}/v1/chat/completions \\
  -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

from openai import OpenAI
client = OpenAI(base_url="{gateway.url}/v1", api_key="{key}")
print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]).choices[0].message.content)

slm-authz usage -c {gateway.config}
slm-authz audit tail -c {gateway.config}

Ctrl-C stops all of it.""",
        flush=True,
    )
