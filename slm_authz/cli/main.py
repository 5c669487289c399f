"""The `slm-authz` command. Enters: argv. Leaves: an exit code.

Subcommands are named in one table and imported only when they are called, so that help answers at once.
A subcommand's module has `HELP`, `EXAMPLES`, `add_arguments(parser)` and `run(args) -> int`, and imports what is
heavy inside `run`. Exit codes: 0 done, 1 the answer is no, 2 wrong usage, 3 a dependency is down or a port is taken.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Final

from slm_authz.cli.streams import Unwritten, guarded
from slm_authz.errors import SlmAuthzError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("slm_authz.cli.up", "run a gateway, the service and a model server together, on this machine"),
    "serve": ("slm_authz.cli.serve", "run the service that your gateway asks"),
    "config": ("slm_authz.cli.config", "check, show or describe the configuration"),
    "keys": ("slm_authz.cli.keys", "create, list, change and revoke API keys"),
    "usage": ("slm_authz.cli.usage", "show limits, and what is used, held and left"),
    "audit": ("slm_authz.cli.audit", "follow or search the audit trail"),
    "envoy-config": ("slm_authz.cli.envoy_config", "print the Envoy configuration that belongs to your file"),
}
DEFAULT_CONFIG: Final = "slm-authz.yaml"
_EPILOG = """\
examples:
  slm-authz up                                   a guarded model API in one command
  slm-authz keys create --client acme --tier free
  slm-authz usage

Every command takes -c FILE (else SLM_AUTHZ_CONFIG, else ./slm-authz.yaml) and --output table|json.
"""


class Parser(argparse.ArgumentParser):
    """An argparse whose complaints are those of the action that was called, and which does not hide that its help could not be printed."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        # A negative duration (`--expires -1d`) is a value that is wrong, not a flag that nobody knows: whoever reads it says why.
        self._negative_number_matcher = re.compile(r"-\d")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Nothing is left over: argparse would let the parser above complain of it, with that one's usage."""
        found, extra = super().parse_known_args(args, namespace)
        if extra:
            self.error(f"unrecognized arguments: {' '.join(extra)}")
        return found, extra

    def _print_message(self, message: str, file: Any = None) -> None:
        if message and file is not None:  # None: standard output is closed
            file.write(message)


def parser() -> argparse.ArgumentParser:
    """The top-level parser; it knows the subcommands by name and loads none."""
    top = argparse.ArgumentParser(
        prog="slm-authz",
        description="Guard a language-model API: who may call, how much, and what happened.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    top.add_argument("command", nargs="?", metavar="COMMAND", help=_command_list())
    return top


def _command_list() -> str:
    return ", ".join(COMMANDS)


def _print_overview(top: argparse.ArgumentParser) -> None:
    width = max(map(len, COMMANDS))
    print(f"usage: slm-authz COMMAND [ARGUMENT ...]\n\n{top.description}\n\ncommands:")
    for name, (_, line) in COMMANDS.items():
        print(f"  {name:<{width}}  {line}")
    print(f"\n{_EPILOG}", end="")


def add_common(parser: argparse.ArgumentParser) -> None:
    """`-c FILE` and `--output`, which every command takes."""
    parser.add_argument("-c", "--config", metavar="FILE", help="configuration file (else SLM_AUTHZ_CONFIG, else ./slm-authz.yaml)")
    parser.add_argument("--output", choices=("table", "json"), default="table", help="table is for people, json is stable")


def named_config(args: argparse.Namespace) -> str | None:
    """The configuration file that somebody named."""
    given: str | None = args.config
    return given or os.environ.get("SLM_AUTHZ_CONFIG") or None


def config_path(args: argparse.Namespace) -> str:
    """The configuration file that a command works on."""
    return named_config(args) or DEFAULT_CONFIG


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, whatever becomes of what it prints. Only what is a bug is raised."""
    words = list(sys.argv[1:] if argv is None else argv)
    code = 0 if words else 2
    with guarded():
        try:
            code = _run(words)
            if sys.stdout is not None:
                sys.stdout.flush()
        except Unwritten as lost:
            if not lost.reader_gone:
                print(f"slm-authz: {lost}", file=sys.stderr)
                return 3
            # The reader (`| head`) has gone: what it wanted it has, and the answer is what it is.
    return code


def _run(words: Sequence[str]) -> int:
    try:
        return _command(words)
    except SlmAuthzError as error:
        print(f"slm-authz: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:  # argparse's own way out: 0 after help, 2 after wrong usage
        return int(end.code or 0)


def _command(words: Sequence[str]) -> int:
    top = parser()
    if not words or words[0] in ("-h", "--help"):
        _print_overview(top)
        return 0 if words else 2
    if words[0] == "--version":
        from slm_authz import __version__

        print(f"slm-authz {__version__}")
        return 0
    if words[0] not in COMMANDS:
        why = "; flags go after the command, as in `slm-authz usage -c FILE`" if words[0].startswith("-") else ""
        print(f"slm-authz: there is no command {words[0]!r}{why}. Commands: {_command_list()}.", file=sys.stderr)
        return 2
    module: Any = importlib.import_module(COMMANDS[words[0]][0])
    sub = Parser(
        prog=f"slm-authz {words[0]}",
        description=module.HELP,
        epilog=f"examples:\n{module.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(sub)
    code: int = module.run(sub.parse_args(words[1:]))
    return code
