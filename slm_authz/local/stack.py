"""Starts and watches Envoy, the service and the sample upstream as child processes, and tells their failures in plain words.

Every child has its own process group and ends with us: we stop it, and the janitor does where we are killed. Forbidden: code of ours between
fork and exec (`preexec_fn`): gRPC's handlers would run there too, and where its threads are busy the child dies of them.
"""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from slm_authz.errors import DependencyError, PortTaken
from slm_authz.local.janitor import signal_group

_START_S: Final = 20.0
_GRACE_S: Final = 15.0
DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""HTTP without the environment's proxies: Envoy uses none either, and none leads to this machine's loopback."""


def free_port() -> int:
    """A loopback port that is free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, what: str) -> None:
    """PortTaken with the words of who asked for the port; other failures of the address too."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise PortTaken(
                f"{what} cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}.",
                "Stop the process that does, or name another port: the gateway's with --listen, the service's in the configuration."
                if error.errno == errno.EADDRINUSE
                else "Name another address: the gateway's with --listen, the service's in the configuration.",
            ) from error


class Child:
    """One process, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own words
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )

    def tail(self, lines: int = 12) -> str:
        """The last words of the process."""
        text = self.log.read_text(errors="replace").strip()
        return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (it said nothing)"

    def ended(self) -> DependencyError:
        """What to tell when it has ended by itself."""
        code = self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code is not None and code < 0 else f"ended with exit code {code}"
        last = self.tail()
        if "address already in use" in last.lower():
            return PortTaken(f"{self.name} {how}: an address that it needs is taken.\n{last}")
        return DependencyError(f"{self.name} {how}. Its last words:\n{last}")

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL for whatever is left of its group."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """The whole group, at once."""
        signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Stack:
    """Children in the order of their start, stopped in reverse. remove: the directory is ours, and goes if we are killed."""

    def __init__(self, directory: Path, env: Mapping[str, str], *, remove: bool = False) -> None:
        self.directory = directory
        self._env = env
        self._remove = remove
        self._janitor: subprocess.Popen[bytes] | None = None
        self.children: list[Child] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start one child; `env` stands instead of the stack's. DependencyError: its program cannot be run."""
        log = self.directory / f"{name.replace(' ', '-')}.log"
        try:
            child = Child(name, command, log, self._env if env is None else env)
        except OSError as error:
            raise DependencyError(f"{name} cannot be started: {error}.") from error
        self.children.append(child)
        self._tell(f"+{child.process.pid}")
        return child

    def wait(self, child: Child, ready: Callable[[], bool], seconds: float = _START_S) -> None:
        """Until `ready`; DependencyError with the child's last words where it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if child.process.poll() is not None:
                raise child.ended()
            if time.monotonic() > deadline:
                raise DependencyError(f"{child.name} was not ready after {seconds:.0f} s. Its last words:\n{child.tail()}")
            time.sleep(0.02)

    def dead(self) -> Child | None:
        """A child that has ended by itself."""
        return next((child for child in self.children if child.process.poll() is not None), None)

    def stop(self) -> None:
        """Stop all, the last started first. Interrupted (a second Ctrl-C), it kills what is left at once."""
        try:
            while self.children:
                self.children[-1].stop(_GRACE_S)
                self._tell(f"-{self.children.pop().process.pid}")
        except BaseException:
            for child in self.children:
                child.kill()
            self.children.clear()
            raise
        finally:
            self._dismiss()

    def _tell(self, line: str) -> None:
        """Tell the janitor. One that somebody has killed is replaced, and told of all children."""
        if self._janitor is not None and self._janitor.poll() is not None:
            self._dismiss()
        told = [line]
        if self._janitor is None:
            self._janitor = self._hire()
            told = [*(f"+{child.process.pid}" for child in self.children), line]
        with suppress(BrokenPipeError):  # killed just now: the next line finds it gone
            self._pipe(self._janitor).write("".join(f"{word}\n" for word in told).encode())
            self._pipe(self._janitor).flush()

    def _hire(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "slm_authz.local.janitor", *([str(self.directory)] if self._remove else [])]
        quiet = subprocess.DEVNULL
        env = {
            name: value for name, value in self._env.items() if name in ("PATH", "PYTHONPATH", "LANG", "HOME")
        }  # no secret of ours or theirs
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, env=env, start_new_session=True)  # noqa: S603 - our own words

    @staticmethod
    def _pipe(janitor: subprocess.Popen[bytes]) -> IO[bytes]:
        assert janitor.stdin is not None  # noqa: S101 - it was opened as a pipe
        return janitor.stdin

    def _dismiss(self) -> None:
        """Nothing is left to clean, or nobody who would: one that is gone cannot be told."""
        if self._janitor is not None:
            janitor, self._janitor = self._janitor, None
            janitor.communicate(b".\n")


def answers(url: str) -> bool:
    """Whether an HTTP GET is answered with 200."""
    try:
        with DIRECT.open(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def speaks_http(host: str, port: int) -> bool:
    """Whether something answers HTTP there. The path is one that Envoy refuses by itself: no decision is asked for."""
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=1) as connection:
            connection.sendall(b"GET /%2F HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n")
            return connection.recv(16).startswith(b"HTTP/1.1 ")
    except OSError:
        return False
