"""The HTTP server of both listeners, on real sockets of this machine only."""

from __future__ import annotations

import http.client
import signal
import socket
import stat
import threading
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from slm_authz.admin.server import HttpServer, Site
from slm_authz.errors import DependencyError, PortTaken


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


def tcp(name: str = "admin", port: int = 0) -> Site:
    return Site(name, hello, "127.0.0.1", port)


def unix(path: Path) -> Site:
    return Site("desk", hello, "", 0, path)


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.getheader("server") is None
    body = answer.read()
    connection.close()
    return body


def test_two_listeners_serve_from_one_thread_and_stop(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    server = HttpServer([tcp("admin"), tcp("health"), unix(tmp_path / "s")])
    server.start()
    assert sum(thread.name == "slm-authz-http" for thread in threading.enumerate()) == 1
    assert get(server.ports["admin"]) == get(server.ports["health"]) == b"hi"
    assert signal.getsignal(signal.SIGTERM) is before
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        get(server.ports["health"])
    assert not any(thread.name == "slm-authz-http" for thread in threading.enumerate())


def test_a_taken_port_is_named_and_nothing_stays_open() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port}.*listen\.admin"):
            HttpServer([tcp("health"), tcp("admin", port)])


def test_a_port_can_be_used_again_at_once() -> None:
    first = HttpServer([tcp()])
    first.start()
    port = first.ports["admin"]
    get(port)
    first.stop()
    second = HttpServer([tcp("admin", port)])
    second.stop()


def test_a_unix_socket_is_private_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    server = HttpServer([unix(path)])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    server.stop()
    assert not path.exists()


def test_the_socket_of_a_living_process_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = HttpServer([unix(path)])
    with pytest.raises(PortTaken):
        HttpServer([unix(path)])
    assert path.exists()
    first.stop()


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = HttpServer([unix(path)])
    server.stop()


def test_a_file_in_the_place_of_a_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "slm-authz.db"
    path.write_text("precious")
    with pytest.raises(DependencyError, match="not a socket"):
        HttpServer([unix(path)])
    assert path.read_text() == "precious"


def test_a_connection_on_which_nothing_is_asked_does_not_keep_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_authz.admin.server._IDLE_S", 0.01)
    server = HttpServer([tcp()])
    server.start()
    for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.ports["admin"]), timeout=5) as silent:
            silent.sendall(said)
            while silent.recv(4096):
                pass
    assert get(server.ports["admin"]) == b"hi"
    server.stop()
