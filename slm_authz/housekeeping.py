"""What has to be done again and again beside the deciding thread: lapses, snapshots, last uses, sweeping, and looking at the access log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Thread
from typing import Final, Protocol

from slm_authz.engine import Engine
from slm_authz.errors import StoreError
from slm_authz.identity.directory import KeyDirectory
from slm_authz.quota import rules
from slm_authz.quota.limit import SEPARATOR
from slm_authz.store.memory import MemoryCounters

log = logging.getLogger(__name__)

_TICK_S: Final = 0.1
_UNWIRED_MS: Final = 30_000
UNWIRED: Final = (
    "no access log entry has arrived for calls that were allowed over 30 s ago: usage is charged at its bound when leases end. "
    "Add the gRPC access log to the gateway's HTTP connection manager: `slm-authz envoy-config` shows it."
)


HOMELESS: Final = (
    "keys name tiers that the configuration does not have ({}): their calls are 403 client_blocked. Put the tier back, or move the keys: "
    "`slm-authz keys list --tier TIER`, `keys update ID --tier ANOTHER`."
)


class _House(Protocol):
    engine: Engine
    counters: MemoryCounters
    directory: KeyDirectory

    def homeless(self) -> list[str]:
        """Tiers that keys name and the configuration does not have. Slow where there are many keys."""
        ...

    def key_changes(self) -> int:
        """Grows with every change of any key."""
        ...


class Housekeeper:
    """One thread. `tick` is a single round, for tests."""

    def __init__(self, house: _House, clock: Callable[[], int]) -> None:
        self._house = house
        self._clock = clock
        self._stop = Event()
        self._thread = Thread(target=self._run, name="slm-authz-housekeeper", daemon=True)
        self._rounds = 0
        self._tiers_of: tuple[str, int] | None = None
        self.unwired: str | None = None
        self.homeless: str | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round that is running."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self.tick()
            except Exception:
                log.exception("a round of housekeeping failed")

    def tick(self) -> None:
        """Lapses and summaries ten times a second, snapshots and a look around once, last uses every ten seconds, a sweep once a minute."""
        self._rounds += 1
        now = self._clock()
        house = self._house
        house.engine.lapse(now)
        if self._rounds % 10 == 0:
            house.directory.look()
            self._snapshot()
            self._look_at_access_log(now)
            self._look_at_tiers(again=self._rounds % 600 == 0)
        if self._rounds % 100 == 0:
            try:
                house.directory.flush_used()
            except StoreError as error:
                log.warning("last uses of keys could not be written: %s", error)
        if self._rounds % 600 == 0:
            house.counters.sweep(lambda key, state: self._idle(key, state, now))

    def _snapshot(self) -> None:
        was = self._house.counters.healthy
        try:
            self._house.counters.snapshot()
        except StoreError as error:
            if was:
                log.error("%s", error)

    def _look_at_access_log(self, now: int) -> None:
        since = self._house.counters.unheard_since
        unwired = since is not None and since < now - _UNWIRED_MS
        if unwired and self.unwired is None:
            log.warning("%s", UNWIRED)
        self.unwired = UNWIRED if unwired else None

    def _look_at_tiers(self, *, again: bool) -> None:
        """When the configuration or any key has changed; `again`: also while keys are homeless, which end by themselves."""
        try:
            state = (self._house.engine.rules.digest, self._house.key_changes())
            if state == self._tiers_of and not (again and self.homeless is not None):
                return
            gone = self._house.homeless()
        except StoreError:
            return  # `look` has said so; asked again
        text = HOMELESS.format(", ".join(gone)) if gone else None
        if text is not None and text != self.homeless:
            log.warning("%s", text)
        self._tiers_of, self.homeless = state, text

    def _idle(self, key: str, state: rules.State, now: int) -> bool:
        """Whether a counter says nothing any more: its window is over, or nothing is held or owed."""
        _, algorithm, period = key.split(SEPARATOR, 3)[:3]
        if algorithm == "fixed":
            return state[0] < self._house.counters.calendar.window(period, now)[0]
        if algorithm == "gcra":
            return state[2] > 0 and (now - state[0]) * state[2] >= state[1]
        return state[2] == 0
