"""How the demo and `up` name the command: as it can be typed in this shell."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from slm_authz.local.demo import own_command


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment with the script, in the current directory, not on the PATH."""
    found = tmp_path / ".venv" / "bin" / "slm-authz"
    found.parent.mkdir(parents=True)
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    monkeypatch.setattr(sys, "argv", ["/somewhere/slm_authz/local/demo.py"])
    monkeypatch.setattr(sys, "executable", str(found.with_name("python")))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    return found


@pytest.mark.usefixtures("script")
def test_beside_our_python_where_it_is_not_on_the_path() -> None:
    assert own_command() == ".venv/bin/slm-authz"


def test_by_its_name_where_that_leads_to_us(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(script.parent))
    assert own_command() == "slm-authz"


def test_by_its_name_through_a_link(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "slm-authz").symlink_to(script)
    monkeypatch.setenv("PATH", str(tmp_path / "local"))
    assert own_command() == "slm-authz"


def test_not_by_a_name_that_leads_to_another(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other" / "slm-authz"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(other.parent))
    assert own_command() == ".venv/bin/slm-authz"


def test_by_the_path_by_which_we_were_started(tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "a b" / "slm-authz"
    started.parent.mkdir()
    started.write_text(script.read_text())
    monkeypatch.setattr(sys, "argv", [str(started)])
    assert own_command() == "'a b/slm-authz'"
    monkeypatch.chdir(script.parent)
    assert own_command() == shlex.quote(str(started))


def test_in_its_own_directory_it_is_no_bare_name(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(script.parent)
    assert own_command() == shlex.quote(str(script))


def test_by_our_python_where_there_is_no_script(script: Path) -> None:
    script.unlink()
    assert own_command() == f"{shlex.quote(sys.executable)} -m slm_authz"
