"""`slm-authz usage`, against a real admin listener of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from slm_authz.admin.api import create_app
from slm_authz.admin.listing import PAGE
from slm_authz.admin.server import HttpServer, Site
from slm_authz.cli.main import main
from slm_authz.quota.usage import UsageQuery, UsageRow

CONFIG = """\
version: 1
listen: {{admin: "{admin}", admin_hosts: [localhost]}}
identity: [{{api_key: {{}}}}]
models: {{m: {{context: 1000, default_output_tokens: 10, max_output_tokens: 100, price: free}}}}
tiers: {{free: {{models: [m], limits: [{{requests: 5, per: minute}}]}}}}
store: {{url: "sqlite:///./slm-authz.db"}}
"""
TOKEN = "the-admin-token"
KEY = "slm_test_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV3q5Muq"
ROWS = [
    UsageRow("free.requests.minute.client", "requests", "client", "acme", None, "minute", 20, 3, 1, 16, "2000-01-01T00:00:00Z"),
    UsageRow("team-budget", "cost", "tenant", "acme", None, "month", "1", "0.25", "0.05", "0.7", "2999-12-01T00:00:00Z"),
    UsageRow("free.concurrent.client", "concurrent", "client", "\x1b[2Jevil", None, None, 2, 0, 1, 1, None),
]


class Desk:
    """A configuration, and perhaps a listener behind it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "slm-authz.yaml"
        self.token_file = directory / "admin.token"
        self.token_file.write_text(f"{TOKEN}\n")
        self.token_file.chmod(0o600)
        self.asked: list[UsageQuery] = []
        self.rows = list(ROWS)
        self.warnings: list[str] = []
        self.server: HttpServer | None = None

    def _usage(self, query: UsageQuery) -> list[UsageRow]:
        self.asked.append(query)
        return self.rows

    def serve(self, path: Path | None = None) -> None:
        app = create_app(TOKEN, ["localhost"], self._usage, lambda: self.warnings, "1")
        self.server = HttpServer([Site("admin", app, "127.0.0.1", 0, path)])
        self.server.start()
        self.point(f"unix:{path}" if path is not None else f"127.0.0.1:{self.server.ports['admin']}")

    def point(self, admin: str) -> None:
        self.config.write_text(CONFIG.format(admin=admin))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in ("SLM_AUTHZ_ADMIN_TOKEN", "SLM_AUTHZ_ADMIN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    one = Desk(tmp_path)
    yield one
    if one.server is not None:
        one.server.stop()


@pytest.fixture
def run(desk: Desk, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["usage", *words, "-c", str(desk.config)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_json_is_the_contracts_with_all_pages(desk: Desk, run: Any) -> None:
    desk.serve()
    desk.rows = [msgspec.structs.replace(ROWS[0], subject=f"c{number}") for number in range(PAGE + 5)]
    code, out, err = run("--output", "json")
    assert (code, err) == (0, "")
    body = msgspec.json.decode(out)
    assert list(body) == ["data", "next_cursor", "warnings"]
    assert [row["subject"] for row in body["data"]] == [row.subject for row in desk.rows]
    assert list(body["data"][0]) == list(UsageRow.__struct_fields__)


def test_the_table_is_for_people(desk: Desk, run: Any) -> None:
    desk.serve()
    code, out, _ = run()
    assert code == 0
    head, first, second, third = out.splitlines()
    assert head.split() == ["NAME", "SUBJECT", "USED", "HELD", "LEFT", "LIMIT", "RESETS", "IN"]
    assert first.split() == ["free.requests.minute.client", "acme", "3", "1", "16", "20", "0s"]
    assert second.split()[:6] == ["team-budget", "acme", "0.25", "0.05", "0.7", "1"]
    assert third.endswith("-")
    assert "\x1b" not in out


def test_filters_are_passed_on(desk: Desk, run: Any) -> None:
    desk.serve()
    run("--client", "a&b=c", "--tenant", "t", "--key", "k", "--model", "m")
    assert desk.asked == [UsageQuery("a&b=c", "t", "k", "m")]


def test_a_model_or_key_that_is_not_there_is_a_no(desk: Desk, run: Any) -> None:
    desk.serve()
    code, out, err = run("--model", "nope")
    assert (code, out) == (1, "")
    assert "There is no model 'nope'. Configured models: m." in err
    desk.rows.clear()
    assert run("--key", "0123456789AB")[0] == 1
    assert run()[0] == 0


@pytest.mark.parametrize(
    "words", [["--key", KEY], ["--key", f"Bearer {KEY}"], ["--key", "slm_"], ["--client", KEY], ["--tenant", KEY]], ids=repr
)
def test_a_key_does_not_travel_in_a_url(desk: Desk, run: Any, words: list[str]) -> None:
    desk.serve()
    code, out, err = run(*words)
    assert (code, out) == (1 if words[0] == "--key" else 2, "")
    assert KEY[22:] not in err
    assert ("Its id is 0123456789AB" in err) == (words[0] == "--key" and KEY in words[1])
    assert desk.asked == []


def test_warnings_are_shown(desk: Desk, run: Any) -> None:
    desk.serve()
    desk.warnings = ["the access log is not wired"]
    _, out, err = run()
    assert "not wired" in err
    assert "not wired" not in out


def test_a_unix_socket_works_too(desk: Desk, run: Any) -> None:
    desk.serve(desk.directory / "admin.sock")
    assert run("--output", "json")[0] == 0


def test_a_service_that_is_not_there_is_a_dependency_with_a_fix(desk: Desk, run: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        desk.point(f"127.0.0.1:{free.getsockname()[1]}")
    code, out, err = run()
    assert (code, out) == (3, "")
    assert "slm-authz serve" in err


def test_a_socket_that_is_not_there_is_a_dependency_too(desk: Desk, run: Any) -> None:
    desk.point(f"unix:{desk.directory}/none.sock")
    assert run()[0] == 3


def test_without_a_token_it_says_how_to_get_one(desk: Desk, run: Any) -> None:
    desk.serve()
    desk.token_file.unlink()
    code, _, err = run()
    assert code == 3
    assert "slm-authz serve" in err


def test_the_environment_goes_before_the_file(desk: Desk, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.serve()
    desk.token_file.unlink()
    other = desk.directory / "elsewhere"
    other.write_text(TOKEN)
    monkeypatch.setenv("SLM_AUTHZ_ADMIN_TOKEN_FILE", str(other))
    assert run()[0] == 0
    monkeypatch.setenv("SLM_AUTHZ_ADMIN_TOKEN", "wrong-token")
    code, _, err = run()
    assert code == 3
    assert "401" in err
    assert "wrong-token" not in err


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_a_token_that_no_header_carries_is_never_printed(desk: Desk, run: Any, token: str) -> None:
    desk.serve()
    desk.token_file.write_text(token)
    code, out, err = run()
    assert code == 3
    assert not token or token not in out + err


@pytest.mark.parametrize(
    "answer",
    [
        b"not http at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\noops",
        b"HTTP/1.1 302 Found\r\nlocation: http://evil.example/\r\ncontent-length: 0\r\n\r\n",
        b"",
    ],
)
def test_another_program_on_the_port_is_told_from_the_service(desk: Desk, run: Any, answer: bytes) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        desk.point(f"127.0.0.1:{other.getsockname()[1]}")

        def reply() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        code, out, err = run()
        thread.join(5)
    assert (code, out) == (3, "")
    assert TOKEN not in err
