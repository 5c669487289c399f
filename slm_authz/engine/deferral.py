"""A bounded place for calls whose identity has to be asked for elsewhere. Each is awaited on one event loop, in a thread of its own.

An identity method that answers `Deferred` leaves the batch here; the call comes back through `finished` with what was answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock, Thread
from typing import Final

from slm_authz.identity.principal import Deferred, Principal
from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival

log = logging.getLogger(__name__)

CAPACITY: Final = 1024
TIMEOUT_S: Final = 10.0
"""Longest wait for an identity provider; the call's own deadline is usually shorter."""


class Deferrals:
    """Calls that wait for an identity. The thread starts with the first of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[int, Future[None]] = {}
        self._finished: deque[Arrival] = deque()

    def __len__(self) -> int:
        return len(self._running) + len(self._finished)

    def submit(self, arrival: Arrival, deferred: Deferred) -> None:
        """Await the answer. A full place answers 503 at once."""
        if len(self) >= CAPACITY:
            arrival.identity = Denial(
                Reason.IDP_UNAVAILABLE, "Too many calls wait for the identity provider; retry in a moment.", retry_after=1
            )
            self._finished.append(arrival)
            return
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                Thread(target=self._loop.run_forever, name="slm-authz-deferred", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(self._wait(arrival, deferred), self._loop)
            self._running[arrival.call] = future
        future.add_done_callback(lambda _: self._running.pop(arrival.call, None))

    async def _wait(self, arrival: Arrival, deferred: Deferred) -> None:
        try:
            answer: Principal | Denial | None = await asyncio.wait_for(_awaited(deferred), TIMEOUT_S)
        except asyncio.CancelledError:
            answer = Denial(Reason.CANCELLED, "The call was cancelled.")
        except Exception as error:  # noqa: BLE001 - a plugin's failure is ours: it never becomes a pass
            log.warning("a deferred identity failed: %s", type(error).__name__)
            answer = Denial(Reason.IDP_UNAVAILABLE, "The identity provider did not answer; retry in a moment.", retry_after=1)
        arrival.identity = answer or Denial(Reason.INVALID_TOKEN, "The credential was not accepted.")
        self._finished.append(arrival)

    def finished(self) -> list[Arrival]:
        """Calls whose answer has come, each once."""
        back = []
        with suppress(IndexError):  # two threads may empty it at once
            while True:
                back.append(self._finished.popleft())
        return back

    def cancel(self, call: int) -> None:
        """The caller has gone; its wait ends now."""
        future = self._running.get(call)
        if future is not None:
            future.cancel()


async def _awaited(deferred: Deferred) -> Principal | Denial | None:
    return await deferred.answer
