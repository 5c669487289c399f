"""`slm-authz envoy-config`: the Envoy configuration that belongs to a file."""

from __future__ import annotations

import argparse
from typing import Any

from slm_authz.cli.main import add_common, config_path

HELP = "Print the Envoy configuration that belongs to your file: wiring, timeouts and buffer sizes from its numbers."
EXAMPLES = """\
  slm-authz envoy-config --upstream http://127.0.0.1:8000 > envoy.yaml
  slm-authz envoy-config --upstream https://models.example.com --upstream-key-env MODELS_KEY --validate > envoy.yaml
"""
_HEADER = """\
Made by `slm-authz envoy-config` from {config}. Proven on Envoy 1.40.
Run it with: envoy -c FILE --disable-hot-restart
Make it anew when listen, metering or client_address change: its timeouts and buffer sizes come from there.
deploy/envoy/envoy.yaml of the project is the same wiring with a reason beside each line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where clients connect and where the model server is."""
    add_common(parser)
    parser.add_argument("--upstream", metavar="URL", default="http://127.0.0.1:8000", help="your model server (default: %(default)s)")
    parser.add_argument(
        "--upstream-key-env", metavar="NAME", help="environment variable, of Envoy, with the key that it sends to the upstream"
    )
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1:10000", help="where clients connect (default: %(default)s)")
    parser.add_argument("--admin", metavar="ADDRESS", help="Envoy's own admin interface, on loopback (default: none)")
    parser.add_argument("--envoy", metavar="PATH", help="the Envoy to validate with")
    parser.add_argument("--validate", action="store_true", help="let a real Envoy check it (installed once where none is named)")


def run(args: argparse.Namespace) -> int:
    """0; 1 where Envoy refuses the configuration."""
    import os
    import sys

    from slm_authz.cli.output import cell
    from slm_authz.compose import load_all
    from slm_authz.errors import UsageError
    from slm_authz.local.envoy_config import bootstrap, to_json, to_yaml
    from slm_authz.local.wiring import Wiring, parse_listen, parse_upstream, parse_variable, system_ca_file

    admin = parse_listen(args.admin, "--admin") if args.admin is not None else None
    if admin is not None and not admin.local:
        raise UsageError("--admin is for loopback only: whoever reaches it commands Envoy.", "Write it like 127.0.0.1:9901.")
    key_env = parse_variable(args.upstream_key_env) if args.upstream_key_env is not None else None
    wiring = Wiring(
        parse_listen(args.listen), parse_upstream(args.upstream), key_env, admin, system_ca_file(os.environ.get("SSL_CERT_FILE"))
    )
    tree = bootstrap(load_all(config_path(args), os.environ).settings, wiring)
    complaint = _complaint(args.envoy, tree) if args.validate else None
    if complaint is not None:
        print(f"slm-authz: Envoy refuses the configuration:\n{complaint}", file=sys.stderr)
        return 1
    print(to_json(tree) if args.output == "json" else to_yaml(tree, _HEADER.format(config=cell(config_path(args)))), end="")
    return 0


def _complaint(path: str | None, tree: dict[str, Any]) -> str | None:
    """What a real Envoy says against it."""
    import os
    import sys
    import tempfile
    from pathlib import Path

    from slm_authz.local.envoy_binary import find, validate
    from slm_authz.local.envoy_config import to_json

    envoy = find(path, os.environ, lambda text: print(text, file=sys.stderr, flush=True))
    with tempfile.TemporaryDirectory(prefix="slm-authz-") as directory:
        config = Path(directory) / "envoy.json"
        config.write_text(to_json(tree))
        return validate(envoy, config)
