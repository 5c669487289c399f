"""`slm-authz config check|show|schema`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from slm_authz.cli.main import add_common, config_path

if TYPE_CHECKING:
    from slm_authz.settings.problems import Problem

HELP = "Check a configuration and name every problem at once, show what is in force, or print the schema."
EXAMPLES = """\
  slm-authz config check -c slm-authz.yaml
  slm-authz config show --output json
  slm-authz config schema > slm-authz.schema.json
"""

_ACTIONS = {
    "check": ("name every problem with its line and remedy", "slm-authz config check -c slm-authz.yaml"),
    "show": (
        "print the configuration with all defaults filled in and secrets masked",
        "slm-authz config show -c slm-authz.yaml --output json",
    ),
    "schema": ("print the JSON Schema of the file, for editors", "slm-authz config schema > slm-authz.schema.json"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """check, show, schema."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(_ACTIONS))
    for name, (line, example) in _ACTIONS.items():
        action = actions.add_parser(
            name,
            help=line,
            description=f"{line[0].upper()}{line[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_common(action)


def run(args: argparse.Namespace) -> int:
    """0: fine; 1: the configuration has errors. A file that is not there is UsageError."""
    actions = {"check": _check, "show": _show, "schema": _schema}
    return actions[args.action](args)


def _check(args: argparse.Namespace) -> int:
    import os

    from slm_authz.cli.output import json_line
    from slm_authz.compose import load_all
    from slm_authz.errors import ConfigError

    path = config_path(args)
    problems: tuple[Problem, ...]
    try:
        problems, ok = load_all(path, os.environ).warnings, True
    except ConfigError as wrong:
        problems, ok = wrong.problems, False
    if args.output == "json":
        json_line({"ok": ok, "problems": problems})
    else:
        _print_problems(path, problems, ok=ok)
    return 0 if ok else 1


def _print_problems(path: str, problems: tuple[Problem, ...], *, ok: bool) -> None:
    """As compilers do, so that editors find the place. Whatever the file holds is escaped (`cell`)."""
    from slm_authz.cli.output import cell, paint

    for problem in problems:
        severity = paint(problem.severity, "red" if problem.severity == "error" else "yellow")
        where = f" [{cell(problem.path)}]" if problem.path else ""
        print(f"{cell(path)}:{problem.line or 1}: {severity}: {cell(problem.message)}{where}")
        print(f"    {paint('fix:', 'dim')} {cell(problem.fix)}")
    if ok:
        warnings = f", {len(problems)} warning{'s' if len(problems) > 1 else ''}" if problems else ""
        print(f"{cell(path)}: {paint('ok', 'green')}{warnings}")


def _show(args: argparse.Namespace) -> int:
    import os

    from slm_authz.cli.output import json_line
    from slm_authz.compose import load_all
    from slm_authz.settings.show import as_yaml, public

    loaded = load_all(config_path(args), os.environ)  # ConfigError: exit code 1, and its own words
    shown = public(loaded.settings, loaded.origins)
    if args.output == "json":
        json_line(shown)
    else:
        print(as_yaml(shown), end="")
    return 0


def _schema(args: argparse.Namespace) -> int:
    import json

    from slm_authz.cli.output import json_line
    from slm_authz.settings.reference import json_schema

    if args.output == "json":
        json_line(json_schema())
    else:
        print(json.dumps(json_schema(), indent=2))
    return 0
