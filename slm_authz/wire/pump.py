"""The loop between a transport and the corridor. One thread receives, decides and answers; nothing ever raises out of an RPC.

`deliver` may also be called from other threads, for calls that a settlement has let through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Thread
from typing import Final

from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival
from slm_authz.wire.check_request import decode
from slm_authz.wire.check_response import LAST_RESORT, encode
from slm_authz.wire.seam import Answers, Corridor, Incoming, Transport

log = logging.getLogger(__name__)

BATCH: Final = 64
_IDLE_MS: Final = 200
_WAITING_MS: Final = 5
_TOO_LONG: Final = Denial(Reason.BODY_NOT_WHOLE, "The request is larger than this service inspects.")


class Pump:
    """`clock` gives Unix milliseconds, `ticks` monotonic nanoseconds; `max_message` is in bytes."""

    def __init__(
        self, transport: Transport, corridor: Corridor, *, max_message: int, clock: Callable[[], int], ticks: Callable[[], int]
    ) -> None:
        self._transport = transport
        self._corridor = corridor
        self._max_message = max_message
        self._clock = clock
        self._ticks = ticks
        self._thread = Thread(target=self._run, name="slm-authz-pump", daemon=True)
        self.idle = True

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the end of the loop, after the transport was closed."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            events = self._transport.receive(BATCH, _WAITING_MS if self._corridor.waiting else _IDLE_MS)
            if events is None:
                return
            self.idle = False
            try:
                self.step(events)
            except Exception:
                log.exception("a batch could not be answered")
            self.idle = not events and not self._corridor.waiting

    def step(self, events: list[Incoming]) -> None:
        """Decide what has arrived, and answer what has waited."""
        arrivals = self._read(events)
        if not arrivals and not self._corridor.waiting:
            return
        now = self._clock()
        try:
            answers = self._corridor.check(arrivals, now) if arrivals else self._corridor.resume(now)
        except Exception:
            log.exception("a batch of %d calls could not be decided", len(arrivals))
            self._one_by_one(arrivals)
            return
        self.deliver(answers)

    def _read(self, events: list[Incoming]) -> list[Arrival]:
        received = self._ticks()
        arrivals: dict[int, Arrival] = {}
        for event in events:
            payload = event.payload
            if payload is None:
                arrival = arrivals.get(event.call)
                if arrival is not None:
                    arrival.cancelled = True
                else:
                    self._corridor.cancel(event.call, self._clock())
            elif len(payload) > self._max_message:
                arrivals[event.call] = Arrival(event.call, _TOO_LONG)
            else:
                request = decode(payload, traceparent=event.traceparent, remaining=event.remaining, received=received)
                arrivals[event.call] = Arrival(event.call, request)
        return list(arrivals.values())

    def _one_by_one(self, arrivals: list[Arrival]) -> None:
        """One poisonous call must not take its neighbours with it."""
        for arrival in arrivals:
            try:
                answers = self._corridor.check([arrival], self._clock())
            except Exception:
                log.exception("a call could not be decided")
                self._transport.respond(arrival.call, LAST_RESORT)
            else:
                self.deliver(answers)

    def deliver(self, answers: Answers) -> None:
        """Send answers; what nobody waits for is given back."""
        for arrival, decision in answers:
            try:
                payload = encode(decision)
            except Exception:
                log.exception("an answer could not be written")
                payload = LAST_RESORT
            if not self._transport.respond(arrival.call, payload) or payload is LAST_RESORT:
                self._corridor.undelivered(decision, self._clock())
