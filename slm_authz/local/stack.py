"""Starts and watches Envoy, the service and the sample upstream as child processes. Enters: a plan. Leaves: a running stack, or plain words.

Every child has its own process group and dies with its parent, also when that is killed (PR_SET_PDEATHSIG on Linux). Ports are probed
first, so that a port that is taken is named before anything starts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.error import URLError

from slm_authz.errors import DependencyError, PortTaken

_PDEATHSIG: Final = 1
_START_S: Final = 20.0


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PDEATHSIG, signal.SIGTERM)


def free_port() -> int:
    """A loopback port that is free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(host: str, port: int, what: str) -> None:
    """PortTaken with the words of who asked for the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except OSError as error:
            raise PortTaken(
                f"Port {port} on {host} is taken, {what} cannot listen there ({error.strerror}).",
                "Stop the other process, or use another port.",
            ) from error


class Child:
    """One process of the stack, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own words
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - nothing but a system call happens in there
            )

    def tail(self, lines: int = 12) -> str:
        """The last words of the process."""
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])

    def ended(self) -> DependencyError:
        """What to tell when it has ended by itself."""
        return DependencyError(f"{self.name} ended (exit code {self.process.returncode}). Its last words:\n{self.tail()}")

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL for whatever is left of its group."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Stack:
    """Children in the order of their start; stopped in reverse."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.directory = directory
        self._env = env
        self.children: list[Child] = []

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start one child."""
        log = self.directory / f"{name.replace(' ', '-')}.log"
        child = Child(name, command, log, {**self._env, **(env or {})})
        self.children.append(child)
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
        """Stop all, the last started first."""
        while self.children:
            self.children.pop().stop(15)


def answers(url: str) -> bool:
    """Whether an HTTP GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - http on loopback
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError):
        return False
