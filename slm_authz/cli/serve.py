"""`slm-authz serve`: run the service until SIGTERM or SIGINT; SIGHUP reads the configuration again."""

from __future__ import annotations

import argparse

from slm_authz.cli.main import add_common, config_path

HELP = "Run the service that Envoy asks: decisions, access log, health and usage. SIGHUP or a changed file reloads the configuration."
EXAMPLES = """\
  slm-authz serve -c slm-authz.yaml
  SLM_AUTHZ_CONFIG=/etc/slm-authz.yaml slm-authz serve
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-c`, and how much is logged."""
    add_common(parser)
    parser.add_argument(
        "--transport", choices=("auto", "native", "grpcio"), default="auto", help="gRPC server to use (default: the fastest installed)"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; 0 after an orderly end."""
    import logging
    import os
    import sys
    from pathlib import Path

    from slm_authz.app import Service

    logging.basicConfig(level=args.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    service = Service(Path(config_path(args)), os.environ, transport=args.transport)
    return service.run()
