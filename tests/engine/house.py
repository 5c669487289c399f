"""A corridor on real rooms, without sockets and threads: a configuration, keys by client, a clock that tests move."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

from slm_authz.audit.event import AuditEvent
from slm_authz.audit.finish import finish
from slm_authz.audit.metrics import Metrics
from slm_authz.audit.summary import SummaryGate
from slm_authz.compose import build_rules, load_all
from slm_authz.decision import Decision
from slm_authz.engine import Engine
from slm_authz.identity.directory import KeyDirectory
from slm_authz.identity.lifecycle import Lifecycle
from slm_authz.identity.pepper import of
from slm_authz.ids import DecisionIds
from slm_authz.quota.evidence import Evidence
from slm_authz.quota.hold import Signer
from slm_authz.quota.window import Calendar
from slm_authz.request import Arrival, RequestContext
from slm_authz.request.address import network
from slm_authz.store.journal import FileJournal
from slm_authz.store.keys import SqliteKeyStore
from slm_authz.store.memory import MemoryCounters

NOON = 1_700_049_600_000


class House:
    """`ask` sends one call and answers its decision, or None while it waits."""

    def __init__(self, directory: Path, config: str, *, lease_ms: int = 900_000) -> None:
        directory.chmod(0o700)
        file = directory / "slm-authz.yaml"
        file.write_text(config)
        self.loaded = load_all(file, {})
        pepper = of(b"p" * 32)
        self.store = SqliteKeyStore(directory / "keys.db")
        self.life = Lifecycle(self.store, pepper, os.urandom)
        self.directory = KeyDirectory(self.store, pepper)
        self.now = NOON
        self.ticks = 0
        self.signer = Signer(b"s" * 32)
        journal = FileJournal(directory / "journal", directory / "counters.db")
        self.journal = journal
        self.counters = MemoryCounters(self.signer, Calendar(), lease_ms, journal)
        self.metrics = Metrics()
        self.engine = Engine(
            build_rules(self.loaded, self.directory),
            self.counters,
            self.directory,
            self.signer,
            self.metrics,
            SummaryGate(network),
            ticks=lambda: self.ticks,
            new_id=DecisionIds(os.urandom),
            jitter=lambda: 0.0,
        )
        self.engine.started = True
        self._calls = itertools.count(1)
        self._keys: dict[str, str] = {}

    def homeless(self) -> list[str]:
        return self.life.homeless(self.loaded.settings.tiers, self.now)

    def key_changes(self) -> int:
        return self.store.change_seq()

    def key(self, client: str, **more: Any) -> str:
        """A key of that client, made once."""
        if client not in self._keys:
            tier = more.pop("tier", next(iter(self.loaded.settings.tiers)))
            self._keys[client] = self.life.create(self.now, client=client, tier=tier, **more)[1]
        return self._keys[client]

    def request(
        self, body: bytes = b"", *, key: str | None = None, method: str = "POST", target: str = "/v1/chat/completions", **more: Any
    ) -> RequestContext:
        headers = {"content-type": "application/json", "content-length": str(len(body))} if body else {}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        headers.update(more.pop("headers", {}))
        return RequestContext(
            method,
            target,
            more.pop("host", "models.example.com"),
            headers,
            body=body,
            peer=more.pop("peer", "10.0.0.1"),
            **more,
        )

    def ask(self, request: Any) -> Decision | None:
        answers = self.engine.check([Arrival(next(self._calls), request, received=self.ticks)], self.now)
        return answers[-1][1] if answers else None

    def end(self, decision: Decision | None, tokens: tuple[int, int] | None = (1, 1), **more: Any) -> None:
        """The log entry of a call's end."""
        assert decision is not None
        assert decision.hold
        whole: dict[str, Any] = {"status": 200, "details": "via_upstream", "reached": True, "complete": True, "attempts": 1}
        whole.update(more)
        figures: dict[str, Any] = {"input_tokens": tokens[0], "output_tokens": tokens[1]} if tokens is not None else {}
        self.engine.settle([Evidence(decision.hold, **figures, **whole)], self.now)

    def events(self) -> list[AuditEvent]:
        return [finish(outcome)[0] for outcome in self.counters.pending(1000)]

    def close(self) -> None:
        self.counters.close(self.now)
        self.store.close()
