"""As much of HTTP/2 (RFC 9113) as a gRPC load generator needs: small answers, constant headers, flow control kept.

A client in C would be faster; this one keeps a Python server busy from one other core, needs no package, can send a different message in
every call and can look at the answers. Header blocks are literals without indexing, and our header table has size 0, so no state is kept.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MOST = 2**31 - 1
Ended = Callable[[int, bytes], None]
"""(stream, message of the answer; b"" where there was none)."""


class BrokenError(Exception):
    """The server ended the connection, or said what this client does not understand."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(payload: bytes) -> bytes:
    """gRPC's length-prefixed message, uncompressed."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def header_block(path: str, timeout: str | None = "1000m") -> bytes:
    """HPACK (RFC 7541) of a gRPC call."""

    def literal(name: str, value: str) -> bytes:
        return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()

    block = b"\x83\x86" + b"\x04" + bytes((len(path),)) + path.encode() + b"\x01\x09localhost"
    block += literal("content-type", "application/grpc") + literal("te", "trailers") + literal("user-agent", "bench")
    return block + (literal("grpc-timeout", timeout) if timeout else b"")


class Connection:
    """One connection. `begin` and `send` queue; `turn` writes what may be written and reads what has come."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        settings = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in ((1, 0), (2, 0), (4, MOST)))
        self._out = bytearray(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings) + frame(WINDOW, 0, 0, (MOST - 65535).to_bytes(4, "big"))
        )
        self._in = bytearray()
        self._window = 65535
        self._stream_window = 65535
        self._windows: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes, int]] = deque()
        self._received = 0
        self._bodies: dict[int, bytes] = {}
        self._next = 1

    def begin(self, block: bytes, payload: bytes | None) -> int:
        """A call; None: a stream of messages that follow through `send`."""
        stream, self._next = self._next, self._next + 2
        self._out += frame(HEADERS, END_HEADERS, stream, block)
        if payload is None:
            self._windows[stream] = self._stream_window
        else:
            self._push(stream, message(payload), END_STREAM)
        return stream

    def send(self, stream: int, payload: bytes) -> None:
        """One more message of a stream."""
        data = message(payload)
        for at in range(0, len(data), 16384):
            self._push(stream, data[at : at + 16384], 0)

    def finish(self, stream: int) -> None:
        self._push(stream, b"", END_STREAM)

    def _push(self, stream: int, data: bytes, flags: int) -> None:
        if self._waiting or not self._may(stream, len(data)):
            self._waiting.append((stream, data, flags))
        else:
            self._out += frame(DATA, flags, stream, data)

    def _may(self, stream: int, size: int) -> bool:
        own = self._windows.get(stream)
        if size > self._window or (own is not None and size > own):
            return False
        self._window -= size
        if own is not None:
            self._windows[stream] = own - size
        return True

    def turn(self, ended: Ended, timeout: float) -> None:
        """Write, wait at most `timeout` seconds for something to read, read, and report calls that have ended."""
        if self._out:
            try:
                sent = self._socket.send(self._out)
                del self._out[:sent]
            except BlockingIOError:
                pass
        readable, _, _ = select.select([self._socket], [self._socket] if self._out else [], [], timeout)
        if not readable:
            return
        data = self._socket.recv(1 << 18)
        if not data:
            raise BrokenError("the server closed the connection")
        self._in += data
        self._read(ended)
        while self._waiting and self._may(self._waiting[0][0], len(self._waiting[0][1])):
            stream, payload, flags = self._waiting.popleft()
            self._out += frame(DATA, flags, stream, payload)

    def _read(self, ended: Ended) -> None:
        view, at, bodies = bytes(self._in), 0, self._bodies
        size = len(view)
        while size - at >= 9:
            length = int.from_bytes(view[at : at + 3], "big")
            end = at + 9 + length
            if end > size:
                break
            kind, flags, stream = view[at + 3], view[at + 4], int.from_bytes(view[at + 5 : at + 9], "big")
            if kind == DATA:
                self._received += length
                part = view[at + 9 : end]
                bodies[stream] = bodies[stream] + part if stream in bodies else part
                if flags & END_STREAM:
                    ended(stream, bodies.pop(stream)[5:])
            elif kind == HEADERS:
                if flags & END_STREAM:
                    ended(stream, bodies.pop(stream, b"")[5:])
            else:
                self._control(kind, flags, stream, view[at + 9 : end], ended)
            at = end
        del self._in[:at]
        if self._received > 1 << 29:
            self._out += frame(WINDOW, 0, 0, self._received.to_bytes(4, "big"))
            self._received = 0

    def _control(self, kind: int, flags: int, stream: int, payload: bytes, ended: Ended) -> None:
        if kind == WINDOW:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += more
            elif stream in self._windows:
                self._windows[stream] += more
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == 4:
                    value = int.from_bytes(payload[at + 2 : at + 6], "big")
                    self._windows = {one: left + value - self._stream_window for one, left in self._windows.items()}
                    self._stream_window = value
            self._out += frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self._out += frame(PING, ACK, 0, payload)
        elif kind == RESET:
            self._bodies.pop(stream, None)
            ended(stream, b"")
        elif kind in (GOAWAY, CONTINUATION):
            raise BrokenError(f"frame of type {kind}: {payload[:100]!r}")

    def close(self) -> None:
        self._socket.close()
