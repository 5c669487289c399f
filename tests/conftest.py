"""What several rooms' tests need: a configuration, and counters of every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from slm_authz.identity.principal import Principal
from slm_authz.policy.table import Table
from slm_authz.quota.account import Account, QuotaTable
from slm_authz.quota.counters import Admission, Amounts
from slm_authz.quota.hold import Pending, Signer
from slm_authz.quota.window import Calendar
from slm_authz.settings.schema import Settings
from slm_authz.store.journal import FileJournal
from slm_authz.store.memory import MemoryCounters

# No example fails for the time that it took; whatever else hypothesis finds fit for where it runs stays.
settings.register_profile("untimed", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("untimed")

NOON = 1_700_049_600_000
"""2023-11-15T12:00:00Z, a Wednesday, in Unix milliseconds."""
LEASE = 900_000


@pytest.fixture
def noon() -> int:
    return NOON


def settings_of(**changes: Any) -> Settings:
    """A small configuration, with top-level members replaced."""
    document: dict[str, Any] = {
        "version": 1,
        "identity": [{"api_key": {}}],
        "models": {
            "m": {"context": 1000, "default_output_tokens": 100, "max_output_tokens": 400, "price": {"input": "1", "output": "2", "per": 1}}
        },
        "tiers": {"free": {"models": ["m"], "limits": []}},
    }
    document.update(changes)
    return Settings.model_validate(document)


class Bench:
    """Counters with one tier of given limits, driven with plain numbers."""

    def __init__(
        self, limits: list[dict[str, Any]], journal: Callable[[], FileJournal | None], model_limits: list[dict[str, Any]] | None = None
    ) -> None:
        models: Mapping[str, Any] = {"m": {"context": 1000, "price": {"input": "1", "output": "2", "per": 1}, "limits": model_limits or []}}
        self.settings = settings_of(tiers={"free": {"models": ["m"], "limits": limits}}, models=models)
        self.table = QuotaTable(self.settings)
        self.policy = Table.build(self.settings)
        self.signer = Signer(b"s" * 32)
        self._open = journal
        self.durable = False
        self.counters = self.reopen()
        self.serial = 0

    def reopen(self) -> MemoryCounters:
        """Counters as a process finds them at its start; what the last one had not closed was killed."""
        journal = self._open()
        self.durable = journal is not None
        self.counters = MemoryCounters(self.signer, Calendar(), LEASE, journal)
        return self.counters

    def account(self, client: str = "acme", tenant: str | None = None, address: str = "") -> Account:
        from slm_authz.llm.ask import Ask, Prompt

        principal = Principal("api_key", client, "free", tenant=tenant, key_id=f"k-{client}")
        permit = self.policy.permit(Ask("openai.chat", "m", prompts=(Prompt(1),)), principal)
        assert not hasattr(permit, "reason")
        return self.table.account(principal, permit, address)

    def admission(self, client: str = "acme", tokens: int = 10, *, strict: bool = True, stream: bool = False, **subject: Any) -> Admission:
        """A call that holds `tokens`, a tenth of them (at least one) input."""
        self.serial += 1
        tokens_in = max(1, tokens // 10)
        tokens_out = tokens - tokens_in
        pending = Pending(
            f"{self.serial:032x}",
            0,
            0,
            (),
            "m",
            "openai.chat",
            stream,
            strict,
            True,
            tokens_in,
            tokens_out,
            10**9,
            2 * 10**9,
            1,
            f"memo {self.serial}".encode(),
        )
        amounts: Amounts = (1, tokens, pending.cost(tokens_in, tokens_out) or 0, 1)
        return Admission(pending, self.account(client, **subject), amounts)


@pytest.fixture(params=["memory", "journal"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a `Bench` on each embedded backend."""
    made: list[Bench] = []

    def journal() -> FileJournal | None:
        if request.param == "memory":
            return None
        directory = tmp_path / "data"
        directory.mkdir(mode=0o700, exist_ok=True)
        return FileJournal(directory / "journal", directory / "counters.db")

    def make(limits: list[dict[str, Any]], **more: Any) -> Bench:
        made.append(Bench(limits, journal, **more))
        return made[-1]

    yield make
    for one in made:
        one.counters.close(0)
