"""The supervisor: plain words for what fails, and nothing left behind, however we end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_authz.errors import DependencyError, PortTaken
from slm_authz.local.janitor import groups_left
from slm_authz.local.stack import Stack, answers, require_free, speaks_http
from tests.patience import eventually

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]
FAMILY = ["/bin/sh", "-c", "sleep 60 & echo $!; wait"]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path, dict(os.environ))
    yield made
    made.stop()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waits for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return state != "" and not state.startswith("Z")


def test_children_are_started_in_groups_of_their_own_and_stopped(stack: Stack) -> None:
    child = stack.start("sleeper", SLEEPER)
    stack.wait(child, lambda: "up" in child.tail())
    assert os.getpgid(child.process.pid) == child.process.pid != os.getpgrp()
    stack.stop()
    assert child.process.returncode == -signal.SIGTERM
    assert stack.children == []


def test_what_a_child_has_started_goes_with_it(stack: Stack) -> None:
    child = stack.start("family", FAMILY)
    stack.wait(child, lambda: child.tail().strip().isdecimal())
    grandchild = int(child.tail())
    stack.stop()
    assert eventually(lambda: not alive(grandchild))


def test_a_child_that_ends_is_told_with_its_last_words(stack: Stack) -> None:
    child = stack.start("the service", [sys.executable, "-c", "import sys; print('line 7: no such tier'); sys.exit(4)"])
    with pytest.raises(DependencyError, match=r"(?s)the service ended with exit code 4.*line 7: no such tier"):
        stack.wait(child, lambda: False)
    assert stack.dead() is child


def test_a_killed_child_is_told(stack: Stack) -> None:
    child = stack.start("sleeper", SLEEPER)
    child.process.kill()
    with pytest.raises(DependencyError, match="was ended by SIGKILL"):
        stack.wait(child, lambda: False)


def test_a_child_that_finds_its_port_taken_is_told_as_that(stack: Stack) -> None:
    child = stack.start("envoy", [sys.executable, "-c", "raise SystemExit(\"cannot bind '127.0.0.1:1': Address already in use\")"])
    with pytest.raises(PortTaken, match=r"127\.0\.0\.1:1"):
        stack.wait(child, lambda: False)


def test_a_child_that_is_never_ready(stack: Stack) -> None:
    child = stack.start("sleeper", SLEEPER)
    with pytest.raises(DependencyError, match="not ready after 0 s"):
        stack.wait(child, lambda: False, seconds=0)


def test_a_program_that_is_not_there(stack: Stack) -> None:
    with pytest.raises(DependencyError, match="envoy cannot be started"):
        stack.start("envoy", ["/nowhere/envoy"])


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"The gateway cannot listen on 127\.0\.0\.1:{port}: address already in use"):
            require_free("127.0.0.1", port, "The gateway")
        with pytest.raises(PortTaken, match=r"Stop the process that does, or name another port: the gateway's with --listen"):
            require_free("127.0.0.1", port, "The gateway")
    require_free("127.0.0.1", port, "The gateway")
    assert not speaks_http("127.0.0.1", port)
    assert not answers(f"http://127.0.0.1:{port}")


def test_an_address_that_is_not_ours_is_nobody_elses_fault() -> None:
    with pytest.raises(PortTaken, match="Name another address: the gateway's with --listen") as caught:
        require_free("192.0.2.1", 1, "The gateway")
    assert "Stop the process" not in str(caught.value)


_PARENT = """
import os, sys, tempfile
from pathlib import Path
from slm_authz.local.stack import Stack

directory = Path(sys.argv[1])
stack = Stack(directory, dict(os.environ), remove=True)
pids = [stack.start(name, command).process.pid for name, command in (("one", {one}), ("two", {two}))]
print(*pids, stack._janitor.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_we_are_killed_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    program = _PARENT.format(one=SLEEPER, two=SLEEPER)
    parent = subprocess.Popen([sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        pids = list(map(int, parent.stdout.readline().split()))
        assert all(map(alive, pids))
        parent.send_signal(number)
        parent.wait()
        assert eventually(lambda: not any(map(alive, pids)))
        assert eventually(lambda: not directory.exists())


def test_a_killed_janitor_is_replaced_and_we_stop_our_children_ourselves(stack: Stack) -> None:
    first = stack.start("one", SLEEPER)
    assert stack._janitor is not None
    stack._janitor.kill()
    stack._janitor.wait()
    second, third = stack.start("two", SLEEPER), stack.start("three", SLEEPER)
    assert stack._janitor is not None
    assert stack._janitor.poll() is None
    stack.stop()
    assert not any(alive(child.process.pid) for child in (first, second, third))


def test_a_second_interrupt_kills(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    child = stack.start("stubborn", STUBBORN)
    stack.wait(child, lambda: "up" in child.tail())

    def interrupted(_: float) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stack.stop()
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_does_not_want_to_end_is_killed(stack: Stack) -> None:
    child = stack.start("stubborn", STUBBORN)
    stack.wait(child, lambda: "up" in child.tail())
    child.stop(0.05)
    assert child.process.returncode == -signal.SIGKILL


@given(st.lists(st.sampled_from(["+12", "-12", "+13", "-13", "", "+", "x", "+1", "-0", "+-5", "+ 14", "+99x"])))
def test_the_janitor_remembers_what_was_started_and_not_stopped(lines: list[str]) -> None:
    left = groups_left(f"{line}\n" for line in lines)
    assert left is not None
    for group in (12, 13):
        last = [line[0] for line in lines if line[1:] == str(group)]
        assert (group in left) == (last[-1:] == ["+"])
    assert left <= {12, 13, 14}
    assert groups_left([*lines, ".\n"]) is None
