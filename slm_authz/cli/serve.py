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
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="the least that is logged, on standard error (default: info)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; 0 after an orderly end."""
    import logging
    import os
    import signal
    import sys
    from pathlib import Path

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a configuration that could be read again

    from slm_authz.app import Service

    logging.basicConfig(level=args.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("pygrpc_native").setLevel(logging.ERROR)  # what it warns of is told in our own words
    service = Service(Path(config_path(args)), os.environ, transport=args.transport)
    return service.run()
