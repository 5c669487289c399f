"""A server under measurement: a child process on one core, with its CPU time and memory as the kernel counts them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
START_S = 120.0


class Server:
    """`ready` is asked until it is true; None: the child prints `ready PORT` itself."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        core: int,
        log: Path,
        *,
        ready: Callable[[], bool] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self.port = 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if ready is None else output,
                stderr=output,
                env={**os.environ, **(env or {})},
            )
        os.sched_setaffinity(self.process.pid, {core})  # long before it has threads, which inherit it
        self._wait(ready)

    def _wait(self, ready: Callable[[], bool] | None) -> None:
        if ready is None:
            assert self.process.stdout is not None
            words = self.process.stdout.readline().split()
            if words[:1] != [b"ready"]:
                self._fail()
            self.port = int(words[1])
            return
        until = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > until:
                self._fail()
            time.sleep(0.05)

    def _fail(self) -> None:
        self.stop()
        raise SystemExit(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")

    def cpu(self) -> float:
        """Seconds of CPU of all its threads so far (proc_pid_stat(5): utime, stime)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self) -> int:
        """Resident KiB (proc_pid_status(5): VmRSS)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        return 0

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
