"""A worked example of an audit sink plugin, from its class to events that reach it.

A package offers a sink under a name in its own `pyproject.toml`:

    [project.entry-points."slm_authz.audit_sink"]
    spreadsheet = "my_package:SpreadsheetSink"

and the configuration asks for it by that name; the mapping is the plugin's own:

    audit:
      sinks: [{spreadsheet: {path: ./calls.csv}}]
"""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from slm_authz.audit.event import AuditEvent
from slm_authz.audit.recorder import Recorder
from slm_authz.audit.sink import AuditSink
from slm_authz.errors import ConfigError
from slm_authz.plugins import make

GROUP = "slm_authz.audit_sink"
COLUMNS = ("time", "client", "model", "outcome", "reason", "input_tokens", "output_tokens", "cost")


class SpreadsheetSink:
    """One row per event. The entry point is called with the sink's mapping from the configuration; what it raises stops the start."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._file = Path(str(options["path"])).open("a", newline="", encoding="utf-8")  # noqa: SIM115 - closed in `close`
        self._rows = csv.writer(self._file)
        self._seen: set[tuple[str, str]] = set()

    def write(self, events: Sequence[AuditEvent]) -> None:
        """All events, or an exception. What raised is offered again, so an event that is here already is passed over."""
        for event in events:
            key = (event.event, event.decision_id or "")
            if event.decision_id is None or key not in self._seen:
                self._rows.writerow([getattr(event, column) for column in COLUMNS])
                self._seen.add(key)
        self._file.flush()

    def close(self) -> None:
        """No `write` follows."""
        self._file.close()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package with this entry point had been installed."""
    entries = importlib.metadata.EntryPoints(
        [
            importlib.metadata.EntryPoint("spreadsheet", f"{__name__}:SpreadsheetSink", GROUP),
            importlib.metadata.EntryPoint("broken", "no_such_package:Sink", GROUP),
            importlib.metadata.EntryPoint("wrong", "builtins:dict", GROUP),
        ]
    )
    monkeypatch.setattr("slm_authz.plugins.entry_points", lambda *, group: entries.select(group=group))
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", _load)


def _load(entry: importlib.metadata.EntryPoint) -> Any:
    """Tests are no package that could be imported by name: this module stands for one."""
    if entry.name == "spreadsheet":
        return SpreadsheetSink
    return dict if entry.name == "wrong" else __import__(entry.module)


@pytest.mark.usefixtures("installed")
def test_events_reach_the_sink_once_even_if_they_are_offered_twice(made: Any, tmp_path: Path) -> None:
    sink = make(GROUP, "spreadsheet", {"path": str(tmp_path / "calls.csv")}, AuditSink)
    box = made.Box()
    box.add(1, 2, 3)
    recorder = Recorder(box, [sink], drop=True, dropped=lambda count: None)
    recorder.drain_once()
    sink.write([made.event(1)])  # as after a failure, or after a crash before the acknowledgement
    box.add(4)
    recorder.drain_once()
    recorder.stop()
    rows = list(csv.reader((tmp_path / "calls.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 4
    assert rows[0] == ["2023-11-15T12:00:00.123Z", "acme", "phi-4-mini", "allow", "ok", "10", "5", "0.0015"]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("spreadsheet", {}, "'spreadsheet'"), ("broken", {}, "'broken'"), ("wrong", {}, "no AuditSink"), ("absent", {}, "no plugin 'absent'")],
)
def test_a_sink_that_cannot_be_made_is_a_configuration_error_by_name(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(GROUP, name, options, AuditSink)
