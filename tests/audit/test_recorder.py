"""The recorder, without threads: order, retries, bounds, nothing lost silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.audit.file_sink import FileSink, trail_files
from slm_authz.audit.query import Filter, events
from slm_authz.audit.recorder import BATCH, Recorder


class Rig:
    """A recorder with a clock that only the test moves."""

    def __init__(self, made: Any, sinks: list[Any], *, drop: bool = True, max_waiting: int = 1000, spans: Any = None) -> None:
        self.box = made.Box()
        self.lost = 0
        self.now = 0.0
        self.recorder = Recorder(
            self.box, sinks, drop=drop, dropped=self._dropped, spans=spans, ticks=lambda: self.now, max_waiting=max_waiting
        )

    def _dropped(self, count: int) -> None:
        self.lost += count

    def available(self) -> bool:
        return self.recorder.available

    def drain(self) -> None:
        while self.recorder.drain_once():
            pass

    def later(self, seconds: float = 10.0) -> None:
        self.now += seconds
        self.drain()


def test_events_reach_all_sinks_once_in_order_and_leave_the_outbox(made: Any) -> None:
    one, two = made.Sink(), made.Sink()
    rig = Rig(made, [one, two])
    rig.box.add(*range(1, 2 * BATCH + 10))
    rig.drain()
    assert one.serials == two.serials == list(range(1, 2 * BATCH + 10))
    assert rig.box.waiting == []
    assert rig.available()


def test_a_failing_sink_is_offered_its_events_again_and_does_not_hold_up_the_others(made: Any) -> None:
    good, bad = made.Sink(), made.Sink()
    bad.broken = True
    rig = Rig(made, [bad, good])
    rig.box.add(*range(1, 801))
    rig.drain()
    assert good.serials == list(range(1, 801))
    assert len(rig.box.waiting) == 800
    assert not rig.available()
    bad.broken = False
    rig.later()
    assert bad.serials == good.serials == list(range(1, 801))
    assert rig.box.waiting == []
    assert rig.available()
    assert rig.lost == 0


def test_retries_have_growing_pauses_that_are_bounded(made: Any) -> None:
    bad = made.Sink()
    bad.broken = True
    rig = Rig(made, [bad])
    rig.box.add(1)
    gaps, last = [], 0.0
    for tick in range(4000):
        rig.now = tick / 100
        before = bad.offers
        rig.recorder.drain_once()
        if bad.offers > before:
            gaps.append(round(rig.now - last, 2))
            last = rig.now
    assert gaps[1:6] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert set(gaps[6:]) == {5.0}


def test_with_drop_the_oldest_beyond_the_bound_are_dropped_for_the_failing_sink_only_and_counted(made: Any) -> None:
    good, bad = made.Sink(), made.Sink()
    bad.broken = True
    rig = Rig(made, [good, bad], max_waiting=100)
    rig.box.add(*range(1, 1001))
    rig.drain()
    assert good.serials == list(range(1, 1001))
    assert len(rig.box.waiting) == 100
    assert rig.lost == 900
    bad.broken = False
    rig.later()
    assert bad.serials == list(range(901, 1001))
    assert rig.lost == 900


def test_with_deny_nothing_is_ever_dropped(made: Any) -> None:
    bad = made.Sink()
    bad.broken = True
    rig = Rig(made, [bad], drop=False, max_waiting=100)
    rig.box.add(*range(1, 1001))
    rig.later()
    assert not rig.available()
    assert len(rig.box.waiting) == 1000
    bad.broken = False
    rig.later()
    assert bad.serials == list(range(1, 1001))
    assert rig.available()
    assert rig.lost == 0


def test_a_memo_that_cannot_be_read_is_counted_once_and_stands_in_nobodys_way(made: Any) -> None:
    sink = made.Sink()
    sink.broken = True
    rig = Rig(made, [sink])
    rig.box.waiting = [made.outcome(1), made.outcome(2, memo=b"\xc1"), made.outcome(3)]
    rig.drain()
    rig.later()
    sink.broken = False
    rig.later()
    assert sink.serials == [1, 3]
    assert rig.lost == 1
    assert rig.box.waiting == []


def test_spans_are_best_effort(made: Any) -> None:
    sink = made.Sink()

    def spans(finished: Any) -> None:
        raise RuntimeError("no collector")

    rig = Rig(made, [sink], spans=spans)
    rig.box.add(1, 2)
    rig.drain()
    assert sink.serials == [1, 2]
    assert rig.box.waiting == []
    assert rig.available()


def test_without_sinks_the_outbox_does_not_grow(made: Any) -> None:
    rig = Rig(made, [])
    rig.box.add(*range(1, 1200))
    rig.drain()
    assert rig.box.waiting == []


def test_an_outbox_that_fails_makes_the_recorder_unavailable_not_dead(made: Any) -> None:
    sink = made.Sink()
    rig = Rig(made, [sink])
    rig.box.add(1)
    whole = rig.box.pending
    rig.box.pending = lambda limit: 1 / 0
    assert rig.recorder._guarded() is False
    assert not rig.available()
    rig.box.pending = whole
    assert rig.recorder._guarded() is True
    assert rig.available()
    assert sink.serials == [1]


def test_the_thread_drains_and_stop_flushes(made: Any) -> None:
    sink = made.Sink()
    box = made.Box()
    recorder = Recorder(box, [sink], drop=True, dropped=lambda count: None)
    recorder.start()
    box.add(*range(1, 100))
    recorder.wake()
    recorder.stop()
    assert sink.serials == list(range(1, 100))
    assert sink.closed


def test_stop_tries_a_failing_sink_once_more_and_leaves_the_rest_in_the_outbox(made: Any) -> None:
    bad = made.Sink()
    bad.broken = True
    rig = Rig(made, [bad])
    rig.box.add(1, 2)
    rig.drain()
    rig.recorder.stop()
    assert bad.offers == 2
    assert bad.closed
    assert len(rig.box.waiting) == 2


def _trail(directory: Path) -> list[int]:
    return [int(event["decision_id"], 16) for event in events(directory, Filter(), _no_corrupt)]


def _no_corrupt(path: Path) -> None:
    pytest.fail(f"a corrupt line in {path}")


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.integers(0, 30)), max_size=8))
def test_crashes_between_write_and_acknowledgement_write_every_decision_exactly_once(
    made: Any, tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, bool, int]]
) -> None:
    """Each run adds events, drains, and dies: with the acknowledgement or without it, with or without a torn last line."""

    directory = tmp_path_factory.mktemp("trail") / "audit"
    box: Any = made.Box()
    serial = 0
    for count, acknowledged, torn in runs:
        box.add(*range(serial + 1, serial + count + 1))
        serial += count
        before = list(box.waiting)
        sink = FileSink(directory, rotate=3000, keep=1 << 50, max_total=1 << 30, clock=lambda: made.noon)
        recorder = Recorder(box, [sink], drop=False, dropped=lambda lost: None)
        while recorder.drain_once():
            pass
        sink.close()
        if not acknowledged:
            box.waiting = before
            newest = trail_files(directory)[-1]
            newest.write_bytes(newest.read_bytes()[: max(0, newest.stat().st_size - torn)])
    sink = FileSink(directory, rotate=3000, keep=1 << 50, max_total=1 << 30, clock=lambda: made.noon)
    recorder = Recorder(box, [sink], drop=False, dropped=lambda lost: None)
    while recorder.drain_once():
        pass
    sink.close()
    assert _trail(directory) == list(range(1, serial + 1))


def test_only_a_full_batch_is_followed_by_the_next_at_once(made: Any) -> None:
    """Each batch costs a sync: what trickles in is gathered, what has piled up is not kept waiting."""
    rig = Rig(made, [made.Sink()])
    rounds: list[float] = []

    def wait(timeout: float) -> None:
        rounds.append(timeout)
        rig.recorder._stop.set()

    recorder: Any = rig.recorder
    recorder._wake.wait = wait
    rig.box.add(*range(1, 2 * BATCH + 10))
    recorder._run()
    assert rig.box.waiting == []
    assert len(rounds) == 1
    recorder._stop.clear()
    rig.box.add(2 * BATCH + 10)
    recorder._run()
    assert rig.box.waiting == []
    assert len(rounds) == 2
