"""`slm-authz usage`: how all limits stand, as the running service counts them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slm_authz.cli.main import add_common, config_path

if TYPE_CHECKING:
    from http.client import HTTPConnection

    from slm_authz.settings.address import Address
    from slm_authz.settings.schema import Settings

HELP = "Show limits, and what is used, held and left, as the running service counts it."
EXAMPLES = """\
  slm-authz usage
  slm-authz usage --client acme --output json
"""
_FILTERS = {"client": "C", "tenant": "T", "key": "ID", "model": "M"}
_TIMEOUT_S = 30
_LONGEST = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Filters."""
    add_common(parser)
    for name, metavar in _FILTERS.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=f"only limits of this {name}")


def run(args: argparse.Namespace) -> int:
    """0; 1: there is no such model or key; 2: a key where a name belongs; 3: the service does not answer."""
    import os
    import sys
    import time

    from slm_authz.cli.output import json_line, paint, table
    from slm_authz.compose import load_all
    from slm_authz.errors import NotFound

    settings = load_all(config_path(args), os.environ).settings
    filters = {name: value for name in _FILTERS if (value := getattr(args, name)) is not None}
    _refuse_keys(filters)
    if args.model is not None and args.model not in settings.models:
        raise NotFound(f"There is no model {args.model!r}.", f"Configured models: {', '.join(settings.models)}.")
    data, warnings = _everything(settings, os.environ, filters)
    if args.key is not None and not data:
        raise NotFound(f"There is no key with the id {args.key!r} that could be used.", "`slm-authz keys list` shows all ids.")
    if args.output == "json":
        json_line({"data": data, "next_cursor": None, "warnings": warnings})
        return 0
    now = time.time()
    rows = [
        [*(row.get(name) for name in ("name", "subject", "used", "held", "left", "limit")), _resets(row.get("reset_at"), now)]
        for row in data
    ]
    table(("name", "subject", "used", "held", "left", "limit", "resets in"), rows)
    if not data:
        print("slm-authz: there is no limit to show: no caller is known yet, or none is meant by these filters", file=sys.stderr)
    for warning in warnings:
        print(f"{paint('warning', 'yellow', sys.stderr)}: {warning}", file=sys.stderr)
    return 0


def _refuse_keys(filters: Mapping[str, str]) -> None:
    """Filters travel in a URL, where no secret may stand. A key in place of its id is told as `keys show` tells it."""
    from slm_authz.cli.streams import masked
    from slm_authz.errors import UsageError
    from slm_authz.identity.key_format import PREFIX
    from slm_authz.identity.lifecycle import unknown

    for name, value in filters.items():
        if name == "key" and PREFIX in value:
            raise unknown(value)
        if masked(value) != value:
            raise UsageError(f"--{name} takes a name, not a key.")


def _resets(at: object, now: float) -> str | None:
    """The time until a limit resets, to the second; None: it does not."""
    from datetime import datetime

    from slm_authz.units import format_duration

    if not isinstance(at, str):
        return None
    left = int(datetime.fromisoformat(at).timestamp() - now)
    return format_duration(max(0, left) * 1000)


def _everything(settings: Settings, env: Mapping[str, str], filters: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
    """All pages: the rows, and the warnings of the last one."""
    from slm_authz.admin.token import find
    from slm_authz.settings.load import database

    token = find(env, database(settings))
    data: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = _ask(settings, token, {**filters, **({"cursor": cursor} if cursor is not None else {})})
        data.extend(page["data"])
        cursor = page.get("next_cursor")
        if cursor is None:
            return data, page.get("warnings", [])


def _ask(settings: Settings, token: str, query: Mapping[str, str]) -> dict[str, Any]:
    import json
    from http.client import HTTPException
    from urllib.parse import urlencode

    from slm_authz.errors import DependencyError
    from slm_authz.settings.address import parse_address

    if not (token.isascii() and token.isprintable()) or " " in token:
        # http.client would name the value that it refuses, and this one is a secret.
        raise DependencyError("The admin token has characters that no header can carry.", "Check SLM_AUTHZ_ADMIN_TOKEN or its _FILE.")
    address = parse_address(settings.listen.admin)
    connection = _connection(address)
    headers = {"authorization": f"Bearer {token}", "host": _host(settings.listen.admin_hosts[0]), "accept": "application/json"}
    where = settings.listen.admin
    try:
        connection.request("GET", f"/v1/usage?{urlencode(query)}", headers=headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read(_LONGEST)
    except (OSError, HTTPException) as error:
        fix = "Is `slm-authz serve` running with this file?"
        raise DependencyError(f"The service does not answer on {where}: {_cause(error)}.", fix) from error
    finally:
        connection.close()
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict) or (status == 200 and not isinstance(body.get("data"), list)):
        raise DependencyError(f"What answers on {where} is not slm-authz.", "Is another program listening there?")
    if status != 200:
        raise DependencyError(f"The service refused ({status}): {body.get('detail')}", body.get("fix"))
    return body


def _host(name: str) -> str:
    """As a Host header spells it: an IPv6 address stands in brackets."""
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _connection(address: Address) -> HTTPConnection:
    import socket
    from http.client import HTTPConnection

    path = address.path
    if path is None:
        return HTTPConnection(address.host.strip("[]"), address.port, timeout=_TIMEOUT_S)

    class _Unix(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(_TIMEOUT_S)
            self.sock.connect(str(path))

    return _Unix("localhost", timeout=_TIMEOUT_S)
