"""`slm-authz usage`: how all limits stand, as the running service counts them."""

from __future__ import annotations

import argparse
from typing import Any

from slm_authz.cli.main import add_common, config_path

HELP = "Show limits, and what is used, held and left, as the running service counts it."
EXAMPLES = """\
  slm-authz usage
  slm-authz usage --client acme --output json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Filters."""
    add_common(parser)
    for name in ("client", "tenant", "key", "model"):
        parser.add_argument(f"--{name}", metavar=name[0].upper())


def run(args: argparse.Namespace) -> int:
    """0, or 3 where the service does not answer."""
    import os
    import sys

    from slm_authz.cli.output import json_line, paint, table
    from slm_authz.settings.load import load

    settings = load(config_path(args), os.environ).settings
    filters = {name: value for name in ("client", "tenant", "key", "model") if (value := getattr(args, name)) is not None}
    data: list[dict[str, Any]] = []
    warnings: list[str] = []
    cursor: str | None = None
    while True:
        page = _ask(settings, os.environ, {**filters, **({"cursor": cursor} if cursor else {})})
        data.extend(page["data"])
        warnings = page["warnings"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if args.output == "json":
        json_line({"data": data, "warnings": warnings})
        return 0
    rows = [[row[name] for name in ("name", "subject", "used", "held", "left", "limit", "per", "reset_at")] for row in data]
    table(("limit", "subject", "used", "held", "left", "size", "per", "resets at"), rows)
    for warning in warnings:
        print(f"{paint('warning', 'yellow', sys.stderr)}: {warning}", file=sys.stderr)
    return 0


def _ask(settings: Any, env: Any, query: dict[str, str]) -> dict[str, Any]:
    import http.client
    import json
    import socket
    from urllib.parse import urlencode

    from slm_authz.errors import DependencyError
    from slm_authz.settings.address import parse_address

    address = parse_address(settings.listen.admin)
    connection = http.client.HTTPConnection(address.host.strip("[]") or "localhost", address.port or 80, timeout=10)
    if address.path is not None:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
    try:
        if address.path is not None:
            connection.sock.connect(str(address.path))
        headers = {"authorization": f"Bearer {_token(settings, env)}", "host": settings.listen.admin_hosts[0]}
        connection.request("GET", f"/v1/usage?{urlencode(query)}", headers=headers)
        answer = connection.getresponse()
        body: dict[str, Any] = json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise DependencyError(
            f"The service does not answer on {settings.listen.admin}: {error}.", "Is `slm-authz serve` running with this file?"
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise DependencyError(f"The service refused: {body.get('detail')}", body.get("fix"))
    return body


def _token(settings: Any, env: Any) -> str:
    from pathlib import Path

    from slm_authz.errors import DependencyError
    from slm_authz.settings.load import database

    given: str | None = env.get("SLM_AUTHZ_ADMIN_TOKEN")
    if given:
        return given
    path = Path(env.get("SLM_AUTHZ_ADMIN_TOKEN_FILE") or database(settings).with_name("admin.token"))
    try:
        return path.read_text().strip()
    except OSError as error:
        raise DependencyError(
            f"The admin token {path} cannot be read: {error.strerror}.", "Start `slm-authz serve` once: it makes the token."
        ) from error
