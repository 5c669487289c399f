"""`slm-authz config check|show|schema`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from slm_authz.cli.main import add_common, config_path

HELP = "Check a configuration and name every problem at once, show what is in force, or print the schema."
EXAMPLES = """\
  slm-authz config check -c slm-authz.yaml
  slm-authz config show --output json
  slm-authz config schema > slm-authz.schema.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """check, show, schema."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|show|schema")
    for name, line in (
        ("check", "name every problem with its line and remedy"),
        ("show", "print the configuration with all defaults filled in and secrets masked"),
        ("schema", "print the JSON Schema of the file"),
    ):
        action = actions.add_parser(
            name, help=line, description=line.capitalize() + ".", epilog=f"example:\n  slm-authz config {name} -c slm-authz.yaml",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        add_common(action)


def run(args: argparse.Namespace) -> int:
    """0: fine; 1: the configuration has errors."""
    if args.action == "schema":
        from slm_authz.cli.output import json_line
        from slm_authz.settings.schema import Settings

        json_line(Settings.model_json_schema())
        return 0
    return _check(args) if args.action == "check" else _show(args)


def _check(args: argparse.Namespace) -> int:
    import os

    from slm_authz.cli.output import json_line, paint
    from slm_authz.compose import load_all
    from slm_authz.errors import ConfigError

    path = config_path(args)
    try:
        problems = load_all(path, os.environ).warnings
        ok = True
    except ConfigError as error:
        problems, ok = error.problems, False
    if args.output == "json":
        json_line({"ok": ok, "problems": problems})
        return 0 if ok else 1
    for problem in problems:
        colour = "red" if problem.severity == "error" else "yellow"
        place = f"{path}:{problem.line or 1}"
        print(f"{place}: {paint(problem.severity, colour)}: {problem.message}" + (f" [{problem.path}]" if problem.path else ""))
        print(f"    {problem.fix}")
    if ok:
        print(f"{path}: {paint('ok', 'green')}" + (f", {len(problems)} warnings" if problems else ""))
    return 0 if ok else 1


def _show(args: argparse.Namespace) -> int:
    import os

    from slm_authz.cli.output import json_line
    from slm_authz.compose import load_all
    from slm_authz.errors import ConfigError
    from slm_authz.settings.show import as_yaml, public

    try:
        loaded = load_all(config_path(args), os.environ)
    except ConfigError as error:
        print(f"slm-authz: {error} Run `slm-authz config check` to see them.", file=sys.stderr)
        return 1
    shown: dict[str, Any] = public(loaded.settings)
    if args.output == "json":
        json_line(shown)
    else:
        print(as_yaml(shown), end="")
    return 0
