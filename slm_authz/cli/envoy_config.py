"""`slm-authz envoy-config`: the Envoy configuration that belongs to a file."""

from __future__ import annotations

import argparse

from slm_authz.cli.main import add_common, config_path

HELP = "Print the Envoy configuration that belongs to your file: wiring, timeouts and buffer sizes from its numbers."
EXAMPLES = """\
  slm-authz envoy-config --upstream http://127.0.0.1:8000 > envoy.yaml
  slm-authz envoy-config --validate --output json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where clients connect and where the model server is."""
    add_common(parser)
    parser.add_argument("--upstream", metavar="URL", default="http://127.0.0.1:8000", help="your model server (default: %(default)s)")
    parser.add_argument("--listen", metavar="ADDRESS", default="127.0.0.1:10000", help="where clients connect (default: %(default)s)")
    parser.add_argument("--envoy", metavar="PATH", help="the Envoy to validate with")
    parser.add_argument("--validate", action="store_true", help="let a real Envoy check it (installed once where none is named)")


def run(args: argparse.Namespace) -> int:
    """0; 1 where Envoy refuses the configuration."""
    import os
    import sys
    import tempfile
    from pathlib import Path

    from slm_authz.local.envoy_binary import find, validate
    from slm_authz.local.envoy_config import bootstrap, to_json, to_yaml
    from slm_authz.local.wiring import Wiring, parse_listen, parse_upstream, system_ca_file
    from slm_authz.settings.load import load

    settings = load(config_path(args), os.environ).settings
    roots = system_ca_file(os.environ.get("SSL_CERT_FILE"))
    tree = bootstrap(settings, Wiring(parse_listen(args.listen), parse_upstream(args.upstream), None, None, roots))
    if args.validate:
        envoy = find(args.envoy, os.environ, lambda text: print(text, file=sys.stderr))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "envoy.json"
            path.write_text(to_json(tree))
            complaint = validate(envoy, path)
        if complaint is not None:
            print(complaint, file=sys.stderr)
            return 1
    header = f"Made by `slm-authz envoy-config` from {config_path(args)}. Proven on Envoy 1.40."
    print(to_json(tree) if args.output == "json" else to_yaml(tree, header), end="")
    return 0
