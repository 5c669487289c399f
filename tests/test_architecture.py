"""Who may import whom: import direction is data direction. The table below is the house; a breach names file and line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PACKAGE: Final = Path(__file__).parent.parent / "slm_authz"

CORRIDOR: Final = {"errors", "reason", "units", "request", "settings", "llm", "identity", "policy", "quota", "decision"}
OURS: Final[dict[str, set[str]]] = {
    # leaves
    "errors": set(),
    "reason": set(),
    "units": set(),
    "ids": set(),
    # the corridor, in the order of a call
    "request": {"reason"},
    "settings": {"errors", "units"},
    "llm": {"reason", "request"},
    "identity": {"errors", "reason", "request", "settings", "units"},
    "policy": {"errors", "reason", "request", "llm", "identity", "settings", "units"},
    "quota": {"errors", "reason", "llm", "identity", "policy", "settings", "units"},
    "decision": {"reason", "identity"},
    "audit": {"errors", "units", "reason", "quota", "settings"},
    "engine": CORRIDOR | {"audit"},
    # cupboards, doors, front desk, porch
    "store": {"errors", "units", "identity", "quota"},
    "wire": {"errors", "reason", "request", "llm", "identity", "decision", "engine", "quota", "units"},
    "admin": {"errors", "units", "identity", "quota", "audit", "settings", "engine"},
    "local": {"errors", "units", "settings"},
    # what joins parts
    "plugins": {"errors"},
    "__init__": {"audit", "identity", "reason", "request"},
}
JOINS: Final = {"app", "compose", "housekeeping", "cli", "__main__"}
"""These may import anything of ours: they are what joins the rooms."""
EXCEPTIONS: Final = {("errors", "slm_authz.settings.problems")}
"""ConfigError carries problems; for type checkers only."""

FOREIGN: Final[dict[str, set[str]]] = {
    "grpc": {"wire"},
    "envoy": {"wire"},
    "google": {"wire"},
    "pygrpc_native": {"wire"},
    "sqlite3": {"store"},
    "redis": {"store"},
    "opentelemetry": {"audit"},
    "prometheus_client": {"audit"},
    "starlette": {"admin", "local"},
    "uvicorn": {"admin", "local"},
    "cel_expr_python": {"policy"},
    "yaml": {"settings", "local"},
    "pydantic": {"settings"},
    "pydantic_core": {"settings"},
    "openai": {"local"},
}
EVERYWHERE: Final = {"msgspec"}
GUARDED_STDLIB: Final = {"sqlite3"}
ENGINE_NEVER_LOADS: Final = (
    "grpc", "envoy", "google", "pygrpc_native", "redis", "sqlite3", "opentelemetry", "starlette", "uvicorn", "cel_expr_python", "yaml",
)  # fmt: skip


class Import(NamedTuple):
    module: str
    line: int


def imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """Every module that a file imports, wherever in it; `from p import m` counts as p.m where p is the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *([base] if base else [])])
            for name in [base] if base != "slm_authz" else [f"slm_authz.{alias.name}" for alias in node.names]:
                yield Import(name, node.lineno)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(node.args[0].value, node.lineno)


def room_of(relative: Path) -> str:
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def breaches(source: str, relative: Path) -> list[str]:
    """What one file imports that its room may not, as `file:line: words`."""
    room = room_of(relative)
    package = ".".join(("slm_authz", *relative.parent.parts))
    found = []
    for module, line in imports(ast.parse(source), package):
        top, _, rest = module.partition(".")
        target = rest.partition(".")[0] or "__init__"
        if top == "slm_authz":
            if not (PACKAGE / target).exists() and not (PACKAGE / f"{target}.py").exists():
                target = "__init__"  # a name of the package itself, such as __version__
            allowed = target == room or room in JOINS or target in OURS.get(room, set()) or (room, module) in EXCEPTIONS
        elif top in sys.stdlib_module_names and top not in GUARDED_STDLIB:
            allowed = True
        else:
            target = top
            allowed = top in EVERYWHERE or room in FOREIGN.get(top, set())
        if not allowed:
            found.append(f"slm_authz/{relative}:{line}: {room} may not import {target} ({module})")
    return found


FILES: Final = sorted(PACKAGE.rglob("*.py"))


def test_nobody_imports_what_its_room_may_not() -> None:
    found = [breach for path in FILES for breach in breaches(path.read_text(), path.relative_to(PACKAGE))]
    assert not found, "\n" + "\n".join(found)


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path.relative_to(PACKAGE)) for path in FILES}
    assert rooms == set(OURS) | JOINS


def test_the_table_has_no_circle() -> None:
    TopologicalSorter(OURS).prepare()


@pytest.mark.parametrize(
    ("file", "source", "words"),
    [
        ("policy/x.py", "import grpc", "policy may not import grpc"),
        ("policy/x.py", "def f():\n    from sqlite3 import connect", "policy/x.py:2: policy may not import sqlite3"),
        ("policy/x.py", "from google.protobuf import message", "policy may not import google"),
        ("policy/x.py", "if TYPE_CHECKING:\n    from slm_authz.quota.limit import Limit", "policy/x.py:2: policy may not import quota"),
        ("policy/x.py", "from slm_authz import quota", "policy may not import quota"),
        ("policy/x.py", "from ..quota import limit", "policy may not import quota"),
        ("policy/x.py", "from .. import quota", "policy may not import quota"),
        ("policy/x.py", "import slm_authz.app", "policy may not import app"),
        ("policy/x.py", "importlib.import_module('slm_authz.quota.limit')", "policy may not import quota"),
        ("policy/x.py", "__import__('redis')", "policy may not import redis"),
        ("policy/x.py", "from slm_authz import __version__", "policy may not import __init__"),
        ("policy/deep/x.py", "from ...quota import limit", "policy may not import quota"),
        ("reason.py", "from slm_authz.errors import ConfigError", "reason may not import errors"),
        ("errors.py", "from slm_authz.settings.schema import Settings", "errors may not import settings"),
        ("engine/x.py", "import slm_authz.wire.server", "engine may not import wire"),
        ("store/x.py", "import requests", "store may not import requests"),
        ("nowhere.py", "import slm_authz.units", "nowhere may not import units"),
    ],
)
def test_a_breach_is_found_and_named(file: str, source: str, words: str) -> None:
    [found] = breaches(source, Path(file))
    assert words in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("policy/x.py", "from slm_authz.policy.table import Table\nfrom .table import Table\nimport re, msgspec"),
        ("errors.py", "from slm_authz.settings.problems import Problem"),
        ("store/x.py", "import sqlite3"),
        ("cli/x.py", "from slm_authz import __version__\nfrom slm_authz.wire import server"),
    ],
)
def test_what_is_allowed_is_no_breach(file: str, source: str) -> None:
    assert breaches(source, Path(file)) == []


def test_nobody_takes_another_modules_private_names() -> None:
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{node.lineno}: {alias.name} of {node.module}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slm_authz")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert not found, "\n" + "\n".join(found)


def test_the_engine_loads_no_wire_no_store_and_no_framework() -> None:
    code = "import sys, slm_authz.engine; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert set(answer.stdout.split()) & set(ENGINE_NEVER_LOADS) == set()
