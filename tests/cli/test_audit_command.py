"""`slm-authz audit tail|query`, on files as the sink writes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from slm_authz.audit.event import CallFacts, pack
from slm_authz.audit.file_sink import FileSink, trail_files
from slm_authz.audit.finish import finish
from slm_authz.cli.main import main
from slm_authz.quota.outcome import Outcome
from slm_authz.reason import Reason

CONFIG = """\
version: 1
identity: [{api_key: {}}]
models: {m: {context: 1000, default_output_tokens: 10, max_output_tokens: 100, price: free}}
tiers: {free: {models: [m], limits: [{requests: 5, per: minute}]}}
audit: {sinks: [{file: ./audit}]}
"""
HOUR = 3_600_000


class Trail:
    """A configuration with an audit directory that a sink fills."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "slm-authz.yaml"
        self.config.write_text(CONFIG)
        self.directory = directory / "audit"
        self.now = time.time_ns() // 1_000_000
        self.serial = 0
        self.rotate = 1 << 20

    def write(self, count: int = 1, *, age: int = 0, **changes: Any) -> None:
        events = []
        for _ in range(count):
            self.serial += 1
            facts = CallFacts(
                1, self.now - age, f"{self.serial:032x}", "", None, "api_key", "acme", None, "free", "k", "openai.chat", "m", "POST", "/v1/x",
                "192.0.2.1", "allow", "ok", None, (), 200, 100, "USD", "c",
            )  # fmt: skip
            for name, value in changes.items():
                setattr(facts, name, value)
            events.append(finish(Outcome(self.serial, "decision", pack(facts), self.now, 200, 1, 3, 4, "upstream", 5))[0])
        sink = FileSink(self.directory, rotate=self.rotate, keep=1 << 50, max_total=1 << 40, clock=lambda: self.now)
        for event in events:
            sink.write([event])
        sink.close()


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path)


@pytest.fixture
def run(trail: Trail, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["audit", *words, "-c", str(trail.config)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def serials(out: str) -> list[int]:
    return [int(msgspec.json.decode(line)["decision_id"], 16) for line in out.splitlines()]


def test_query_prints_one_object_per_line_in_the_order_of_writing_across_files(trail: Trail, run: Any) -> None:
    trail.rotate = 1000
    trail.write(9)
    assert len(trail_files(trail.directory)) > 3
    code, out, err = run("query", "--output", "json")
    assert (code, err) == (0, "")
    assert serials(out) == list(range(1, 10))


def test_filters_are_anded(trail: Trail, run: Any) -> None:
    trail.write(client="other")
    trail.write(outcome="deny", reason="unknown_key", client=None)
    trail.write(outcome="deny", reason="rate_limited")
    trail.write()
    assert serials(run("query", "--client", "acme", "--output", "json")[1]) == [3, 4]
    assert serials(run("query", "--outcome", "deny", "--output", "json")[1]) == [2, 3]
    assert serials(run("query", "--outcome", "deny", "--client", "acme", "--output", "json")[1]) == [3]
    assert serials(run("query", "--reason", "unknown_key", "--output", "json")[1]) == [2]


def test_since_looks_at_the_time_of_the_decision(trail: Trail, run: Any) -> None:
    trail.write(age=3 * HOUR)
    trail.write(age=HOUR // 2)
    assert serials(run("query", "--since", "1h", "--output", "json")[1]) == [2]
    assert serials(run("query", "--since", "7200", "--output", "json")[1]) == [2]
    assert serials(run("query", "--since", "1d", "--output", "json")[1]) == [1, 2]


def test_limit_takes_the_newest_in_order(trail: Trail, run: Any) -> None:
    trail.rotate = 2000
    trail.write(12)
    trail.write(client="other")
    trail.write(1)
    assert serials(run("query", "--limit", "3", "--output", "json")[1]) == [12, 13, 14]
    assert serials(run("query", "--limit", "2", "--client", "acme", "--output", "json")[1]) == [12, 14]
    assert serials(run("query", "--limit", "0", "--output", "json")[1]) == []
    assert serials(run("query", "--limit", "99", "--output", "json")[1]) == list(range(1, 15))


def test_one_decision_is_found_or_the_answer_is_no(trail: Trail, run: Any) -> None:
    trail.write(3)
    code, out, _ = run("query", "--decision", f"{2:032x}", "--output", "json")
    assert (code, serials(out)) == (0, [2])
    assert run("query", "--decision", "unknown", "--output", "json")[:2] == (1, "")
    assert run("query", "--client", "nobody", "--output", "json")[0] == 0


def test_corrupt_lines_are_counted_on_stderr_and_the_rest_is_shown(trail: Trail, run: Any) -> None:
    trail.write(2)
    (path,) = trail_files(trail.directory)
    path.write_bytes(b'{"torn\n' + path.read_bytes() + b"\xff\xfe\n[]\n" + b'{"decision_id": "half')
    code, out, err = run("query", "--output", "json")
    assert (code, serials(out)) == (0, [1, 2])
    assert "3 lines cannot be read" in err
    assert serials(run("query", "--limit", "5", "--output", "json")[1]) == [1, 2]


def test_the_table_cannot_move_the_cursor(trail: Trail, run: Any) -> None:
    trail.write(1)
    (path,) = trail_files(trail.directory)
    path.write_bytes(path.read_bytes().replace(b'"acme"', rb'"\u001b[2Jacme"'))
    _, out, _ = run("query")
    assert "\x1b" not in out
    assert "acme" in out
    assert out.splitlines()[0].split() == [
        "TIME", "EVENT", "OUTCOME", "REASON", "STATUS", "CLIENT", "MODEL", "INPUT_TOKENS", "OUTPUT_TOKENS", "USAGE_SOURCE", "COST", "LIMIT",
        "DECISION_ID",
    ]  # fmt: skip


def test_without_a_trail_it_says_so(run: Any) -> None:
    code, out, err = run("query", "--output", "json")
    assert (code, out) == (0, "")
    assert "no audit trail" in err


def test_without_a_file_sink_it_is_wrong_usage(trail: Trail, run: Any) -> None:
    trail.config.write_text(CONFIG.replace("{file: ./audit}", "{otlp: {}}"))
    code, _, err = run("query")
    assert code == 2
    assert "audit.sinks" in err


@pytest.mark.parametrize("since", ["soon", "-1h", "", "1h30"])
def test_a_duration_that_is_none_is_wrong_usage(run: Any, since: str) -> None:
    code, _, err = run("query", f"--since={since}")
    assert code == 2
    assert "--since" in err


@pytest.mark.parametrize("words", [["query", "--limit", "x"], ["tail", "-n", "-1"], ["query", "--outcome", "maybe"], ["verify"]])
def test_flags_that_are_wrong_are_wrong_usage(run: Any, words: list[str]) -> None:
    assert run(*words)[0] == 2


@pytest.mark.parametrize("action", ["query", "tail"])
def test_a_reason_that_is_none_is_wrong_usage_that_names_the_codes(run: Any, action: str) -> None:
    code, out, err = run(action, "--reason", "nope")
    assert (code, out) == (2, "")
    assert "There is no reason 'nope'" in err
    assert all(reason in err for reason in Reason)


def test_the_table_has_room_for_the_limits_that_have_no_name_of_their_own(trail: Trail, run: Any) -> None:
    trail.write(outcome="deny", reason="rate_limited", limit="free.requests.minute.client")
    trail.write(limit=None)
    head, *rows = run("query")[1].splitlines()
    assert {row.rindex(f"{serial:032x}") for serial, row in enumerate(rows, 1)} == {head.index("DECISION_ID")}


def test_tail_begins_with_the_last_ones_follows_over_rotation_and_ends_on_interrupt(
    trail: Trail, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail.rotate = 1500
    trail.write(5)
    rounds: Iterator[Callable[[], None]] = iter([lambda: trail.write(2), lambda: trail.write(4), lambda: None])

    def sleep(_: float) -> None:
        try:
            next(rounds)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, _ = run("tail", "-n", "2", "--output", "json")
    assert code == 130
    assert serials(out) == list(range(4, 12))


def test_tail_waits_for_a_trail_that_begins_later_and_for_whole_lines(trail: Trail, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn() -> None:
        trail.write(1)
        (path,) = trail_files(trail.directory)
        whole.append(path.read_bytes())
        path.write_bytes(whole[0][:-20])

    def mended() -> None:
        (path,) = trail_files(trail.directory)
        path.write_bytes(whole[0])

    whole: list[bytes] = []
    rounds: Iterator[Callable[[], None]] = iter([torn, mended, lambda: None])

    def sleep(_: float) -> None:
        try:
            next(rounds)()
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(time, "sleep", sleep)
    code, out, _ = run("tail", "--output", "json")
    assert (code, serials(out)) == (130, [1])
