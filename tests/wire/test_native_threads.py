"""The batch front's own threads, as the system schedules them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("pygrpc_native")

from slm_authz.wire.native import NativeTransport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SCHED_BATCH is Linux's")


def policies() -> dict[int, int]:
    return {int(task.name): os.sched_getscheduler(int(task.name)) for task in Path("/proc/self/task").iterdir()}


def test_the_transports_threads_do_not_interrupt_and_the_callers_own_thread_stays_as_it_was(tmp_path: Path) -> None:
    before = policies()
    transport = NativeTransport("127.0.0.1:0", str(tmp_path / "fallback.sock"))
    try:
        after = policies()
        assert {after[thread] for thread in after.keys() - before.keys()} == {os.SCHED_BATCH}
        assert {thread: after[thread] for thread in before.keys() & after.keys()} == {t: before[t] for t in before.keys() & after.keys()}
    finally:
        transport.close()


def test_a_sandbox_that_forbids_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbid)
    NativeTransport("127.0.0.1:0", str(tmp_path / "fallback.sock")).close()


def test_an_address_that_cannot_be_bound_is_still_said_and_the_policy_restored(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r".+"):
        NativeTransport("192.0.2.1:1", str(tmp_path / "fallback.sock"))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
