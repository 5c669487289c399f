"""What is read off Envoy's access log, and what is only counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_authz.quota.evidence import Evidence
from slm_authz.wire.access_log import LONGEST, AccessLog, evidence
from slm_authz.wire.complaints import Complaints


def entry(hold: str | None = "the hold", usage: dict[str, Any] | None = None, **more: Any) -> Any:
    """A whole answer as Envoy reports it, with common properties replaced."""
    made = accesslog_pb2.HTTPAccessLogEntry()
    common = made.common_properties
    common.access_log_type = accesslog_pb2.DownstreamEnd
    common.response_flags.SetInParent()
    common.time_to_first_upstream_tx_byte.nanos = 5
    common.duration.FromMilliseconds(1234)
    common.upstream_request_attempt_count = 1
    common.upstream_wire_bytes_received = 1000
    made.response.upstream_header_bytes_received = 150
    made.response.response_code.value = 200
    made.response.response_code_details = "via_upstream"
    if hold is not None:
        ours = common.metadata.filter_metadata["envoy.filters.http.ext_authz"].fields["slm"].struct_value
        ours.update({"decision_id": "d", "hold": hold})
    if usage is not None:
        common.metadata.filter_metadata["slm.usage"].update(usage)
    for name, value in more.items():
        setattr(common, name, value)
    return made


def read(made: Any) -> Evidence:
    found = evidence(made)
    assert isinstance(found, Evidence)
    return found


def test_a_whole_answer() -> None:
    assert read(entry(usage={"input_tokens": 12, "output_tokens": 30})) == Evidence(
        "the hold", "end", 200, "via_upstream", False, (), True, True, 850, 12, 30, 1, 1234
    )


@pytest.mark.parametrize(
    ("value", "figure"),
    [
        (0, 0),
        (7, 7),
        (2**31 - 1, 2**31 - 1),
        (2**31, -1),
        (-3, -1),
        (7.5, -1),
        (math.inf, -1),
        (math.nan, -1),
        ("7", -1),
        (True, -1),
        (None, -1),
    ],
)
def test_figures_are_whole_numbers_or_invalid(value: Any, figure: int) -> None:
    found = read(entry(usage={"input_tokens": value}))
    assert (found.input_tokens, found.output_tokens) == (figure, None)


def test_a_periodic_entry_renews() -> None:
    assert read(entry(access_log_type=accesslog_pb2.DownstreamPeriodic)).kind == "periodic"


@pytest.mark.parametrize(
    "kind", [k for _, k in accesslog_pb2.AccessLogType.items() if k not in (accesslog_pb2.DownstreamEnd, accesslog_pb2.DownstreamPeriodic)]
)
def test_entries_of_other_types_settle_nothing(kind: int) -> None:
    assert evidence(entry(access_log_type=kind)) == "type"


def test_a_flag_means_that_it_did_not_end_well() -> None:
    made = entry()
    made.common_properties.response_flags.downstream_remote_reset = True
    made.common_properties.response_flags.unauthorized_details.reason = 1
    found = read(made)
    assert (found.flagged, found.complete, set(found.flags)) == (True, False, {"downstream_remote_reset", "unauthorized_details"})


def test_a_flag_that_is_newer_than_our_stubs_counts() -> None:
    made = entry()
    made.common_properties.response_flags.MergeFromString(b"\xc0\x3e\x01")  # field 1000: true
    found = read(made)
    assert (found.flagged, found.flags, found.complete) == (True, (), False)


def test_an_answer_of_envoys_own_is_not_complete() -> None:
    made = entry()
    made.response.response_code_details = "upstream_response_timeout"
    assert read(made).complete is False


def test_nothing_reached_the_upstream() -> None:
    made = entry()
    made.common_properties.ClearField("time_to_first_upstream_tx_byte")
    assert read(made).reached is False
    made.common_properties.time_to_first_upstream_rx_byte.SetInParent()
    assert read(made).reached is True


def test_bytes_are_never_negative() -> None:
    assert read(entry(upstream_wire_bytes_received=3)).bytes == 0


def test_entries_without_a_hold_say_why() -> None:
    assert evidence(entry(hold=None)) == "no_hold"
    assert evidence(entry(hold="")) == "refused"
    made = entry(hold=None)
    made.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].update({"slm": "a string"})
    assert evidence(made) == "no_hold"
    made.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].update({"slm": {"hold": 5}})
    assert evidence(made) == "no_hold"
    assert evidence(accesslog_pb2.HTTPAccessLogEntry()) == "type"
    assert evidence(entry(hold=None, access_log_type=accesslog_pb2.DownstreamPeriodic)) == "type"


class Ledger:
    def __init__(self) -> None:
        self.settled: list[list[Evidence]] = []
        self.unmatched: list[tuple[int, str, str]] = []
        self.log = AccessLog(self.settle, lambda *what: self.unmatched.append(what), Complaints(lambda: 0))

    def settle(self, entries: Sequence[Evidence]) -> None:
        self.settled.append(list(entries))


def message(*entries: Any) -> bytes:
    made = als_pb2.StreamAccessLogsMessage()
    made.http_logs.log_entry.extend(entries)
    payload: bytes = made.SerializeToString()
    return payload


def test_a_message_is_settled_at_once_and_the_rest_is_counted_by_cause() -> None:
    ledger = Ledger()
    ledger.log.take(message(*(entry(f"h{n}") for n in range(16)), entry(None), entry(None), entry(access_log_type=4)))
    assert [[e.hold for e in batch] for batch in ledger.settled] == [[f"h{n}" for n in range(16)]]
    assert sorted(ledger.unmatched) == [(1, "type", "via_upstream"), (2, "no_hold", "via_upstream")]


def test_tcp_logs_are_counted() -> None:
    ledger = Ledger()
    made = als_pb2.StreamAccessLogsMessage()
    made.tcp_logs.log_entry.add()
    made.tcp_logs.log_entry.add()
    ledger.log.take(made.SerializeToString())
    assert (ledger.settled, ledger.unmatched) == ([], [(2, "tcp", "")])


def test_what_cannot_be_read_is_counted() -> None:
    ledger = Ledger()
    ledger.log.take(b"\xff\xff")
    ledger.log.take(b"\x00" * (LONGEST + 1))
    assert ledger.unmatched == [(1, "unreadable", ""), (1, "too_long", "")]


def test_an_entry_that_fails_does_not_take_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    def choke(made: Any) -> Evidence | str:
        if made.response.response_code_details == "poison":
            raise ValueError("sk-secret")
        return evidence(made)

    monkeypatch.setattr("slm_authz.wire.access_log.evidence", choke)
    poison = entry()
    poison.response.response_code_details = "poison"
    ledger = Ledger()
    ledger.log.take(message(entry("a"), poison, entry("b")))
    assert [e.hold for e in ledger.settled[0]] == ["a", "b"]
    assert ledger.unmatched == [(1, "unreadable", "poison")]


good = message(entry(usage={"input_tokens": 1, "output_tokens": 2}))


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(st.integers(0, len(good) - 1), st.binary(max_size=4)).map(lambda x: good[: x[0]] + x[1] + good[x[0] + 1 :]),
    )
)
def test_no_bytes_raise(payload: bytes) -> None:
    Ledger().log.take(payload)
