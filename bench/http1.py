"""Closed-loop HTTP/1.1 load with keep-alive: N connections, one request at a time on each."""

from __future__ import annotations

import re
import selectors
import socket
import time
from collections.abc import Callable
from itertools import cycle

from bench.load import Load, result
from bench.requests import BODY

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def request(key: str) -> bytes:
    """A chat completion with that key, as an SDK sends it."""
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: models.example.com\r\naccept: application/json\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\nuser-agent: OpenAI/Python 2.7.1\r\nx-stainless-lang: python\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    return head.encode() + BODY


class _Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.began = 0.0

    def begin(self, payload: bytes) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(payload)

    def answer(self) -> int | None:
        """The status of a whole answer, or None while it is not whole."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the gateway closed a connection")
        self.data += data
        head = self.data.find(b"\r\n\r\n")
        if head < 0:
            return None
        length = LENGTH.search(self.data, 0, head)
        if len(self.data) < head + 4 + (int(length[1]) if length else 0):
            return None
        status, self.data = int(self.data[9:12]), b""
        return status


def drive(port: int, requests: list[bytes], *, cpu: Callable[[], float], seconds: float, connections: int = 32) -> Load:
    """One run; `refused` counts answers other than 200."""
    supply, latencies, refused = cycle(requests), list[float](), 0
    clients = [_Client(port) for _ in range(connections)]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        before, start = cpu(), time.perf_counter()
        for client in clients:
            client.begin(next(supply))
        while time.perf_counter() < start + seconds:
            for key, _ in selector.select(0.1):
                client = key.data
                status = client.answer()
                if status is None:
                    continue
                latencies.append(time.perf_counter() - client.began)
                refused += status != 200
                client.begin(next(supply))
        took, used = time.perf_counter() - start, cpu() - before
    for client in clients:
        client.socket.close()
    return result(latencies, len(latencies), took, used / max(1, len(latencies)), refused)
