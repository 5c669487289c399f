"""`tools/venv`: what a newcomer with an old Python is told, before anything is installed. The installer is a shell script of the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

SCRIPT: Final = Path(__file__).parents[2] / "tools" / "venv"
PRELUDE: Final = "import sys; sys.version_info = {version}; exec(sys.argv[1])"


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def python(path: Path, *version: int | str) -> Path:
    """An interpreter that says it is of another version."""
    return program(path, f'exec "{sys.executable}" -c "{PRELUDE.format(version=version)}" "$2"'.replace("'", '\\"').replace('\\"', "'"))


class Machine:
    """An empty directory, and a uv that writes down what it is asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "uv.log"
        program(directory / "bin" / "uv", f'echo "$@" >> "{self.log}"')

    def run(self, python: Path | str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}
        words = ["/bin/sh", str(SCRIPT), str(python), ".venv", "demo"]
        return subprocess.run(words, cwd=self.directory, env=env, capture_output=True, text=True, check=False)

    @property
    def asked(self) -> list[str]:
        return [line.partition(" --")[0] for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("version", "shown"), [((3, 10, 4, "final", 0), "3.10.4"), ((2, 7, 18, "final", 0), "2.7.18")])
def test_an_old_python_is_told_before_anything_is_installed(
    machine: Machine, tmp_path: Path, version: tuple[int | str], shown: str
) -> None:
    done = machine.run(python(tmp_path / "old" / "python3", *version))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"slm-authz needs Python 3.11 or newer; this is {shown}.\n"
    assert machine.asked == []


@pytest.mark.parametrize("version", [(3, 11, 0, "final", 0), (3, 14, 1, "final", 0), (4, 0, 0, "final", 0)])
def test_a_python_that_is_new_enough_goes_on_to_the_installer(machine: Machine, tmp_path: Path, version: tuple[int | str]) -> None:
    done = machine.run(python(tmp_path / "new" / "python3", *version))
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.asked == ["venv", "pip install", "pip install"]


def test_an_environment_that_is_there_is_asked_instead(machine: Machine, tmp_path: Path) -> None:
    old = python(tmp_path / "old" / "python3", 3, 9, 0)
    python(tmp_path / ".venv" / "bin" / "python", 3, 12, 0)
    assert machine.run(old).returncode == 0
    python(tmp_path / ".venv" / "bin" / "python", 3, 10, 0)
    assert machine.run(sys.executable).returncode == 1


def test_a_version_in_place_of_a_program_is_left_to_uv(machine: Machine) -> None:
    assert machine.run("3.12").returncode == 0
    assert machine.asked == ["venv", "pip install", "pip install"]
