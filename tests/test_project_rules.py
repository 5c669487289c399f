"""The project's own rules, as ordinary tests: what nobody would notice until it is gone."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

import slm_authz
from slm_authz.cli.main import COMMANDS

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "slm_authz"
MODULES: Final = sorted(PACKAGE.rglob("*.py"))
PYTHON: Final = sorted(path for part in ("slm_authz", "tests", "bench") for path in (ROOT / part).rglob("*.py"))
WRONG: Final = Path(__file__).parent / "typing" / "wrong.py.txt"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
ARCHITECTURE: Final = (ROOT / "docs" / "architecture.md").read_text()


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# -- files


def test_no_module_is_longer_than_400_lines() -> None:
    long = {named(path): lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_every_module_says_what_it_is_for() -> None:
    assert [named(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_module_is_called_utils() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [named(path) for path in PYTHON if path.stem in vague or path.parent.name in vague] == []


def test_no_test_is_hidden_from_pytest() -> None:
    strays = [
        named(path) for path in (ROOT / "tests").rglob("*.py") if "def test_" in path.read_text() and not path.name.startswith("test_")
    ]
    assert strays == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


# -- types


def test_mypy_is_strict_and_really_runs(tmp_path: Path) -> None:
    """A lost configuration would be noticed here: every line of the wrong file must be found wrong, by the error that it names."""
    wrong = tmp_path / "wrong.py"
    shutil.copy(WRONG, wrong)
    expected = {
        (number, match[1])
        for number, line in enumerate(wrong.read_text().splitlines(), 1)
        if (match := re.search(r"# expect: ([a-z-]+)", line))
    }
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary", str(wrong)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    found = {(int(line), code) for line, code in re.findall(r"wrong\.py:(\d+): error: .*\[([a-z-]+)\]", answer.stdout)}
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert expected
    assert found == expected


def test_mypy_looks_at_everything() -> None:
    mypy = PROJECT["tool"]["mypy"]
    assert mypy["strict"] is True
    assert set(mypy["files"]) == {"slm_authz", "tests", "bench"}
    assert "exclude" not in mypy
    assert (PACKAGE / "py.typed").exists()


def test_warnings_are_errors_and_a_passing_xfail_is_one_too() -> None:
    pytest_options = PROJECT["tool"]["pytest"]["ini_options"]
    assert pytest_options["filterwarnings"][0] == "error"
    assert pytest_options["xfail_strict"] is True


# -- the public surface


def test_public_names_are_a_list_and_all_of_them_are_there() -> None:
    assert sorted(slm_authz.__all__) == slm_authz.__all__
    for name in slm_authz.__all__:
        assert getattr(slm_authz, name) is not None
    assert set(slm_authz._HOME) == set(slm_authz.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slm_authz.nothing


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, slm_authz; print(*sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names))"
    bare = subprocess.run([sys.executable, "-c", code.replace(", slm_authz", "")], capture_output=True, text=True, check=True, cwd=ROOT)
    full = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(full.stdout.split()) - set(bare.stdout.split()) == {"slm_authz"}


def test_version_and_changelog_agree() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == slm_authz.__version__
    assert len(set(versions)) == len(versions)


# -- the command line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_examples(name: str) -> None:
    module: Any = importlib.import_module(COMMANDS[name][0])
    assert module.HELP.strip().endswith(".")
    assert f"slm-authz {name}" in module.EXAMPLES
    assert callable(module.add_arguments)
    assert callable(module.run)


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    """Measured in modules, not milliseconds: so the answer does not depend on the machine."""
    code = (
        "import sys, contextlib, io\n"
        "from slm_authz.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({words!r})\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {
        "grpc",
        "google",
        "envoy",
        "pydantic",
        "yaml",
        "sqlite3",
        "opentelemetry",
        "starlette",
        "uvicorn",
        "openai",
        "asyncio",
        "httpx2",
    }
    assert set(answer.stdout.split()) & heavy == set()


# -- documents


def section(title: str) -> str:
    _, found, rest = ARCHITECTURE.partition(f"\n## {title}\n")
    assert found, f"docs/architecture.md has no section {title!r}"
    return rest.partition("\n## ")[0]


def test_every_dependency_says_why_it_is_here() -> None:
    wanted = [
        *PROJECT["project"]["dependencies"],
        *(one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra),
    ]
    names = {match[0] for one in wanted if (match := re.match(r"[A-Za-z0-9_.-]+", one))}
    told = re.findall(r"^\| `([^`]+)` \| .+ \|$", section("Dependencies: why each one is here"), re.MULTILINE)
    assert sorted(told) == sorted(names)


def test_every_room_is_described() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    rooms |= {path.name for path in PACKAGE.glob("*.py")}
    text = section("The rooms")
    assert sorted(room for room in rooms if f"`{room}" not in text) == []


def test_documents_name_only_modules_that_exist() -> None:
    pattern = re.compile(r"`((?:slm_authz|tests|bench|tools|deploy)/[\w./-]*\w\.\w+)`")
    documents = (ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md")
    named_there = [(document.name, path) for document in documents for path in pattern.findall(document.read_text())]
    missing = [f"{document}: {path}" for document, path in named_there if not (ROOT / path).exists()]
    assert missing == []


def test_the_licence_is_the_one_that_is_named() -> None:
    assert PROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
