"""The loop between a transport and the corridor. One thread receives, decides and answers; nothing ever raises out of an RPC.

`deliver` may also be called from other threads, for calls that a settlement has let through.
"""

# ruff: noqa: BLE001 - whatever fails behind a door is our failure: the call is refused by a constant, and the next one is taken

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from time import sleep
from typing import Final

from slm_authz.decision import Decision
from slm_authz.reason import Denial, Reason
from slm_authz.request import Arrival
from slm_authz.wire.check_request import decode
from slm_authz.wire.check_response import LAST_RESORT, encode
from slm_authz.wire.complaints import Complaints
from slm_authz.wire.seam import Answers, Corridor, Incoming, Transport

BATCH: Final = 64
_IDLE_MS: Final = 200
_WAITING_MS: Final = 5
UNREAD: Final = Denial(Reason.INTERNAL, "The call could not be read because of a fault here; it was not let through. Retry.")
TOO_LONG: Final = Denial(Reason.BODY_NOT_WHOLE, "The request is larger than this service inspects.")


class Pump:
    """`clock` gives Unix milliseconds, `ticks` monotonic nanoseconds; `max_message` is in bytes."""

    def __init__(
        self,
        transport: Transport,
        corridor: Corridor,
        complain: Complaints,
        *,
        max_message: int,
        clock: Callable[[], int],
        ticks: Callable[[], int],
    ) -> None:
        self._transport = transport
        self._corridor = corridor
        self._complain = complain
        self._max_message = max_message
        self._clock = clock
        self._ticks = ticks
        self._thread = Thread(target=self._run, name="slm-authz-pump", daemon=True)
        self._hurried = False
        self._lulls = 0

    # -- life

    def start(self) -> None:
        """Begin to receive."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether anybody is answered."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait for the end of the loop, after the transport was closed."""
        self._thread.join(timeout)

    def rest(self, tries: int) -> bool:
        """Wait until nothing is queued, in hand or parked; False if that does not happen within `tries` looks, some 10 ms each."""
        self._hurried = True
        before = self._lulls
        for _ in range(tries):
            if self._lulls > before:
                return True
            sleep(0.01)
        return False

    def _run(self) -> None:
        while True:
            try:
                waits = self._hurried or self._corridor.waiting
                events = self._transport.receive(BATCH, _WAITING_MS if waits else _IDLE_MS)
                if events is None:
                    return
                self.step(events)
                if not events and not self._corridor.waiting:
                    self._lulls += 1
            except BaseException as error:  # whatever it is: without this thread nobody is answered
                self._complain("the pump stumbled", error)
                sleep(0.001)  # a transport that fails at once, every time, must not take the processor

    # -- one batch

    def step(self, events: list[Incoming]) -> None:
        """Decide what has arrived, and answer what has waited."""
        arrivals = self._read(events)
        if not arrivals and not self._corridor.waiting:
            return
        now = self._clock()
        try:
            answers = self._corridor.check(arrivals, now) if arrivals else self._corridor.resume(now)
        except Exception as error:
            # Some of it may hold its quota already: decided again, it would hold it twice.
            self._complain("a batch could not be decided", error)
            for arrival in arrivals:
                self._respond(arrival.call, LAST_RESORT)
        else:
            self.deliver(answers)

    def _read(self, events: list[Incoming]) -> list[Arrival]:
        received = self._ticks()
        arrivals: dict[int, Arrival] = {}
        for event in events:
            call, payload = event.call, event.payload
            if payload is None:
                self._cancel(arrivals.get(call), call)
            elif len(payload) > self._max_message:
                arrivals[call] = Arrival(call, TOO_LONG, received=received)
            else:
                try:
                    request = decode(payload, traceparent=event.traceparent, remaining=event.remaining)
                except Exception as error:
                    self._complain("a call could not be read", error)
                    request = UNREAD
                arrivals[call] = Arrival(call, request, received=received)
        return list(arrivals.values())

    def _cancel(self, arrival: Arrival | None, call: int) -> None:
        """A call of this batch is marked; one that may wait inside is taken out."""
        if arrival is not None:
            arrival.cancelled = True
            return
        try:
            self._corridor.cancel(call, self._clock())
        except Exception as error:
            self._complain("a call could not be cancelled", error)

    # -- answers

    def deliver(self, answers: Answers) -> None:
        """Send answers; what nobody receives is given back. All are written before the first is sent: sending wakes the transport's thread."""
        for decision, call, payload in [(decision, arrival.call, self._written(decision)) for arrival, decision in answers]:
            if not self._respond(call, payload) or payload is LAST_RESORT:
                self._give_back(decision, fault=payload is LAST_RESORT)

    def _written(self, decision: Decision) -> bytes:
        try:
            return encode(decision)
        except Exception as error:
            self._complain("an answer could not be written", error)
            return LAST_RESORT

    def _respond(self, call: int, payload: bytes) -> bool:
        try:
            return self._transport.respond(call, payload)
        except Exception as error:
            self._complain("an answer could not be sent", error)
            return False

    def _give_back(self, decision: Decision, *, fault: bool) -> None:
        try:
            self._corridor.undelivered(decision, self._clock(), fault=fault)
        except Exception as error:
            self._complain("an undelivered answer could not be given back", error)
