"""`slm-authz serve` as an init system runs it: a process, its signals and its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from slm_authz.local.stack import free_port
from tests.patience import eventually

CONFIG = """
version: 1
listen: {{grpc: "unix:./run/a.sock", admin: "127.0.0.1:{admin}", health: "127.0.0.1:{health}", drain: {drain}}}
identity: [{{api_key: {{}}}}]
models: {{m: {{price: free}}}}
tiers: {{free: {{models: [m], limits: [{{requests: {requests}, per: day}}]}}}}
"""


class Served:
    def __init__(self, directory: Path, transport: str, drain: str) -> None:
        self.config = directory / "slm-authz.yaml"
        self.ports = {"admin": free_port(), "health": free_port()}
        self.drain = drain
        self.write(5)
        command = [sys.executable, "-m", "slm_authz", "serve", "-c", str(self.config), "--transport", transport]
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def write(self, requests: object) -> None:
        self.config.write_text(CONFIG.format(requests=requests, drain=self.drain, **self.ports))

    def ready(self) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['health']}/readyz", timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        except OSError:
            return 0, {}


@contextmanager
def served(directory: Path, transport: str = "auto", drain: str = "0s") -> Iterator[Served]:
    one = Served(directory, transport, drain)
    try:
        assert eventually(lambda: one.ready()[0] == 200)
        yield one
    finally:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_drains_and_ends_in_order(tmp_path: Path, number: signal.Signals, transport: str) -> None:
    with served(tmp_path, transport, "1s") as one:
        one.process.send_signal(number)
        assert eventually(lambda: one.ready()[0] == 503)
        assert one.process.poll() is None, "calls are still taken"
        assert one.process.wait(20) == 0
    assert "Traceback" not in one.log.read_text()


@pytest.mark.parametrize("asked", [True, False])
def test_a_changed_file_is_taken_over_by_itself_and_when_asked(tmp_path: Path, asked: bool) -> None:
    with served(tmp_path) as one:
        before = one.ready()[1]["config"]["digest"]
        one.write(6)
        if asked:
            one.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: one.ready()[1]["config"]["digest"] != before)
        one.write("many")
        assert eventually(lambda: one.ready()[1]["config"]["error"] is not None)
        one.write(5)
        assert eventually(lambda: one.ready()[1]["config"] == {"digest": before, "error": None, "restart": None})


def test_a_hangup_before_it_serves_ends_nothing(tmp_path: Path) -> None:
    one = Served(tmp_path, "auto", "0s")
    try:
        assert eventually(lambda: "SIGHUP ignored" in _signals(one.process.pid) or one.ready()[0] == 200)
        one.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: one.ready()[0] == 200)
        assert one.process.poll() is None
    finally:
        one.process.kill()
        one.process.wait()


def _signals(pid: int) -> str:
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return ""
    ignored = next(int(line.split()[1], 16) for line in status.read_text().splitlines() if line.startswith("SigIgn"))
    return "SIGHUP ignored" if ignored & 1 << signal.SIGHUP - 1 else ""
